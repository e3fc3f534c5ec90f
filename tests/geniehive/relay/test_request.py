"""URLs and heads: what goes out can only be what was meant."""

from __future__ import annotations

import pytest

from geniehive.relay.request import Origin, head, target

TARGETS = {
    "http://h/v1/chat": (Origin("h", 80, False), "/v1/chat", "h"),
    "https://h/": (Origin("h", 443, True), "/", "h"),
    "http://127.0.0.1:18091/v1": (Origin("127.0.0.1", 18091, False), "/v1", "127.0.0.1:18091"),
    "http://[::1]:80/x": (Origin("::1", 80, False), "/x", "[::1]"),
    "https://[fe80::1]:8443": (Origin("fe80::1", 8443, True), "/", "[fe80::1]:8443"),
    "http://H.Example:8/a?b=c%20d": (Origin("h.example", 8, False), "/a?b=c%20d", "h.example:8"),
    "http://bücher.example/": (Origin("xn--bcher-kva.example", 80, False), "/", "xn--bcher-kva.example"),
}
BAD_URLS = [
    "ftp://h/",
    "h:80/x",
    "http:///x",
    "http://u:p@h/",
    "http://h:99999/",
    "http://h/a b",
    "http://h/ä",
    "file:///etc",
]


@pytest.mark.parametrize(("url", "wanted"), TARGETS.items(), ids=TARGETS)
def test_a_url_becomes_origin_path_and_authority(url, wanted):
    origin, path, authority = wanted
    assert target(url) == (origin, f" {path} HTTP/1.1\r\nhost: {authority}\r\n")


@pytest.mark.parametrize("url", BAD_URLS)
def test_a_bad_url_is_refused(url):
    with pytest.raises(ValueError, match=r".+"):
        target(url)


def test_a_head_has_host_headers_and_length():
    sent = head("POST", target("http://h:8/v1?a=b"), {"accept": "*/*", "x-request-id": "1"}, 5)
    assert sent == b"POST /v1?a=b HTTP/1.1\r\nhost: h:8\r\naccept: */*\r\nx-request-id: 1\r\ncontent-length: 5\r\n\r\n"


def test_a_body_without_a_length_is_chunked():
    assert b"\r\ntransfer-encoding: chunked\r\n\r\n" in head("POST", target("http://h/"), {}, None)


def test_a_length_that_was_given_is_not_written_twice():
    assert head("POST", target("http://h/"), {"content-length": "5"}, 5).count(b"content-length") == 1


@pytest.mark.parametrize(
    "headers",
    [{"a": "x\r\nb: y"}, {"a": "x\ny"}, {"a": "x\0"}, {"a b": "c"}, {"": "c"}, {"a:": "c"}, {"A": "c"}, {"ä": "c"},
     {"a\r\nb": "c"}, {"host": "evil"}, {"transfer-encoding": "chunked"}, {"connection": "close"}, {"a": "\u2028"}],
    ids=repr,
)  # fmt: skip
def test_a_header_that_breaks_out_or_frames_is_refused(headers):
    with pytest.raises(ValueError, match=r".+"):
        head("POST", target("http://h/"), headers, 0)


def test_a_method_whose_answer_has_no_body_is_refused():
    with pytest.raises(ValueError, match="HEAD"):
        head("HEAD", target("http://h/"), {}, 0)

"""Forms on any split, and names that must not go on."""

from __future__ import annotations

import email.parser
import email.policy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.multipart import (
    FormEnd,
    MultipartScanner,
    PartBegin,
    PartData,
    PartEnd,
    base_name,
    boundary_of,
    field,
    file_head,
    form_end,
    part_head,
)
from geniehive.errors import InvalidRequest, PayloadTooLarge, UnsupportedMediaType

BOUNDARY = b"b0undary"
values = st.binary(max_size=40) | st.sampled_from([b"", b"\r\n", b"--", b"\r\n--", b"\r\n--b0undar", b"--b0undary"])
names = st.text(st.characters(categories=["L", "N"], include_characters=' "[]'), min_size=1, max_size=8)


def scan(chunks):
    scanner, found = MultipartScanner(BOUNDARY), []
    for each in chunks:
        found += scanner.feed(each)
    scanner.close()
    parts = []
    for event in found:
        match event:
            case PartBegin():
                parts.append([event, b""])
            case PartData():
                parts[-1][1] += event.data
    assert isinstance(found[-1], FormEnd)
    assert sum(isinstance(event, PartEnd) for event in found) == len(parts)
    return parts


@given(st.lists(st.tuples(names, values), max_size=4), st.data())
@settings(max_examples=60)
def test_a_form_written_here_is_read_back_on_any_split(pairs, data):
    pairs = [(name, value) for name, value in pairs if b"\r\n--b0undary" not in b"\r\n" + value]
    whole = b"".join(field(BOUNDARY, name, value) for name, value in pairs)
    head = PartBegin("file", 'a "b".wav', "audio/wav")
    whole += file_head(BOUNDARY, head) + b"RIFF\r\n--b0undar" + b"\r\n" + form_end(BOUNDARY)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    parts = scan([whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)])
    assert [(begin.name, value) for begin, value in parts[:-1]] == [
        (name.strip(), value) for name, value in pairs
    ] or any(name != name.strip() for name, _ in pairs)
    assert parts[-1] == [head, b"RIFF\r\n--b0undar"]


@given(st.lists(st.tuples(st.text("abc[]", min_size=1, max_size=5), values), max_size=4))
@settings(max_examples=40)
def test_what_is_written_here_is_a_form_to_others(pairs):
    pairs = [(name, value) for name, value in pairs if b"\r\n--b0undary" not in b"\r\n" + value]
    whole = b"".join(field(BOUNDARY, name, value) for name, value in pairs) + form_end(BOUNDARY)
    head = b"Content-Type: multipart/form-data; boundary=b0undary\r\n\r\n"
    message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + whole)
    assert [part.get_param("name", header="content-disposition") for part in message.iter_parts()] == [
        name for name, _ in pairs
    ]


@given(st.binary(max_size=200))
def test_no_bytes_break_it(junk):
    scanner = MultipartScanner(BOUNDARY)
    try:
        scanner.feed(b"--b0undary\r\n" + junk)
        scanner.close()
    except InvalidRequest:
        pass


def test_a_file_is_not_held():
    scanner = MultipartScanner(BOUNDARY)
    scanner.feed(file_head(BOUNDARY, PartBegin("file", "a", "audio/wav")))
    passed = sum(len(e.data) for _ in range(100) for e in scanner.feed(b"x" * 65536) if isinstance(e, PartData))
    assert passed > 100 * 65536 - 20
    assert len(scanner._buffer) < 20


TRUNCATED = {
    "nothing": b"",
    "no boundary": b"hello",
    "no end": field(BOUNDARY, "a", b"b"),
    "half a head": b"--b0undary\r\nContent-Dispo",
    "half an end": field(BOUNDARY, "a", b"b") + b"--b0undary-",
}


@pytest.mark.parametrize("data", TRUNCATED.values(), ids=TRUNCATED)
def test_a_form_that_is_cut_short_is_refused(data):
    scanner = MultipartScanner(BOUNDARY)
    scanner.feed(data)
    with pytest.raises(InvalidRequest, match="cut short"):
        scanner.close()


def test_too_many_parts_and_too_large_heads_are_refused():
    with pytest.raises(PayloadTooLarge):
        MultipartScanner(BOUNDARY).feed(field(BOUNDARY, "a", b"") * 65)
    with pytest.raises(InvalidRequest):
        MultipartScanner(BOUNDARY).feed(b"--b0undary\r\nX: " + b"y" * 9000)


@pytest.mark.parametrize(
    ("given_name", "kept"),
    [
        ("a.wav", "a.wav"),
        ("../../etc/passwd", "passwd"),
        ("C:\\temp\\a.wav", "a.wav"),
        ("..", "file"),
        ("", "file"),
        ("dir/", "file"),
        ("ä ö.wav", "ä ö.wav"),
    ],
)
def test_only_the_base_name_goes_on(given_name, kept):
    assert base_name(given_name) == kept


@pytest.mark.parametrize("name", ["a\x00b", "a\r\nb", "a\nX: y", "a\x7f"])
def test_control_characters_in_a_file_name_are_refused(name):
    with pytest.raises(InvalidRequest):
        base_name(name)


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"Content-Type: text/plain",
        b"Content-Disposition: form-data",
        b'Content-Disposition: attachment; name="a"',
        b'Content-Disposition: form-data; name=""',
        b'Content-Disposition: form-data; name="a\x00"',
        b'Content-Disposition: form-data; name="file"; filename="a%0d%0ab"',
        b'Content-Disposition: form-data; name="a\xff"',
        b'Content-Disposition: form-data; name="a"\r\nContent-Transfer-Encoding: base64',
    ],
)
def test_a_head_that_cannot_go_on_is_refused(head):
    with pytest.raises(InvalidRequest):
        part_head(head)


def test_heads_are_read_as_clients_write_them():
    assert part_head(b"content-disposition: form-data; name=a") == PartBegin("a", None, "application/octet-stream")
    found = part_head(b'Content-Disposition: form-data; name="file"; filename="x"; filename*=UTF-8\'\'%C3%A4.wav')
    assert found.filename == "ä.wav"
    odd = part_head(b'Content-Disposition: form-data; name="f"; filename="x"\r\nContent-Type: a/b\r\n c')
    assert odd.content_type == "a/b"


def test_the_boundary_is_taken_from_the_content_type():
    assert boundary_of("multipart/form-data; boundary=abc") == b"abc"
    assert boundary_of('Multipart/Form-Data; charset=x; boundary="a b"') == b"a b"
    with pytest.raises(InvalidRequest):
        boundary_of("multipart/form-data")
    with pytest.raises(UnsupportedMediaType):
        boundary_of("application/json")

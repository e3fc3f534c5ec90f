"""Compressed bodies come out whole, whatever the pieces; bombs come out in pieces."""

from __future__ import annotations

import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geniehive.errors import UpstreamUnavailable
from geniehive.relay.encoding import decoder


def raw_deflate(data):
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


CODINGS = {"gzip": gzip.compress, "x-gzip": gzip.compress, "deflate": zlib.compress, "Deflate": raw_deflate}


def expand(coding, pieces):
    found, one = [], decoder(coding)
    for piece in pieces:
        out = one.decode(piece)
        found.append(out)
        while one.pending:
            found.append(one.decode(b""))
    one.close()
    return b"".join(found)


@given(data=st.binary(max_size=2000), cut=st.integers(1, 50), coding=st.sampled_from(sorted(CODINGS)))
def test_any_split_gives_the_same_bytes(data, cut, coding):
    packed = CODINGS[coding](data)
    assert expand(coding, [packed[at : at + cut] for at in range(0, len(packed), cut)]) == data


def test_two_gzip_members_are_one_body():
    assert expand("gzip", [gzip.compress(b"one") + gzip.compress(b"two")]) == b"onetwo"


def test_a_bomb_goes_off_in_pieces():
    one = decoder("gzip")
    first = one.decode(gzip.compress(b"\0" * 50_000_000))
    assert len(first) <= 1024 * 1024
    assert one.pending


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_rubbish_and_a_cut_body_are_refused(coding):
    with pytest.raises(UpstreamUnavailable):
        decoder(coding).decode(b"\xff\xfe\xfd rubbish")
    with pytest.raises(UpstreamUnavailable):
        expand(coding, [CODINGS[coding](b"hello" * 100)[:-6]])


def test_no_coding_needs_no_decoder_and_an_unknown_one_is_refused():
    assert decoder("identity") is None
    assert decoder("") is None
    with pytest.raises(UpstreamUnavailable, match="br"):
        decoder("br")

"""Streams around others: encodings, limits, and closing."""

from __future__ import annotations

import io
from typing import BinaryIO, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_personal.importers.streams import BoundedStream, CountedStream, Utf8Stream

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufeff"), max_size=30)


@given(TEXT, st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32", "utf-32-le"]), st.integers(1, 9))
def test_any_encoding_is_read_as_utf_8_in_chunks_of_any_size(text: str, encoding: str, size: int) -> None:
    stream = Utf8Stream(io.BytesIO(text.encode(encoding)), encoding)
    chunks = list(iter(lambda: stream.read(size), b""))
    assert b"".join(chunks) == text.encode()
    assert all(len(chunk) <= size for chunk in chunks)


def test_bytes_that_are_not_of_the_encoding_are_replaced() -> None:
    assert Utf8Stream(io.BytesIO(b"a\xff\xc3"), "utf-8").read().decode() == "a\ufffd\ufffd"


def test_a_limit_may_grow_while_it_is_read() -> None:
    limits = iter([2, 4, 6, 7])
    stream = BoundedStream(io.BytesIO(b"abcdefgh"), lambda: next(limits), lambda: OverflowError("too long"))
    assert [stream.read(2) for _ in range(3)] == [b"ab", b"cd", b"ef"]
    with pytest.raises(OverflowError, match="too long"):
        stream.read(2)


def test_all_bytes_are_counted_and_the_source_is_closed_with_the_stream() -> None:
    source, counts = io.BytesIO(b"abcdefgh"), list[int]()
    with io.BufferedReader(CountedStream(source, counts.append)) as stream:
        assert cast(BinaryIO, stream).read() == b"abcdefgh"
    assert sum(counts) == 8
    assert source.closed

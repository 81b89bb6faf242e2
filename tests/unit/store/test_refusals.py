"""What people read when an object is refused."""

from __future__ import annotations

import errno

import pytest

from nbray.core.object_commands import Holding
from nbray.store import refusals

MIB = 1024 * 1024


def test_a_full_store_names_what_fills_it() -> None:
    text = refusals.full(2 * MIB, 9 * MIB, 10 * MIB, MIB, [Holding(b"\xab" * 20, b"owner", 8 * MIB)])

    assert text == (
        "The object store has no room for 2.0 MiB: 9.0 MiB of 10.0 MiB are in use, and the longest free "
        "piece has 1.0 MiB. The largest objects are abababab (8.0 MiB). Delete references and arrays that "
        "you do not need, or start with a larger object_store_memory."
    )


def test_lack_of_memory_names_its_cause() -> None:
    text = refusals.no_memory(
        2 * MIB, 5 * MIB, OSError(errno.ENOMEM, "7 more bytes are needed and 3 may be taken")
    )

    assert "no memory for an object of 2.0 MiB: 7 more bytes are needed and 3 may be taken." in text
    assert "raise the container's limit" in text


def test_an_object_larger_than_the_store_is_told_apart_from_a_negative_size() -> None:
    assert "larger than the whole object store of 1.0 MiB" in refusals.too_large(2 * MIB, MIB)
    assert "size of -1 bytes" in refusals.too_large(-1, MIB)


@pytest.mark.parametrize(
    ("size_bytes", "words"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1536, "1.5 KiB"), (3 * MIB, "3.0 MiB"), (5 << 30, "5.0 GiB")],
)
def test_sizes_are_told_in_the_unit_that_fits(size_bytes: int, words: str) -> None:
    assert refusals.in_words(size_bytes) == words

"""What people read when an object is refused."""

from __future__ import annotations

import errno

import pytest

from nbray.core.object_commands import Holding
from nbray.store import refusals

MIB = 1024 * 1024


def test_a_full_store_says_why_and_lists_what_fills_it() -> None:
    largest = [
        Holding(b"\xab" * 20, b"owner", 8 * MIB, "sealed", 0, True),
        Holding(b"\xcd" * 20, b"owner", 1024, "sealed", 2, False),
        Holding(b"\xef" * 20, b"owner", 0, "spilled"),
    ]

    text = refusals.full(2 * MIB, 9 * MIB, 10 * MIB, MIB, largest, "All of it is in use.")

    assert text == (
        "The object store has no room for 2.0 MiB: 9.0 MiB of 10.0 MiB are in use, and the longest free "
        "piece has 1.0 MiB. All of it is in use. Delete references and arrays that you do not need, or start "
        "with a larger object_store_memory. The largest objects are\n"
        "    abababab     8.0 MiB  sealed, in its owner's hand\n"
        "    cdcdcdcd     1.0 KiB  sealed, read by 2 processes"
    )


@pytest.mark.parametrize(
    ("idle", "may", "disk", "words"),
    [
        (0, True, "", "in use"),
        (MIB, True, "", "1.0 MiB of them could not be moved to the disk in time"),
        (MIB, False, "", "object_spilling=False"),
        (MIB, True, refusals.spill_limit(MIB), "object_spilling_limit is reached: 1.0 MiB"),
        (MIB, True, refusals.disk_full("/d"), "disk of /d has no room"),
        (
            MIB,
            True,
            refusals.disk_refuses("/d", OSError(errno.EROFS, "read-only")),
            "written to /d: read-only",
        ),
    ],
)
def test_a_refusal_says_what_could_not_be_done(idle: int, may: bool, disk: str, words: str) -> None:
    assert words in refusals.why_no_room(idle, can_make_room=may, disk=disk)


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

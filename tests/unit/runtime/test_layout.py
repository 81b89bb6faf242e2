"""The layout of serialized values: what is written is found again, aligned, and damage is noticed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbray.model.limits import STORE_ALIGNMENT_BYTES
from nbray.runtime import bulk_copy
from nbray.runtime.bulk_copy import copy_into
from nbray.runtime.layout import BUFFERED, ERROR, Serialized, take_apart

PICKLES = st.binary(max_size=300).map(lambda body: body + b".")


def laid_out(pickled: bytes, buffers: list[bytes], kind: int = BUFFERED) -> Serialized:
    return Serialized.with_buffers(pickled, [memoryview(b) for b in buffers], [], kind)


@given(PICKLES, st.lists(st.binary(max_size=300), max_size=6), st.sampled_from([BUFFERED, ERROR]))
def test_parts_come_back_aligned_and_equal(pickled: bytes, buffers: list[bytes], kind: int) -> None:
    whole = laid_out(pickled, buffers, kind).to_bytes()

    parts = take_apart(memoryview(whole))

    assert whole[-1] == parts.kind == kind
    assert bytes(parts.pickled) == pickled
    assert [whole[at : at + length] for at, length in parts.extents] == buffers
    assert all(at % STORE_ALIGNMENT_BYTES == 0 for at, _ in parts.extents)


@given(PICKLES, st.lists(st.binary(max_size=300), max_size=6))
def test_writing_in_place_gives_the_same_bytes_as_one_piece(pickled: bytes, buffers: list[bytes]) -> None:
    value = laid_out(pickled, buffers)
    arena = bytearray(value.size_bytes + 10)

    value.write_into(memoryview(arena))

    assert arena[: value.size_bytes] == value.to_bytes()
    assert not any(arena[value.size_bytes :])


@given(st.binary(max_size=200))
def test_damaged_bytes_are_refused_and_never_read_beyond(damaged: bytes) -> None:
    try:
        parts = take_apart(memoryview(damaged))
    except ValueError:
        return

    assert len(parts.pickled) <= len(damaged)
    assert all(at + length <= len(damaged) for at, length in parts.extents)


def test_a_value_without_buffers_is_its_pickle_and_nothing_else() -> None:
    pickled = b"N."

    value = Serialized(pickled)

    assert value.to_bytes() is pickled
    assert value.size_bytes == 2


def test_a_target_that_is_too_small_is_refused_before_anything_is_written() -> None:
    target = bytearray(3)

    with pytest.raises(ValueError, match="do not fit"):
        Serialized(b"abcd.").write_into(memoryview(target))

    assert target == bytes(3)


@pytest.mark.parametrize("extra", [-1, 0, 1, 4097])
def test_large_pieces_are_copied_whole_by_two_threads(extra: int) -> None:
    size = bulk_copy.LARGE_BYTES + extra
    source = (bytes(range(251)) * (size // 251 + 1))[:size]
    target = bytearray(size)

    copy_into(memoryview(target), source)

    assert target == source


def test_an_interrupted_copy_ends_its_second_thread_before_the_interrupt_goes_on() -> None:
    done: list[str] = []

    def copy(name: str, fails: bool) -> None:
        if fails:
            raise KeyboardInterrupt
        done.append(name)

    with pytest.raises(KeyboardInterrupt):
        bulk_copy._in_two_threads(copy, ("first", True), ("second", False))

    assert done == ["second"]

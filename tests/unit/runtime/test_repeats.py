"""Advice on values that are sent by value again and again: told once a line, never without cause."""

from __future__ import annotations

import gc
import logging
import weakref
from typing import Any

import numpy as np
import pytest

from nbray.runtime.context import Place
from nbray.runtime.repeats import LARGE_BYTES, Repeats

PLACE = Place("", 0)


def send(repeats: Repeats, *args: Any, size_bytes: int = LARGE_BYTES, **kwargs: Any) -> None:
    repeats.sent(args, kwargs, size_bytes, PLACE)


def advice(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


@pytest.fixture(autouse=True)
def _warnings(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "nbray")


def test_the_third_time_is_told_with_the_line(caplog: pytest.LogCaptureFixture) -> None:
    repeats, data = Repeats(), np.zeros(LARGE_BYTES, np.uint8)

    send(repeats, data)
    send(repeats, data)
    assert not advice(caplog)
    send(repeats, data)

    (text,) = advice(caplog)
    assert text.startswith(f"{__file__}:")
    assert "the same ndarray of 1.0 MB was sent to a task for the third time" in text
    assert "nbray.put(value)" in text


def test_a_line_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    repeats = Repeats()

    for _ in range(3):
        data = np.zeros(LARGE_BYTES, np.uint8)
        for _ in range(7):
            send(repeats, data)

    assert len(advice(caplog)) == 1


def test_another_line_is_told_again(caplog: pytest.LogCaptureFixture) -> None:
    repeats, one, other = Repeats(), np.zeros(LARGE_BYTES, np.uint8), np.zeros(LARGE_BYTES, np.uint8)

    for _ in range(3):
        repeats.sent((one,), {}, LARGE_BYTES, PLACE)
    for _ in range(3):
        repeats.sent((other,), {}, LARGE_BYTES, PLACE)

    assert len(advice(caplog)) == 2


def test_a_cell_is_named_by_its_number(caplog: pytest.LogCaptureFixture) -> None:
    repeats, data = Repeats(), np.zeros(LARGE_BYTES, np.uint8)

    for _ in range(3):
        repeats.sent((data,), {}, LARGE_BYTES, Place("In[4]", 0))

    assert advice(caplog)[0].startswith("In[4], line ")


def test_new_values_at_the_same_place_are_not_the_same(caplog: pytest.LogCaptureFixture) -> None:
    repeats = Repeats()

    for n in range(10):
        send(repeats, np.full(LARGE_BYTES, n, np.uint8))
        send(repeats, [float(n)] * LARGE_BYTES)
        send(repeats, bytes([n]) * LARGE_BYTES)
        send(repeats, {n: b"x" * LARGE_BYTES})

    assert not advice(caplog)


@pytest.mark.parametrize(
    "value",
    [
        b"x" * LARGE_BYTES,
        "x" * LARGE_BYTES,
        bytearray(LARGE_BYTES),
        [0] * LARGE_BYTES,
        {"a": b"x" * LARGE_BYTES},
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_that_are_no_arrays_are_known_again(caplog: pytest.LogCaptureFixture, value: Any) -> None:
    repeats = Repeats()

    for n in range(3):
        send(repeats, n, value)

    assert len(advice(caplog)) == 1


def test_of_several_arguments_only_the_large_one_is_meant(caplog: pytest.LogCaptureFixture) -> None:
    repeats, small = Repeats(), np.zeros(10)

    for _ in range(5):
        send(repeats, small, np.zeros(LARGE_BYTES, np.uint8))

    assert not advice(caplog)


def test_keyword_arguments_count_as_well(caplog: pytest.LogCaptureFixture) -> None:
    repeats, data = Repeats(), np.zeros(LARGE_BYTES, np.uint8)

    for _ in range(3):
        send(repeats, 1, data=data)

    assert len(advice(caplog)) == 1


def test_less_than_a_megabyte_is_never_told(caplog: pytest.LogCaptureFixture) -> None:
    repeats, data = Repeats(), np.zeros(LARGE_BYTES - 1, np.uint8)

    for _ in range(9):
        send(repeats, data, size_bytes=LARGE_BYTES - 1)
        send(repeats, data, np.zeros(LARGE_BYTES, np.uint8), size_bytes=2 * LARGE_BYTES)

    assert not advice(caplog)


def test_nothing_is_kept_alive_and_what_is_remembered_is_bounded() -> None:
    repeats = Repeats()
    data = np.zeros(LARGE_BYTES, np.uint8)
    gone = weakref.ref(data)
    send(repeats, data)
    del data
    gc.collect()

    assert gone() is None
    many = [np.zeros(LARGE_BYTES, np.uint8) for _ in range(200)]
    for each in many:
        send(repeats, each)
    assert len(repeats._times) <= 64

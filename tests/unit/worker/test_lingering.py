"""Threads that a task left: looked at, given a second, and reported."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from nbray.worker import lingering
from nbray.worker.lingering import LINGER_S, Lingering


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(lingering, "OWN_THREADS", 0)  # here nothing reads sockets
    return now


@pytest.fixture
def thread(request: pytest.FixtureRequest) -> Iterator[threading.Event]:
    end = threading.Event()
    running = threading.Thread(target=end.wait, daemon=getattr(request, "param", False))
    running.start()
    yield end
    end.set()
    running.join()


def test_a_thread_that_goes_on_for_a_second_is_too_long(clock: list[float], thread: threading.Event) -> None:
    left = Lingering()
    left.look()

    assert left.sooner(None) == 100.0 + LINGER_S
    assert left.sooner(100.5) == 100.5
    assert not left.is_too_long()
    clock[0] += LINGER_S
    left.look()
    assert left.is_too_long()


def test_a_thread_that_ended_in_time_is_forgotten(clock: list[float], thread: threading.Event) -> None:
    left = Lingering()
    left.look()
    thread.set()
    for running in threading.enumerate():
        if running is not threading.main_thread() and not running.daemon:
            running.join(5)

    clock[0] += LINGER_S
    assert not left.is_too_long()
    assert left.sooner(None) is None


@pytest.mark.parametrize("thread", [True], indirect=True)
def test_a_daemonic_thread_may_stay(clock: list[float], thread: threading.Event) -> None:
    left = Lingering()
    left.look()

    assert left.since_s is None
    assert left.sooner(7.0) == 7.0

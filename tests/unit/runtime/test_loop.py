"""Wake-ups are not lost between threads, and closing waits for nobody in vain."""

from __future__ import annotations

import threading
import time

from nbray.runtime.loop import Loop
from nbray.runtime.waiting import Waiter

_DEADLINE_S = 5.0


def test_a_deadline_whose_wake_up_another_thread_took_is_kept() -> None:
    # given a loop whose I/O thread sleeps without a deadline
    kept = threading.Event()
    loop = Loop(lambda: None, lambda: None, lambda _now_s: kept.set())
    loop.start()
    try:
        for _ in range(5):
            kept.clear()
            _await_sleep(loop)

            # when a thread arms a deadline, takes the wake-up itself, and leaves before the deadline
            with loop.guard:
                with loop.lock:
                    loop.arm(time.monotonic() + 0.01)
                loop.wait(Waiter(), time.monotonic() + 0.0005)

            # then the I/O thread keeps it
            assert kept.wait(_DEADLINE_S)
    finally:
        loop.close()


def test_a_loop_closes_at_once_while_another_thread_waits_in_it() -> None:
    for _ in range(20):
        # given a thread that leads
        loop = Loop(lambda: None, lambda: None, lambda _now_s: None)
        loop.start()
        ended: list[bool] = []
        thread = threading.Thread(target=_wait_into, args=(loop, ended))
        thread.start()
        until_s = time.monotonic() + _DEADLINE_S
        while not loop.is_led() and time.monotonic() < until_s:
            time.sleep(0.0001)

        # when the loop is closed
        started_s = time.monotonic()
        loop.close()

        # then both threads end, without an error and without a deadline passing
        assert time.monotonic() - started_s < 0.9
        thread.join(_DEADLINE_S)
        assert ended == [False]


def _wait_into(loop: Loop, ended: list[bool]) -> None:
    ended.append(loop.wait(Waiter()))


def _await_sleep(loop: Loop) -> None:
    until_s = time.monotonic() + _DEADLINE_S
    while not (loop._io_asleep and loop._io_until_s is None) and time.monotonic() < until_s:
        time.sleep(0.0005)
    assert loop._io_asleep

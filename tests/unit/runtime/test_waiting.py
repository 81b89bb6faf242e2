"""Looking for a moment before sleeping, only as long as that pays.

Called by:  pytest.
Imports:    nbray.runtime.waiting.
Never:      reads a clock.
"""

from __future__ import annotations

import threading

from nbray.runtime.waiting import Spinning, Waiter


def test_looks_that_pay_go_on() -> None:
    spinning = Spinning()

    for _ in range(100):
        assert spinning.is_worth_it()
        spinning.ended(paid=True)


def test_looks_in_vain_stop_soon() -> None:
    spinning = Spinning()

    looks = 0
    for _ in range(160):
        if spinning.is_worth_it():
            looks += 1
            spinning.ended(paid=False)

    assert looks <= 4 + 160 // 16


def test_looks_come_back_once_they_pay_again() -> None:
    spinning = Spinning()
    while spinning.is_worth_it():
        spinning.ended(paid=False)

    probes = [spinning.is_worth_it() for _ in range(16)]
    assert sum(probes) == 1
    spinning.ended(paid=True)

    assert spinning.is_worth_it()


def test_waiter_that_is_done_before_it_sleeps_does_not_sleep() -> None:
    waiter = Waiter()
    waiter.park()

    waiter.complete()

    waiter.sleep(None)
    assert waiter.done


def test_sleeper_is_woken_by_another_thread() -> None:
    waiter = Waiter()
    waiter.park()
    other = threading.Thread(target=waiter.complete)

    other.start()
    waiter.sleep(10.0)
    other.join()

    assert waiter.done


def test_sleep_ends_by_itself_when_its_time_is_up() -> None:
    waiter = Waiter()
    waiter.park()

    waiter.sleep(0.0)

    assert not waiter.done

"""The mailbox of an event loop: each value is read once, whatever the threads do meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from nbray.runtime.awaiting import Awaited, Mailbox


class FakeLoop:
    """Keeps what it is to call; or calls it at once, as another thread might; or is closed."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], None]] = []
        self.is_quick = False
        self.is_closed = False

    def call_soon_threadsafe(self, function: Callable[[], None]) -> None:
        if self.is_closed:
            raise RuntimeError("Event loop is closed")
        if self.is_quick:
            function()
        else:
            self.calls.append(function)


class Letter:
    """Stands for one await."""

    def __init__(self) -> None:
        self.read = 0

    def resolve(self) -> None:
        self.read += 1


def made() -> tuple[FakeLoop, Mailbox, Callable[[], Letter]]:
    loop = FakeLoop()
    box = Mailbox(cast("asyncio.AbstractEventLoop", loop))

    def post() -> Letter:
        letter = Letter()
        box.post(cast("Awaited", cast("Any", letter)))
        return letter

    return loop, box, post


def test_values_that_arrive_together_wake_the_loop_once() -> None:
    loop, _box, post = made()

    letters = [post() for _ in range(5)]
    assert len(loop.calls) == 1
    loop.calls.pop()()

    assert [letter.read for letter in letters] == [1] * 5
    later = post()
    assert len(loop.calls) == 1
    loop.calls.pop()()
    assert later.read == 1


def test_a_loop_that_opens_the_box_before_the_poster_goes_on_misses_nothing() -> None:
    loop, _box, post = made()
    loop.is_quick = True

    letters = [post() for _ in range(3)]

    assert [letter.read for letter in letters] == [1] * 3


def test_a_closed_loop_reads_nothing_and_keeps_nothing() -> None:
    loop, box, post = made()
    loop.is_closed = True

    letters = [post() for _ in range(3)]

    assert [letter.read for letter in letters] == [0] * 3
    assert not box._arrived
    assert not box.call(lambda: None)


def test_a_mailbox_does_not_keep_its_loop_alive() -> None:
    loop, box, post = made()
    del loop
    letter = post()

    assert letter.read == 0
    assert not box._arrived

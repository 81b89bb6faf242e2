"""Answers of calls that overlap: they leave, in order, when the daemon knows what the calls keep.

Called by:  worker.concurrent.
Imports:    core.references, runtime.{process,waiting}, wire, worker.{owner_links,tidying}.
Never:      blocks: while the daemon is asked, other calls go on.

An owner lets go of a call's arguments when it has the answer. So what the call keeps of them, references and
bytes under views, is with the daemon first: told by a question whose answer says that it was read. What is
told at the end of one call may be another one's. So an answer waits for every question that was asked before.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from nbray.core.references import Entry
from nbray.runtime.process import Process
from nbray.runtime.waiting import Waiter
from nbray.transport.channel import Channel
from nbray.wire.messages import TaskAnswer, TaskCall
from nbray.wire.object_messages import PinObjects
from nbray.worker.owner_links import OwnerLink
from nbray.worker.tidying import Tidying

#: So many answers leave in one message at most; and one with a result that is larger than this at once.
_BATCH_MAX = 64
_BULKY_BYTES = 4096


class Settled(NamedTuple):
    """A call that is over, and what it had borrowed."""

    link: OwnerLink
    call: TaskCall
    answer: TaskAnswer
    borrowed: list[Entry]


class _Question(Waiter):
    """Asked of the daemon; ``settled`` wait for the answer."""

    __slots__ = ("_over", "kept", "settled")

    def __init__(self, settled: list[Settled], kept: list[Entry], over: Callable[[], None]) -> None:
        super().__init__()
        self.settled = settled
        self.kept = kept
        self._over = over

    def complete(self) -> None:
        """Lock held."""
        super().complete()
        self._over()


class Settling:
    """Of one worker. ``answer_nobody`` takes calls whose link leads nowhere; lock held.

    ``over``, set by who wants to know, is called when nothing waits any more; ``may_linger`` says whether
    more answers come soon, so that these may wait a millisecond to leave with them. Both lock held.
    """

    def __init__(self, process: Process, tidying: Tidying, answer_nobody: Callable[[Settled], None]) -> None:
        self.over: Callable[[], None] = lambda: None
        self.may_linger: Callable[[], bool] = lambda: False
        self._process = process
        self._loop = process.loop
        self._table = process.objects.table
        self._tidying = tidying
        self._answer_nobody = answer_nobody
        self._questions: deque[_Question] = deque()

    @property
    def is_busy(self) -> bool:
        return bool(self._questions)

    def settle(self, settled: list[Settled]) -> None:
        """These calls are over, and their frames are gone."""
        borrowed = [entry for one in settled for entry in one.borrowed]
        table = self._table
        if borrowed or table.fresh or table.unconfirmed:
            self._tidying.let_go(borrowed)
        with self._loop.guard, self._loop.lock:
            kept, must_ask = self._tidying.keep(borrowed)
            if must_ask:
                question = _Question(settled, list(kept.values()), self._advance)
                self._questions.append(question)
                if not self._process.questions.ask_later(lambda n: PinObjects(n, list(kept)), question):
                    question.complete()
            elif self._questions:
                self._questions[-1].settled += settled
            else:
                self._send(settled)

    def _advance(self) -> None:
        """An answer came: the daemon reads what it was told in order. Lock held."""
        questions = self._questions
        while questions and questions[0].done:
            question = questions.popleft()
            if question.kept:
                self._process.objects.note_pinned(question.kept)
            self._send(question.settled)
        if not questions:
            self.over()

    def _send(self, settled: list[Settled]) -> None:
        """Lock held."""
        loop = self._loop
        used: dict[int, Channel] = {}
        for one in settled:
            channel, answer = one.link.channel, one.answer
            if channel is None:
                self._answer_nobody(one)
                continue
            used[channel.fd] = channel
            first = answer.results[0] if answer.results else b""
            now = len(channel.rows) >= _BATCH_MAX or type(first) is not bytes or len(first) > _BULKY_BYTES
            loop.send_rows(channel, [answer], now=now)
        now = not self.may_linger()
        for channel in used.values():
            loop.send_rows(channel, [], now=now)

"""Questions to a daemon that is gone: an answer at once that there is none."""

from __future__ import annotations

from nbray.runtime.loop import Loop
from nbray.runtime.questions import Questions
from nbray.wire.base import Message
from nbray.wire.messages import GetStatus


def test_question_after_the_loss_is_neither_sent_nor_waited_for() -> None:
    sent: list[Message] = []
    loop = Loop(lambda: None, lambda: None, lambda _now_s: None)
    loop.start()
    try:
        questions = Questions(loop, sent.append)
        with loop.lock:
            questions.fail_all()

        assert questions.ask(GetStatus) is None
        assert not sent
    finally:
        loop.close()

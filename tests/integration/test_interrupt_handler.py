"""SIGINT's handler belongs to the user: nbray gives it back."""

from __future__ import annotations

import asyncio
import gc
import signal
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

import nbray
from tests.support.sessions import session

pytestmark = pytest.mark.integration


@pytest.fixture(autouse=True)
def _handler_stays_the_tests_own() -> Iterator[None]:
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


def use() -> None:
    @nbray.remote
    def add(x: int) -> int:
        return x + 1

    assert nbray.get(add.remote(1)) == 2


def own_handler(signum: int, frame: Any) -> None:
    raise AssertionError("no signal is sent here")


@pytest.mark.parametrize(
    "handler", [signal.default_int_handler, own_handler, signal.SIG_IGN, signal.SIG_DFL], ids=str
)
def test_handler_is_given_back_at_shutdown(handler: Any) -> None:
    signal.signal(signal.SIGINT, handler)

    with session(num_cpus=1):
        use()

    assert signal.getsignal(signal.SIGINT) == handler


def test_handler_that_the_user_set_meanwhile_is_left_alone() -> None:
    with session(num_cpus=1):
        use()
        signal.signal(signal.SIGINT, own_handler)

    assert signal.getsignal(signal.SIGINT) == own_handler


def test_session_that_another_thread_ended_hands_interrupts_on() -> None:
    nbray.init(num_cpus=1)
    use()

    thread = threading.Thread(target=nbray.shutdown)
    thread.start()
    thread.join()

    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_next_session_does_not_stack_handlers() -> None:
    before = signal.getsignal(signal.SIGINT)

    for _ in range(3):
        with session(num_cpus=1):
            use()

    assert signal.getsignal(signal.SIGINT) is before


def test_an_asyncio_run_that_is_over_is_not_kept_alive_by_our_handler() -> None:
    class Cargo:
        pass

    cargo: list[weakref.ref[Cargo]] = []

    async def main() -> None:
        held = Cargo()
        cargo.append(weakref.ref(held))
        use()
        raise LookupError("its traceback holds what is here")

    signal.signal(signal.SIGINT, signal.default_int_handler)
    with session(num_cpus=1):
        with pytest.raises(LookupError):
            asyncio.run(main())
        gc.collect()

        assert cargo[0]() is None
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        use()
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler


def test_a_session_that_ends_inside_asyncio_run_gives_its_handler_back() -> None:
    async def main() -> None:
        before = signal.getsignal(signal.SIGINT)
        with session(num_cpus=1):
            use()
            assert signal.getsignal(signal.SIGINT) != before
        assert signal.getsignal(signal.SIGINT) == before

    signal.signal(signal.SIGINT, signal.default_int_handler)
    asyncio.run(main())
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler

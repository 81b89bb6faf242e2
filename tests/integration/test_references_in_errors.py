"""References inside errors are counted wherever the error goes: raised, passed on, caught and kept."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import nbray
from tests.support.references import LAST, RefError, last_of, new_object, same
from tests.support.sessions import await_empty_store, await_forgotten, session

pytestmark = pytest.mark.integration
LEAKS_CHECKED_PER = "module"


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    with session(num_cpus=2):
        yield


class InPartsError(RefError):
    """Travels in parts, since it cannot be pickled as a whole."""

    def __init__(self, ref: Any) -> None:
        super().__init__(ref)
        self.lock = threading.Lock()


@nbray.remote
def fail(kind: type[RefError]) -> None:
    raise kind(new_object())


@nbray.remote
def raise_again(kind: type[RefError]) -> None:
    nbray.get(fail.remote(kind))


@nbray.remote
def raise_other(kind: type[RefError]) -> None:
    try:
        nbray.get(fail.remote(kind))
    except RefError as exc:
        raise KeyError("other") from exc


@nbray.remote
def return_error(kind: type[RefError]) -> Any:
    return caught(fail.remote(kind))


@nbray.remote
def take_failed(box: list[Any]) -> list[Any]:
    heir = same.remote(box[0])
    nbray.wait([heir])
    return [heir]


@nbray.remote
def read(error: Any) -> int:
    return last_of(error.ref)


def caught(ref: Any) -> Any:
    try:
        nbray.get(ref, timeout=10)
    except Exception as exc:  # noqa: BLE001  # what it raised is the result
        return exc.with_traceback(None)
    raise AssertionError("it did not fail")


def settled(ref: Any) -> Any:
    """The same reference, after all that was on the way for it has come and gone."""
    nbray.wait([ref], timeout=10)
    gc.collect()
    nbray.get(same.remote(0))
    threading.Event().wait(0.05)
    return ref


WAYS: dict[str, Callable[[type[RefError]], int]] = {
    "raised": lambda kind: last_of(caught(settled(fail.remote(kind))).ref),
    "of an argument": lambda kind: last_of(caught(settled(same.remote(fail.remote(kind)))).ref),
    "of another's argument": lambda kind: last_of(
        caught(settled(nbray.get(take_failed.remote([settled(fail.remote(kind))]))[0])).ref
    ),
    "raised again": lambda kind: last_of(caught(settled(raise_again.remote(kind))).ref),
    "as the cause of another": lambda kind: last_of(
        caught(settled(raise_other.remote(kind))).__cause__.__cause__.ref
    ),
    "returned": lambda kind: last_of(nbray.get(settled(return_error.remote(kind))).ref),
    "put": lambda kind: last_of(nbray.get(settled(nbray.put(caught(fail.remote(kind))))).ref),
    "as an argument": lambda kind: nbray.get(read.remote(caught(fail.remote(kind)))),
}


@pytest.mark.parametrize("kind", [RefError, InPartsError], ids=["whole", "in parts"])
def test_reference_in_an_error_leads_to_its_object_and_lets_go_of_it(kind: type[RefError]) -> None:
    for name, way in WAYS.items():
        assert way(kind) == LAST, name

    await_empty_store()
    await_forgotten()

"""Names of references: found wherever people put them, without running their code or keeping them alive."""

from __future__ import annotations

import functools
import itertools
import sys
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest

from nbray.core.references import Entry
from nbray.runtime.holders import Name, Names, names_of
from nbray.runtime.refs import Home, ObjectRef, make_ref
from nbray.runtime.roots import OUTPUT, TRACEBACK, VARIABLE, Root

HOME = Home(b"p" * 16, lambda: None)
ID = b"o" * 20


def ref_to(object_id: bytes = ID, home: Home = HOME) -> ObjectRef:
    return make_ref(Entry(object_id, None, 1), home)


def walk(*roots: Root, locate: Callable[[int], bytes | None] = lambda _address: None) -> Names:
    return names_of(roots, HOME, locate, lambda: 0.0)


def names_in(value: Any) -> list[str]:
    """By which names the walk finds the object in a variable x."""
    return [name.text for name in walk(Root(VARIABLE, "x", value)).refs.get(ID, [])]


class Pair(NamedTuple):
    left: Any
    right: Any


class Holder:
    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)

    def method(self) -> None: ...


class Slotted:
    __slots__ = ("ref",)

    def __init__(self, ref: ObjectRef) -> None:
        self.ref = ref


def closure_over(value: Any) -> Callable[[], Any]:
    def inner() -> Any:
        return value

    return inner


@pytest.mark.parametrize(
    ("place", "name"),
    [
        (lambda r: r, "x"),
        (lambda r: [0, 1, 2, r], "x[3]"),
        (lambda r: (r,), "x[0]"),
        (lambda r: Pair(1, r), "x[1]"),
        (lambda r: {"k": r}, "x['k']"),
        (lambda r: {7: [r]}, "x[7][0]"),
        (lambda r: {(1, 2): r}, "x[...]"),
        (lambda r: {r: 1}, "x (a key)"),
        (lambda r: defaultdict(list, {"a": [[r]]}), "x['a'][0][0]"),
        (lambda r: OrderedDict(a=r), "x['a']"),
        (lambda r: {r}, "x (in a set)"),
        (lambda r: frozenset({r}), "x (in a set)"),
        (lambda r: deque([1, r]), "x[1]"),
        (lambda r: Holder(best=r), "x.best"),
        (lambda r: Holder(best=[1, r]), "x.best[1]"),
        (lambda r: [Holder(best=r)], "x[0].best"),
        (lambda r: functools.partial(print, r), "x.args[0]"),
        (lambda r: functools.partial(print, end=r), "x.keywords['end']"),
        (closure_over, "x (closure: value)"),
        (lambda r: Holder(get=r).method, "x.__self__.get"),
        (lambda r: np.array([None, r], object), "x[1]"),
        (lambda r: {"k" * 100: r}, "x['kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk...]"),
    ],
)
def test_a_reference_is_found_where_people_put_it(place: Callable[[ObjectRef], Any], name: str) -> None:
    assert names_in(place(ref_to())) == [name]


def test_default_arguments_are_looked_at() -> None:
    ref = ref_to()

    def f(a: Any = ref, *, b: Any = ref) -> None: ...

    assert names_in(f) == ["x.__defaults__[0]", "x.__kwdefaults__['b']"]


def test_an_exception_that_somebody_keeps_names_the_variables_of_its_traceback() -> None:
    def failing(taken: Any) -> None:
        batch = [taken]
        raise ValueError(len(batch))

    error: Exception | None = None
    try:
        failing(ref_to())
    except ValueError as exc:
        error = exc

    assert "x (its traceback: batch in failing())[0]" in names_in(error)


@pytest.mark.parametrize(
    "value",
    [
        Holder(child=Holder(best=ref_to())),  # an instance in an instance
        [[[[[ref_to()]]]]],  # five containers deep
        Slotted(ref_to()),
    ],
)
def test_the_walk_stops_where_it_would_lead_too_far(value: Any) -> None:
    assert names_in(value) == []


def test_references_of_other_sessions_and_those_that_hold_nothing_are_not_named() -> None:
    assert names_in([ObjectRef(ID), ref_to(home=Home(b"q" * 16, lambda: None))]) == []


def test_cycles_end() -> None:
    loop: list[Any] = [ref_to()]
    loop.append(loop)

    assert names_in(loop) == ["x[0]"]


def test_each_kind_of_root_gives_its_own_name() -> None:
    held = [ref_to()]

    found = walk(Root(VARIABLE, "x", held), Root(VARIABLE, "y", held), Root(OUTPUT, "Out[3]", held),
                 Root(TRACEBACK, "batch", held, " in train()"))  # fmt: skip

    assert found.refs[ID] == [
        Name(VARIABLE, "x[0]"), Name(OUTPUT, "Out[3][0]"), Name(TRACEBACK, "batch[0] in train()"),
    ]  # fmt: skip
    assert found.handles[ID] == 1


def test_handles_are_counted_by_instance() -> None:
    one, other = ref_to(), ref_to()

    found = walk(Root(VARIABLE, "x", [one, one, other]))

    assert found.handles[ID] == 2
    assert [name.text for name in found.refs[ID]] == ["x[0]", "x[1]", "x[2]"]


class Hostile:
    """Anything that is asked of it is an accident."""

    def __getattribute__(self, name: str) -> Any:
        raise AssertionError(f"somebody asked for {name}")

    def __len__(self) -> int:
        raise AssertionError

    def __iter__(self) -> Iterator[Any]:
        raise AssertionError

    def __eq__(self, other: object) -> bool:
        raise AssertionError

    def __hash__(self) -> int:
        raise AssertionError


class MadeUp:
    @property
    def __dict__(self) -> dict[str, Any]:  # type: ignore[override]
        raise AssertionError


class HostileList(list[Any]):
    def __iter__(self) -> Iterator[Any]:
        raise AssertionError

    def __len__(self) -> int:
        raise AssertionError


class HostileDict(dict[Any, Any]):
    def items(self) -> Any:
        raise AssertionError

    def __iter__(self) -> Iterator[Any]:
        raise AssertionError


class HostileKey(str):
    __slots__ = ()

    def __repr__(self) -> str:
        raise AssertionError


def test_no_code_of_the_users_runs() -> None:
    hostile = Hostile()
    object.__setattr__(hostile, "best", ref_to())

    assert names_in(hostile) == ["x.best"]
    assert names_in(MadeUp()) == []
    assert names_in(HostileList([ref_to()])) == ["x[0]"]
    assert names_in(HostileDict(a=ref_to())) == ["x['a']"]
    assert names_in({HostileKey("k"): ref_to()}) == ["x[...]"]


def test_a_container_that_changes_meanwhile_is_left_alone() -> None:
    busy = {n: Holder() for n in range(10)}
    values: set[Any] = {object() for _ in range(5_000)}

    def locate(_address: int) -> bytes | None:
        values.clear()
        return None

    found = walk(
        Root(VARIABLE, "s", values), Root(VARIABLE, "a", [np.zeros(1)]),
        Root(VARIABLE, "x", [busy, ref_to()]), locate=locate,
    )  # fmt: skip

    assert not found.complete
    assert [name.text for name in found.refs[ID]] == ["x[1]"]


def test_a_large_container_does_not_use_up_the_time_of_the_others() -> None:
    ticks = itertools.count()
    roots = [Root(VARIABLE, "big", [object()] * 200_000), Root(VARIABLE, "x", [ref_to()])]

    found = names_of(roots, HOME, lambda _address: None, lambda: float(next(ticks)), budget_s=10)

    assert [name.text for name in found.refs[ID]] == ["x[0]"]
    assert not found.complete


def test_arrays_are_named_by_the_memory_that_they_show() -> None:
    base = np.arange(10.0)
    start = base.__array_interface__["data"][0]

    def locate(address: int) -> bytes | None:
        return ID if start <= address < start + base.nbytes else None

    found = walk(
        Root(VARIABLE, "a", base), Root(VARIABLE, "d", {"part": base[5:]}), Root(VARIABLE, "none", base[:0]),
        Root(VARIABLE, "other", base.copy()), locate=locate,
    )  # fmt: skip

    assert [name.text for name in found.arrays[ID]] == ["a", "d['part']"]
    assert found.refs == {}


def test_looking_keeps_nothing_alive() -> None:
    held = [ref_to()]
    before = sys.getrefcount(held[0])

    walk(Root(VARIABLE, "x", held))

    after = sys.getrefcount(held[0])  # (inside an assert, pytest would hold it, too)
    assert after == before

# ruff: noqa: N818, BLE001  (the classes here stand for what users write, who name them as they like)
"""Failures of tasks: whatever user code raises arrives, caught by its own class, with its text."""

from __future__ import annotations

import asyncio
import builtins
import dataclasses
import pickle
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any

import pytest

from nbray.core.references import Entry
from nbray.model import errors
from nbray.model.actor_errors import RayActorError
from nbray.model.errors import (
    NbrayError,
    RayTaskError,
    RayWorkerError,
    SerializationError,
    UnreconstructableError,
)
from nbray.runtime import frozen_exception, pickling
from nbray.runtime.refs import Home, ObjectRef, make_ref, rebuild
from nbray.runtime.serialization import serialize, value_kind
from nbray.runtime.task_errors import (
    deserialize_error,
    references_in,
    serialize_error,
    serialize_system_error,
    text_of,
)


class TwoArguments(Exception):
    def __init__(self, first: str, second: int) -> None:
        super().__init__(f"{first} {second}")
        self.second = second


class KeywordOnly(ValueError):
    def __init__(self, *, code: int) -> None:
        super().__init__(f"code {code}")
        self.code = code


class Prefixing(Exception):
    def __init__(self, text: str) -> None:
        super().__init__("prefix " + text)


class Reducing(Exception):
    def __reduce__(self) -> Any:
        raise RuntimeError("not me")


class ReducingWell(Exception):
    def __init__(self, a: int, b: int) -> None:
        super().__init__("custom")
        self.a, self.b = a, b

    def __reduce__(self) -> Any:
        return ReducingWell, (self.a, self.b)


class Exiting(Exception):
    def __reduce__(self) -> Any:
        raise SystemExit(3)


class Unloadable(Exception):
    def __setstate__(self, state: Any) -> None:
        raise RuntimeError("cannot be read")


class WithLock(Exception):
    def __init__(self, text: str) -> None:
        super().__init__(text, threading.Lock())
        self.lock = threading.Lock()
        self.kept = [1, 2]


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class Exploding(Exception):
    def __str__(self) -> str:
        raise SystemExit(4)


class Slotted(Exception):
    __slots__ = ("code", "unset")

    def __init__(self, code: int) -> None:
        super().__init__("slotted")
        self.code = code


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    code: int


class Clashing(Exception):
    """Calls its own things what ``RayTaskError`` calls other things."""

    def __init__(self) -> None:
        super().__init__("clash")
        self.pid = "mine"
        self.traceback_text = "mine too"

    @property
    def node(self) -> str:
        return "my node"


class Hooked(Exception):
    def __init_subclass__(cls) -> None:
        raise RuntimeError("final")


class Choosy(type):
    def __new__(mcs, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **kwargs: Any) -> Any:
        if len(bases) > 1:
            raise TypeError("one base only")
        return super().__new__(mcs, name, bases, namespace)


class ChoosyError(Exception, metaclass=Choosy):
    pass


class Allocating(Exception):
    def __new__(cls, *, size: int) -> Allocating:  # noqa: PYI034  (Self comes with Python 3.11)
        return super().__new__(cls, size)

    def __init__(self, *, size: int) -> None:
        self.size = size


def failing(exc: BaseException) -> bytes:
    """What the worker sends when user code raises ``exc``."""
    try:
        raise exc
    except BaseException as raised:
        return serialize_error(raised, task_name="train", pid=41, node="ab12")


def arriving(exc: BaseException) -> NbrayError:
    data = failing(exc)
    assert value_kind(data) == "error"
    return deserialize_error(data)


def system_error(code: int) -> OSError:
    return OSError(code, "no such thing", "a.txt")


CASES: dict[str, BaseException] = {
    "plain": ValueError("bad"),
    "no arguments": ValueError(),
    "key": KeyError("k"),
    "os": system_error(2),
    "unicode": UnicodeDecodeError("utf-8", b"x", 0, 1, "why"),
    "import": ImportError("no", name="m"),
    "attribute": AttributeError("no", name="x", obj=threading.Lock()),
    "syntax": SyntaxError("no", ("f.py", 1, 2, "x y")),
    "two arguments": TwoArguments("a", 2),
    "keyword only": KeywordOnly(code=3),
    "prefixing": Prefixing("a"),
    "reduce raises": Reducing("text"),
    "reduce exits": Exiting("text"),
    "own reduce": ReducingWell(1, 2),
    "unloadable": Unloadable("text"),
    "unpicklable member": WithLock("text"),
    "str raises": Mute("text"),
    "str exits": Exploding("text"),
    "slots": Slotted(5),
    "frozen dataclass": Frozen(6),
    "clashing names": Clashing(),
    "init_subclass": Hooked("text"),
    "own new": Allocating(size=3),
    "surrogate": ValueError("\ud800 alone"),
    "nul": ValueError("a\0b"),
    "huge text": ValueError("x" * (10 << 20)),
    "huge args": ValueError([bytes(6 << 20)]),
    "local class": type("Local", (KeyError,), {})("text"),
    "stop": StopIteration(4),
    "stop async": StopAsyncIteration(),
    "interrupt": KeyboardInterrupt(),
    "exit": SystemExit(3),
    "generator exit": GeneratorExit(),
    "cancelled": asyncio.CancelledError("gone"),
    "recursion": RecursionError("deep"),
    "memory": MemoryError(),
    "assertion": AssertionError((1, 2)),
    "warning": UserWarning("careful"),
    "timeout": TimeoutError("late"),
    "base": BaseException("base"),
}


@pytest.mark.parametrize("cause", CASES.values(), ids=list(CASES))
def test_every_failure_is_of_both_classes_and_keeps_its_text(cause: BaseException) -> None:
    error = arriving(cause)

    assert isinstance(error, RayTaskError)
    assert isinstance(error, type(cause))
    assert type(error).__name__ == f"RayTaskError({type(cause).__name__})"
    assert type(cause).__name__ in str(error)
    assert str(error).startswith("task train failed (pid 41, node ab12)\n")
    assert len(str(error)) < 1.1 * 2**20
    assert isinstance(error.__cause__, type(cause))


@pytest.mark.parametrize("cause", CASES.values(), ids=list(CASES))
def test_every_failure_pickles_again_and_can_be_raised_and_printed(cause: BaseException) -> None:
    error = arriving(cause)

    again = pickle.loads(pickle.dumps(error))

    assert type(again) is type(error)
    assert str(again) == str(error)
    with pytest.raises(type(cause)) as caught:
        raise again
    assert str(again).encode() in "".join(traceback.format_exception(caught.value)).encode(
        errors="surrogatepass"
    )


def test_members_of_the_cause_are_members_of_the_error() -> None:
    assert arriving(KeywordOnly(code=3)).code == 3  # type: ignore[attr-defined]
    assert arriving(Slotted(5)).code == 5  # type: ignore[attr-defined]
    assert arriving(Frozen(6)).code == 6  # type: ignore[attr-defined]
    assert arriving(SystemExit(7)).code == 7  # type: ignore[attr-defined]
    assert arriving(StopIteration(8)).value == 8  # type: ignore[attr-defined]
    assert arriving(KeyError("k")).args == ("k",)
    missing: Any = arriving(system_error(2))
    assert isinstance(missing, FileNotFoundError)
    assert (missing.errno, missing.filename) == (2, "a.txt")


def test_the_cause_is_the_original_exception_with_its_text() -> None:
    for name in (
        "plain",
        "two arguments",
        "keyword only",
        "prefixing",
        "os",
        "own reduce",
        "unicode",
        "surrogate",
    ):
        cause = arriving(CASES[name]).__cause__
        assert type(cause) is type(CASES[name])
        assert str(cause) == str(CASES[name])
        assert cause.args == CASES[name].args


def test_of_an_unpicklable_exception_everything_else_is_kept() -> None:
    cause: Any = arriving(WithLock("text")).__cause__

    assert cause.kept == [1, 2]
    assert cause.args == ("text", "<_thread.lock, which cannot be pickled>")
    assert not hasattr(cause, "lock")


def test_names_that_clash_are_the_causes_and_the_text_is_right_all_the_same() -> None:
    error: Any = arriving(Clashing())

    assert (error.pid, error.node) == ("mine", "my node")
    assert "pid 41, node ab12" in str(error)
    assert "clash" in str(error)


@pytest.mark.parametrize(
    "cause", [Exception("plain"), UnreconstructableError(b"o" * 20), ChoosyError("picky")]
)
def test_plain_exceptions_and_system_errors_are_bare_task_errors(cause: Exception) -> None:
    error = arriving(cause)

    assert type(error) is RayTaskError
    assert type(error.__cause__) is type(cause)
    assert error.cause_class_name == type(cause).__name__
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again)) == (RayTaskError, str(error))


def test_repr_shows_both_classes_and_one_line() -> None:
    assert repr(arriving(ValueError("bad"))) == "RayTaskError(ValueError)('ValueError: bad')"
    assert len(repr(arriving(CASES["huge text"]))) < 300


def test_a_class_that_is_gone_leaves_its_name_and_text(monkeypatch: pytest.MonkeyPatch) -> None:
    data = failing(TwoArguments("a", 2))

    monkeypatch.delattr(sys.modules[__name__], "TwoArguments")
    error = deserialize_error(data)

    assert type(error) is RayTaskError
    assert error.cause_class_name == "TwoArguments"
    assert "TwoArguments: a 2" in str(error)
    assert error.__cause__ is None


def test_one_cause_class_has_one_error_class_while_it_is_in_use() -> None:
    one, two = arriving(KeyError("a")), arriving(KeyError("b"))

    assert type(one) is type(two)


# --- text --------------------------------------------------------------------------------------------


def user_function() -> None:
    dict[str, int]()["missing"]


def test_the_text_shows_frames_of_user_code_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nbray.runtime.exception_text._OURS", pytest.__file__)  # cut nothing of ours below
    full = traceback_of(lambda: frozen_exception._readable(Reducing(), [], bool))
    monkeypatch.undo()
    cut = traceback_of(lambda: frozen_exception._readable(Reducing(), [], bool))

    assert "frozen_exception.py" in full
    assert "frozen_exception.py" not in cut
    assert "in __reduce__" in cut
    assert cut.splitlines()[-1] == "RuntimeError: not me"


def traceback_of(action: Callable[[], object]) -> str:
    try:
        action()
    except Exception as error:
        return str(deserialize_error(serialize_error(error, task_name="f", pid=1)))
    raise AssertionError("nothing was raised")


def test_a_huge_text_is_cut_in_the_middle_with_a_marker() -> None:
    text = str(arriving(CASES["huge text"]))

    assert "bytes cut] ..." in text
    assert text.endswith("x")


def test_the_text_of_a_failure_is_the_same_each_time() -> None:
    assert failing(Mute()) == failing(Mute())
    assert " at 0x" not in repr(arriving(WithLock("a")).__cause__)


def test_causes_contexts_and_notes_arrive() -> None:
    def chained() -> None:
        try:
            user_function()
        except KeyError as missing:
            try:
                raise TwoArguments("a", 1) from missing
            except TwoArguments:
                raise ValueError("outer")  # noqa: B904  (a context is what is tested)

    try:
        chained()
    except ValueError as raised:
        raised.__dict__["__notes__"] = ["in cell 3"]
        error = deserialize_error(serialize_error(raised, task_name="f", pid=1))

    outer = error.__cause__
    assert isinstance(outer, ValueError)
    assert isinstance(outer.__context__, TwoArguments)
    assert isinstance(outer.__context__.__cause__, KeyError)
    assert error.__dict__["__notes__"] == ["in cell 3"]
    text = str(error)
    assert text.index("KeyError") < text.index("direct cause") < text.index("During handling")
    assert text.endswith("ValueError: outer")


def test_a_suppressed_context_stays_suppressed() -> None:
    try:
        try:
            user_function()
        except KeyError:
            raise ValueError("outer") from None
    except ValueError as raised:
        error = deserialize_error(serialize_error(raised, task_name="f", pid=1))

    assert "KeyError" not in str(error)


def test_a_chain_of_a_thousand_and_a_cycle_both_arrive_cut() -> None:
    deep = ValueError(0)
    for n in range(1, 1000):
        outer = ValueError(n)
        outer.__cause__ = deep
        deep = outer
    cycle = KeyError("one")
    cycle.__cause__ = KeyError("two")
    cycle.__cause__.__cause__ = cycle

    assert str(arriving(deep)).count("direct cause") == 15
    assert str(arriving(cycle)).count("KeyError") == 2


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exception groups come with Python 3.11")
def test_a_group_arrives_with_its_members_even_if_one_is_unpicklable() -> None:
    group = builtins.ExceptionGroup("several", [WithLock("a"), KeywordOnly(code=2)])  # type: ignore[attr-defined]

    error: Any = arriving(group)

    assert isinstance(error, type(group))
    assert [type(member) for member in error.exceptions] == [WithLock, KeywordOnly]
    assert error.exceptions[1].code == 2


# --- nested tasks, system errors, never failing ------------------------------------------------------------


def test_a_failure_that_passes_through_another_task_keeps_its_root_cause() -> None:
    inner = arriving(KeywordOnly(code=9))

    outer = deserialize_error(serialize_error(inner, task_name="outer", pid=42))
    third = deserialize_error(serialize_error(outer, task_name="third", pid=43))

    assert type(third).__name__ == "RayTaskError(KeywordOnly)"
    assert type(third) is type(inner)
    assert third.code == 9  # type: ignore[attr-defined]
    assert type(third.__cause__) is KeywordOnly
    assert [n for n in ("third", "outer", "train") if f"task {n} failed" in str(third)] == [
        "third",
        "outer",
        "train",
    ]
    assert str(third).count("KeywordOnly: code 9") == 1


def test_a_plain_exception_passes_through_another_task_as_a_bare_error() -> None:
    outer = deserialize_error(serialize_error(arriving(Exception("x")), task_name="outer", pid=42))

    assert type(outer) is RayTaskError
    assert outer.cause_class_name == "Exception"
    assert type(outer.__cause__) is Exception


def test_an_error_raised_from_another_tasks_error_has_it_as_its_cause() -> None:
    inner = arriving(KeyError("k"))
    try:
        raise ValueError("wrapped") from inner
    except ValueError as raised:
        error = deserialize_error(serialize_error(raised, task_name="outer", pid=42))

    assert isinstance(error, ValueError)
    assert not isinstance(error, KeyError)
    assert isinstance(error.__cause__, ValueError)
    assert isinstance(error.__cause__.__cause__, KeyError)


@pytest.mark.parametrize(
    "error",
    [
        RayWorkerError(task_name="f", pid=3, term_signal=11),
        errors.ObjectStoreFullError(needed_bytes=1 << 30),
        errors.RayCancellationError(b"t" * 16),
        errors.OwnerDiedError(b"o" * 20),
        SerializationError(path="result[3].lock", type_name="_thread.lock", reason="TypeError: no"),
    ],
)
def test_a_system_error_that_stands_for_a_value_arrives_as_itself(error: NbrayError) -> None:
    data = serialize_system_error(error)

    again = deserialize_error(data)

    assert value_kind(data) == "error"
    assert type(again) is type(error)
    assert str(again) == str(error)


def test_a_system_error_with_an_unpicklable_field_keeps_its_text() -> None:
    error = RayActorError(class_name="Counter", why="Gone.")
    error.__dict__["extra"] = threading.Lock()

    again = deserialize_error(serialize_system_error(error))

    assert type(again) is NbrayError
    assert str(again) == str(error)


def test_damaged_bytes_give_an_error_that_says_so() -> None:
    for data in (b"", b"E", b"junk" * 10 + b"E", failing(ValueError())[:-20]):
        assert "could not be read" in str(deserialize_error(data))


def test_a_failure_while_the_failure_is_told_still_tells_the_class(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("nbray.runtime.task_errors.freeze", no_memory)

    error = arriving(ValueError("bad"))

    assert type(error) is RayTaskError
    assert "ValueError (its details could not be kept)" in str(error)


def test_an_interrupt_while_a_failure_is_read_reaches_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    data = failing(ValueError("bad"))

    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pickle, "loads", interrupted)
    with pytest.raises(KeyboardInterrupt):
        frozen_exception._read(data)


OWNER = bytes(16)


class Referring:
    """Stands for a session: references can be pickled, and those that are read are noted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.read: list[bytes] = []
        monkeypatch.setattr(pickling, "_reference_type", ObjectRef)
        monkeypatch.setattr(pickling, "_reduce_reference", lambda ref: (rebuild, (ref.binary(), OWNER)))
        monkeypatch.setattr(ObjectRef, "adopt", self.adopt)

    def adopt(self, object_id: bytes, owner: bytes, by_hand: bool) -> ObjectRef:
        assert owner == OWNER
        self.read.append(object_id)
        return self.make(object_id)

    def make(self, object_id: bytes) -> ObjectRef:
        return make_ref(Entry(object_id, OWNER), Home(OWNER, lambda: None))


@pytest.fixture
def referring(monkeypatch: pytest.MonkeyPatch) -> Referring:
    return Referring(monkeypatch)


def test_references_inside_an_exception_are_reported(referring: Referring) -> None:
    one = referring.make(b"1" * 20)
    refs: list[Any] = []

    data = serialize_error(ValueError("with", one), task_name="f", pid=1, refs=refs)

    assert refs == [one]
    assert references_in(data) == [(b"1" * 20, OWNER)]
    assert references_in(serialize_system_error(NbrayError("ours"))) == []


@pytest.mark.parametrize("lock", [(), (threading.Lock(),)], ids=["whole", "in parts"])
def test_references_are_reported_again_by_who_passes_an_error_on(referring: Referring, lock: Any) -> None:
    one = referring.make(b"1" * 20)
    error = deserialize_error(serialize_error(ValueError(one, *lock), task_name="f", pid=1))
    caused = KeyError("other")
    caused.__cause__ = error

    for passed_on in (error, caused):
        refs: list[Any] = []
        data = serialize_error(passed_on, task_name="g", pid=1, refs=refs)
        assert set(refs) == {one}
        assert references_in(data) == [(b"1" * 20, OWNER)]
    assert set(serialize({"error": error}).refs) == {one}


def test_an_error_with_references_can_be_read_without_a_session(
    referring: Referring, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = serialize_error(ValueError("bad", referring.make(b"1" * 20)), task_name="f", pid=1)
    monkeypatch.setattr(ObjectRef, "adopt", None)

    error = deserialize_error(data)

    assert isinstance(error, ValueError)
    assert "bad" in str(error)


def test_the_text_of_an_error_is_told_without_reading_what_is_the_users() -> None:
    class Trap(Exception):
        def __setstate__(self, state: Any) -> None:
            raise AssertionError("it was read")

    assert text_of(failing(Trap("kept"))) == str(arriving(Trap("kept")))
    died = RayWorkerError(task_name="f", term_signal=11)
    assert text_of(serialize_system_error(died)) == str(died)
    assert "could not be read" in text_of(b"damaged")

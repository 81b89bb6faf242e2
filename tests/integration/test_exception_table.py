# ruff: noqa: N818  (the classes here stand for what users write, who name them as they like)
"""Whatever a task raises, its result raises again: the user's own class, its text, its members, its cause.

Every row is a function that raises, run in a worker's process, and what must be true of the exception that
``get`` raises in the driver. The classes are pickled by value, as those of a notebook are.
"""

from __future__ import annotations

import asyncio
import builtins
import dataclasses
import importlib
import pickle
import re
import sys
import textwrap
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import nbray
from nbray.model.errors import RayTaskError, RayWorkerError
from tests.support.sessions import session

pytestmark = pytest.mark.integration
LEAKS_CHECKED_PER = "module"
MIB = 1 << 20


@pytest.fixture(scope="module", autouse=True)
def _cluster() -> Iterator[None]:
    with session(num_cpus=2, log_to_driver=False):
        yield


class Row(NamedTuple):
    """``raises`` runs in the worker; the exception is of class ``kind``, and ``check`` holds of it."""

    raises: Callable[[], Any]
    kind: type[BaseException]
    text: str = ""
    check: Callable[[Any], bool] = lambda _error: True


ROWS: dict[str, Callable[[], Row]] = {}


def row(name: str) -> Callable[[Callable[[], Row]], Callable[[], Row]]:
    def enter(make: Callable[[], Row]) -> Callable[[], Row]:
        ROWS[name] = make
        return make

    return enter


def raising(exc: BaseException) -> Callable[[], None]:
    def fails() -> None:
        raise exc

    return fails


def building(make: Callable[[], BaseException]) -> Callable[[], None]:
    """The same of one that is made in the worker, since it does not travel there as it is."""

    def fails() -> None:
        raise make()

    return fails


def simple(name: str, exc: BaseException, text: str, check: Callable[[Any], bool] = lambda _: True) -> None:
    ROWS[name] = lambda: Row(raising(exc), type(exc), text, check)


# --- Python's own ------------------------------------------------------------------------------------------

simple("ValueError", ValueError("bad", 2), "ValueError: ('bad', 2)", lambda e: e.args == ("bad", 2))
simple("no text", ValueError(), "ValueError")
simple("KeyError", KeyError("k"), "KeyError: 'k'", lambda e: e.args == ("k",))
simple("OSError of a kind", FileNotFoundError(2, "gone", "a.txt"), "gone",
       lambda e: (e.errno, e.filename) == (2, "a.txt"))  # fmt: skip
simple("UnicodeDecodeError", UnicodeDecodeError("utf-8", b"x\xff", 1, 2, "why"), "position 1: why",
       lambda e: e.object == b"x\xff")  # fmt: skip
simple("ImportError", ImportError("no", name="m"), "ImportError: no", lambda e: e.name == "m")
simple("SyntaxError", SyntaxError("no", ("f.py", 3, 2, "x y")), "f.py", lambda e: e.lineno == 3)
simple("AssertionError", AssertionError((1, 2)), "(1, 2)")
simple("MemoryError", MemoryError("much"), "MemoryError")
simple("TimeoutError", TimeoutError("late"), "late")
simple("warning", UserWarning("careful"), "careful")
simple("NumPy's", np.linalg.LinAlgError("singular"), "singular")

# --- kinds that are no Exception ---------------------------------------------------------------------------

simple("KeyboardInterrupt", KeyboardInterrupt("stop"), "KeyboardInterrupt")
simple("GeneratorExit", GeneratorExit(), "GeneratorExit")
simple("BaseException", BaseException("base"), "base")
simple("StopIteration", StopIteration(4), "StopIteration: 4", lambda e: e.value == 4)
simple("StopAsyncIteration", StopAsyncIteration(), "StopAsyncIteration")
simple("CancelledError", asyncio.CancelledError("gone"), "gone")


@row("a BaseException of the user's")
def _() -> Row:
    class Abort(BaseException):
        pass

    return Row(raising(Abort("now")), Abort, "Abort: now")


@row("a plain Exception is a bare RayTaskError")
def _() -> Row:
    return Row(raising(Exception("just that")), RayTaskError, "just that", lambda e: type(e) is RayTaskError)


@row("recursion without end")
def _() -> Row:
    def again() -> None:
        again()

    return Row(again, RecursionError, "maximum recursion depth")


# --- constructors ------------------------------------------------------------------------------------------


@row("constructor with two arguments")
def _() -> Row:
    class TwoArguments(Exception):
        def __init__(self, first: str, second: int) -> None:
            super().__init__(f"{first} and {second}")
            self.second = second

    return Row(raising(TwoArguments("a", 2)), TwoArguments, "a and 2", lambda e: e.second == 2)


@row("keyword-only constructor")
def _() -> Row:
    class KeywordOnly(ValueError):
        def __init__(self, *, code: int) -> None:
            super().__init__(f"code {code}")
            self.code = code

    return Row(raising(KeywordOnly(code=3)), KeywordOnly, "code 3", lambda e: e.code == 3)


@row("constructor that changes the text")
def _() -> Row:
    class Prefixing(Exception):
        def __init__(self, text: str) -> None:
            super().__init__("prefix " + text)

    return Row(raising(Prefixing("a")), Prefixing, "Prefixing: prefix a", lambda e: e.args == ("prefix a",))


@row("__new__ with keywords")
def _() -> Row:
    class Allocating(Exception):
        def __new__(cls, *, size: int) -> Any:
            return super().__new__(cls, size)

        def __init__(self, *, size: int) -> None:
            self.size = size

    return Row(building(lambda: Allocating(size=3)), Allocating, "3", lambda e: e.size == 3)


@row("slots")
def _() -> Row:
    class Slotted(Exception):
        __slots__ = ("code", "unset")

        def __init__(self, code: int) -> None:
            super().__init__("slotted")
            self.code = code

    return Row(raising(Slotted(5)), Slotted, "slotted", lambda e: e.code == 5)


@row("frozen dataclass")
def _() -> Row:
    @dataclasses.dataclass(frozen=True)
    class Frozen(Exception):
        code: int

    def fails() -> None:
        raise Frozen(6)

    return Row(fails, Frozen, "Frozen", lambda e: e.code == 6)


@row("methods and properties")
def _() -> Row:
    class Quota(Exception):
        def __init__(self, left: int) -> None:
            super().__init__(left)
            self.left = left

        @property
        def twice(self) -> int:
            return 2 * self.left

    return Row(raising(Quota(4)), Quota, "4", lambda e: e.twice == 8)


@row("members called as ours are")
def _() -> Row:
    class Clashing(Exception):
        def __init__(self) -> None:
            super().__init__("clash")
            self.pid, self.task_name, self.traceback_text = "mine", "mine too", "and this"

    return Row(raising(Clashing()), Clashing, "clash", lambda e: (e.pid, e.task_name) == ("mine", "mine too"))


@row("two bases")
def _() -> Row:
    class Both(KeyError, ValueError):
        pass

    return Row(
        raising(Both("b")), Both, "'b'", lambda e: isinstance(e, KeyError) and isinstance(e, ValueError)
    )


# --- what does not pickle ----------------------------------------------------------------------------------


@row("unpicklable member")
def _() -> Row:
    class Holding(Exception):
        def __init__(self, text: str) -> None:
            super().__init__(text)
            self.lock, self.kept = threading.Lock(), [1, 2]

    return Row(building(lambda: Holding("text")), Holding, "Holding: text", lambda e: e.kept == [1, 2])


@row("unpicklable argument")
def _() -> Row:
    def fails() -> None:
        raise ValueError("first", threading.Lock())

    return Row(fails, ValueError, "first", lambda e: e.args[0] == "first")


@row("__reduce__ that raises")
def _() -> Row:
    class Reducing(Exception):
        def __reduce__(self) -> Any:
            raise RuntimeError("not me")

    return Row(building(lambda: Reducing("text")), Reducing, "Reducing: text")


@row("__reduce__ that exits")
def _() -> Row:
    class Exiting(Exception):
        def __reduce__(self) -> Any:
            raise SystemExit(3)

    return Row(building(lambda: Exiting("text")), Exiting, "Exiting: text")


@row("__setstate__ that raises")
def _() -> Row:
    class Unloadable(Exception):
        def __setstate__(self, state: Any) -> None:
            raise RuntimeError("cannot be read")

    return Row(building(lambda: Unloadable("text")), Unloadable, "Unloadable: text")


@row("__str__ that raises")
def _() -> Row:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    return Row(raising(Mute("text")), Mute, "Mute")


@row("a class whose module is gone")
def _() -> Row:
    def fails() -> None:
        import types

        module = types.ModuleType("nbray_test_gone")
        exec("class Gone(ValueError):\n    pass", module.__dict__)
        sys.modules["nbray_test_gone"] = module
        gone = module.Gone("its text")
        del sys.modules["nbray_test_gone"]
        raise gone

    return Row(fails, RayTaskError, "its text", lambda e: "Gone" in str(e))


# --- texts -------------------------------------------------------------------------------------------------

simple("lone surrogate", ValueError("a\ud800b"), "ud800", lambda e: e.args == ("a\ud800b",))
simple("NUL", ValueError("a\0b"), "a\\x00b", lambda e: e.args == ("a\0b",))
simple("not ASCII", ValueError("naïve 🚀"), "naïve 🚀")


@row("10 MiB of text")
def _() -> Row:
    return Row(
        building(lambda: ValueError("x" * (10 * MIB))), ValueError, "bytes cut",
        lambda e: MIB // 2 < len(str(e)) < 1.1 * MIB and len(e.args[0]) < 1.1 * MIB,
    )  # fmt: skip


@row("large arguments")
def _() -> Row:
    return Row(building(lambda: ValueError([bytes(6 * MIB)])), ValueError, "ValueError")


# --- what led to it ----------------------------------------------------------------------------------------


@row("cause")
def _() -> Row:
    def fails() -> None:
        try:
            dict[str, int]()["k"]
        except KeyError as exc:
            raise RuntimeError("no setting") from exc

    return Row(fails, RuntimeError, "direct cause", lambda e: isinstance(e.__cause__.__cause__, KeyError))


@row("context")
def _() -> Row:
    def fails() -> None:
        try:
            dict[str, int]()["k"]
        except KeyError:
            raise RuntimeError("while handling")  # noqa: B904

    return Row(
        fails, RuntimeError, "During handling", lambda e: isinstance(e.__cause__.__context__, KeyError)
    )


@row("suppressed context")
def _() -> Row:
    def fails() -> None:
        try:
            dict[str, int]()["k"]
        except KeyError:
            raise RuntimeError("alone") from None

    return Row(fails, RuntimeError, "alone", lambda e: "KeyError" not in str(e))


@row("a chain of a thousand causes")
def _() -> Row:
    def fails() -> None:
        exc: BaseException = ValueError("root")
        for n in range(1000):
            following = ValueError(n)
            following.__cause__ = exc
            exc = following
        raise exc

    return Row(fails, ValueError, "ValueError: 999")


@row("a cause that is the exception itself")
def _() -> Row:
    def fails() -> None:
        exc = ValueError("mine")
        exc.__cause__ = exc
        raise exc

    return Row(fails, ValueError, "mine")


if sys.version_info >= (3, 11):

    @row("notes")
    def _() -> Row:
        def fails() -> None:
            exc = ValueError("noted")
            exc.add_note("see the manual")
            raise exc

        return Row(fails, ValueError, "noted", lambda e: e.__notes__ == ["see the manual"])

    @row("exception group")
    def _() -> Row:
        Group: Any = vars(builtins)["ExceptionGroup"]  # noqa: N806  (from Python 3.11)

        def fails() -> None:
            raise Group("many", [ValueError(1), Group("inner", [TypeError(2)])])

        def check(error: Any) -> bool:
            one, inner = error.exceptions
            return type(one) is ValueError and type(inner.exceptions[0]) is TypeError

        return Row(fails, Group, "many (2 sub-exceptions)", check)


# --- through other tasks -----------------------------------------------------------------------------------


@row("through a chain of tasks")
def _() -> Row:
    class Deep(LookupError):
        pass

    @nbray.remote
    def first() -> None:
        raise Deep("down")

    @nbray.remote
    def middle() -> Any:
        return nbray.get(first.remote())

    def fails() -> Any:
        return nbray.get(middle.remote())

    return Row(fails, Deep, "Deep: down", lambda e: repr(e).count("RayTaskError") == 1)


@row("by way of an argument")
def _() -> Row:
    @nbray.remote
    def first() -> None:
        raise LookupError("first")

    @nbray.remote
    def follows(value: Any) -> Any:
        return value

    def fails() -> Any:
        return nbray.get(follows.remote(follows.remote(first.remote())))

    return Row(fails, LookupError, "first", lambda e: repr(e).count("RayTaskError") == 1)


@row("raised from the error of another task")
def _() -> Row:
    @nbray.remote
    def first() -> None:
        raise LookupError("first")

    def fails() -> None:
        try:
            nbray.get(first.remote())
        except LookupError as exc:
            raise ValueError("second") from exc

    return Row(fails, ValueError, "second", lambda e: isinstance(e.__cause__.__cause__, LookupError))


@row("the death of a child's worker")
def _() -> Row:
    @nbray.remote(max_retries=0)
    def dies() -> None:
        sys.exit(5)

    def fails() -> Any:
        return nbray.get(dies.remote())

    return Row(fails, RayTaskError, "RayWorkerError", lambda e: isinstance(e.__cause__, RayWorkerError))


def test_the_table_has_forty_rows_at_least() -> None:
    assert len(ROWS) >= 40


@nbray.remote
class Raises:
    """What raises, in a method or in the constructor."""

    def __init__(self, raises: Callable[[], Any] | None = None) -> None:
        self.calls = 0
        if raises is not None:
            raises()

    def method(self, raises: Callable[[], Any]) -> Any:
        self.calls += 1
        return raises()

    def count(self) -> int:
        return self.calls


@pytest.mark.parametrize("name", ROWS)
def test_an_exception_arrives_as_what_it_was(name: str) -> None:
    case = ROWS[name]()
    raises = case.raises

    def body() -> Any:
        return raises()

    assert_arrives(case, nbray.remote(body).remote())


@pytest.fixture(scope="module")
def actor(_cluster: None) -> Iterator[Any]:
    """One for all rows: none of them ends it."""
    actor = Raises.remote()
    yield actor
    assert nbray.get(actor.count.remote(), timeout=20) >= 1


@pytest.mark.parametrize("name", ROWS)
def test_an_exception_of_a_method_arrives_as_what_it_was(name: str, actor: Any) -> None:
    case = ROWS[name]()

    assert_arrives(case, actor.method.remote(case.raises))


#: Each needs a process of its own, so these are of the sorts where something could be different.
IN_CONSTRUCTORS = [
    "ValueError", "KeyboardInterrupt", "a BaseException of the user's", "StopIteration",
    "a plain Exception is a bare RayTaskError", "keyword-only constructor", "unpicklable member",
    "__reduce__ that exits", "lone surrogate", "10 MiB of text", "cause", "through a chain of tasks",
]  # fmt: skip


@pytest.mark.parametrize("name", IN_CONSTRUCTORS)
def test_an_exception_of_a_constructor_arrives_with_each_call_as_what_it_was(name: str) -> None:
    case = ROWS[name]()
    made = Raises.remote(case.raises)

    for _ in range(2):
        assert_arrives(case, made.count.remote())


def assert_arrives(case: Row, ref: Any) -> None:
    """``get`` raises what the row says, and it can be looked at."""
    with pytest.raises(case.kind) as caught:
        nbray.get(ref, timeout=20)
    error: Any = caught.value

    assert isinstance(error, RayTaskError)
    assert isinstance(error, nbray.RayError)
    text = str(error)
    assert re.match(r"task \S+ failed \(pid \d+", text)
    assert case.text in text
    assert case.check(error)
    # Frames of the user's code, none of ours; and it can be printed and sent on.
    assert "/nbray/worker/" not in text
    assert "/nbray/runtime/" not in text
    assert "".join(traceback.format_exception(error)).encode("utf-8", "surrogatepass")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == text


def test_a_traceback_shows_the_lines_of_user_code_that_led_there() -> None:
    def inner(n: int) -> float:
        return 1 / n  # the culprit

    def outer() -> float:
        return inner(0)

    with pytest.raises(ZeroDivisionError) as caught:
        nbray.get(nbray.remote(outer).remote(), timeout=20)

    text = str(caught.value)
    assert "return inner(0)" in text
    assert "return 1 / n  # the culprit" in text
    assert text.count("  File ") == 2


def test_a_class_of_a_module_that_the_worker_alone_has_is_a_bare_error_with_its_text(tmp_path: Path) -> None:
    (tmp_path / "nbray_test_theirs.py").write_text(
        textwrap.dedent("""
        class Theirs(ValueError):
            pass
        def fail():
            raise Theirs("from there")
        """)
    )

    def fails(folder: str) -> None:
        import importlib as there

        sys.path.insert(0, folder)
        there.import_module("nbray_test_theirs").fail()

    with pytest.raises(RayTaskError, match="from there") as caught:
        nbray.get(nbray.remote(fails).remote(str(tmp_path)), timeout=20)

    assert "Theirs" in str(caught.value)
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("nbray_test_theirs")

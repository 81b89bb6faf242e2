"""What people hear of actors that fail: pushed errors, why a call is not there, notices, cancel, quotas."""

from __future__ import annotations

import os
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nbray
from nbray.model.actor_errors import ActorQuotaError, RayActorError
from tests.support.sessions import session
from tests.support.waiting import until

pytestmark = pytest.mark.integration
LEAKS_CHECKED_PER = "module"


@pytest.fixture(scope="module", autouse=True)
def _cluster(_module_leaves_nothing_behind: None) -> Iterator[None]:
    with session(num_cpus=2, log_to_driver=False, logging_level="error"):
        yield


@nbray.remote
class Actor:
    def __init__(self, *_values: Any) -> None:
        self.other: Any = None
        self.held: list[Any] = []

    def pid(self) -> int:
        return os.getpid()

    def set_other(self, other: Any) -> None:
        self.other = other

    def around(self, steps: int) -> int:
        """A call of the other, which calls this one, ..."""
        return int(nbray.get(self.other.around.remote(steps - 1))) if steps else 0

    def gets(self, refs: list[Any]) -> Any:
        return nbray.get(refs[0])

    def until_there(self, path: str, *_values: Any) -> str:
        return _until_there(path)


def _until_there(path: str) -> str:
    Path(path + ".began").touch()
    while not os.path.exists(path):
        time.sleep(0.005)
    return path


@nbray.remote
def until_there(path: str) -> str:
    return _until_there(path)


@nbray.remote
def one() -> int:
    return 1


def began(path: Path) -> None:
    until(Path(f"{path}.began").exists, "it began")


def names(ref: Any) -> list[tuple[str, str, str]]:
    """The chain without its objects."""
    return [(x["kind"], x["name"], x["state"]) for x in nbray.why(ref).links if x["kind"] != "object"]


class Pushed:
    """Errors that were pushed since it was made."""

    def __init__(self) -> None:
        self.before = len(nbray.errors())

    def __call__(self, number: int) -> list[tuple[str, str]]:
        until(lambda: len(nbray.errors()) - self.before >= number, f"{number} errors were pushed", 5.0)
        return [(error["type"], error["message"]) for error in nbray.errors()[self.before :]]


# --- pushed errors ----------------------------------------------------------------------------------------


def test_a_failed_constructor_pushes_an_error_and_each_later_call_another_with_its_text() -> None:
    @nbray.remote
    class Fails:
        def __init__(self) -> None:
            raise ValueError("cannot be made")

        def one(self) -> int:
            return 1

    pushed = Pushed()
    actor = Fails.remote()
    assert "cannot be made" in pushed(1)[0][1]

    for number in (2, 3):
        actor.one.remote()
        kind, message = pushed(number)[-1]
        assert kind == "task"
        assert message.startswith("task Fails.one did not run, since its actor could not be made:")
        assert "cannot be made" in message


def test_a_class_that_cannot_be_imported_is_pushed_as_such_and_calls_raise_it() -> None:
    class Needs:
        """Its pickle names a module that is only here."""

        def __reduce__(self) -> Any:
            return __import__, ("nbray_test_only_in_the_driver",)

    needed = Needs()

    @nbray.remote
    class Imports:
        def one(self) -> Any:
            return needed

    pushed = Pushed()
    actor = Imports.remote()
    errors = pushed(2)
    assert sorted(kind for kind, _message in errors) == ["register_actor", "task"]
    assert all("No module named" in message for _kind, message in errors)

    with pytest.raises(RayActorError, match=r"failed to be imported.*cannot execute this method"):
        nbray.get(actor.one.remote(), timeout=10)
    assert pushed(3)[-1][0] == "task"


def test_a_death_is_pushed_once_whether_anybody_called_it_or_not() -> None:
    pushed = Pushed()
    actor = Actor.remote()
    pid = nbray.get(actor.pid.remote(), timeout=10)

    os.kill(pid, signal.SIGKILL)

    ((kind, message),) = pushed(1)
    assert kind == "worker_died"
    assert f"Its process (pid {pid}) died of SIGKILL" in message
    for _ in range(3):
        with pytest.raises(RayActorError):
            nbray.get(actor.pid.remote(), timeout=10)
    assert len(pushed(1)) == 1


def test_a_restart_is_told_with_how_many_are_left() -> None:
    pushed = Pushed()
    actor = Actor.options(max_restarts=2).remote()

    os.kill(nbray.get(actor.pid.remote(), timeout=10), signal.SIGKILL)

    assert pushed(1)[0][1].endswith("It is restarted, and may be 1 more times.")
    assert nbray.get(actor.pid.remote(), timeout=10)


def test_ends_that_were_wanted_push_nothing() -> None:
    @nbray.remote
    class Leaves:
        def go(self) -> None:
            nbray.actor.exit_actor()

    pushed = Pushed()
    killed, leaving, dropped = Actor.remote(), Leaves.remote(), Actor.remote()
    nbray.get([killed.pid.remote(), dropped.pid.remote()], timeout=10)
    del dropped
    nbray.kill(killed)
    for call in (killed.pid, leaving.go, leaving.go):
        with pytest.raises(RayActorError):
            nbray.get(call.remote(), timeout=10)
    with pytest.raises(ValueError, match="a last error"):
        nbray.get(_fails.remote(), timeout=10)

    assert [message for _kind, message in pushed(1) if "a last error" not in message] == []


@nbray.remote
def _fails() -> None:
    raise ValueError("a last error")


# --- cancel -----------------------------------------------------------------------------------------------


def test_a_call_cannot_be_cancelled_here_or_elsewhere_and_goes_on(folder: Path) -> None:
    @nbray.remote
    def cancels(refs: list[Any]) -> None:
        nbray.cancel(refs[0])

    actor = Actor.remote()
    running, queued = actor.until_there.remote(str(folder / "go")), actor.pid.remote()
    began(folder / "go")

    for ref in (running, queued):
        with pytest.raises(TypeError, match=r"is a call of an actor.*nbray\.kill"):
            nbray.cancel(ref)
        with pytest.raises(TypeError, match="is a call of an actor"):
            nbray.get(cancels.remote([ref]), timeout=10)
    (folder / "go").touch()
    assert nbray.get(running, timeout=10) == str(folder / "go")
    assert nbray.get(queued, timeout=10) > 0
    with pytest.raises(TypeError):
        nbray.cancel(running)


# --- why --------------------------------------------------------------------------------------------------


def test_call_behind_others_leads_to_the_one_that_runs_and_into_what_that_gets(folder: Path) -> None:
    actor = Actor.remote()
    first = actor.gets.remote([until_there.remote(str(folder / "go"))])
    refs = [actor.pid.remote() for _ in range(3)]
    began(folder / "go")

    until(lambda: len(names(refs[-1])) == 3, "the chain reaches what runs")
    assert names(refs[-1]) == [
        ("call", "Actor.pid", "pushed"),
        ("call", "Actor.gets", "blocked"),
        ("task", "until_there", "running"),
    ]
    assert "after 3 calls made before it" in str(nbray.why(refs[-1]))
    (folder / "go").touch()
    nbray.get([first, *refs], timeout=10)


def test_calls_behind_one_that_misses_an_argument_lead_there(folder: Path) -> None:
    actor = Actor.remote()
    nbray.get(actor.pid.remote(), timeout=10)
    late = until_there.remote(str(folder / "go"))
    first, second = actor.until_there.remote(str(folder / "go"), late), actor.pid.remote()
    began(folder / "go")

    until(lambda: names(second)[-1][2] == "running", "the chain reaches what runs")
    assert [name for _kind, name, _state in names(second)][:2] == ["Actor.pid", "Actor.until_there"]
    (folder / "go").touch()
    nbray.get([first, second], timeout=10)


def test_call_of_an_actor_that_is_not_up_says_what_the_actor_waits_for(folder: Path) -> None:
    @nbray.remote
    class Slow:
        def __init__(self, path: str, *_values: Any) -> None:
            _until_there(path)

        def one(self) -> int:
            return 1

    argument = until_there.remote(str(folder / "argument"))
    ref = Slow.remote(str(folder / "constructor"), argument).one.remote()
    began(folder / "argument")

    until(lambda: names(ref)[-1][2] == "running", "the chain reaches what runs")
    assert names(ref)[1:] == [("actor", "Actor Slow", "PENDING"), ("task", "until_there", "running")]
    (folder / "argument").touch()
    began(folder / "constructor")
    until(lambda: names(ref)[-1] == ("actor", "Slow.__init__", "running"), "its constructor runs")
    assert "_until_there at test_actor_failures.py" in nbray.why(ref).links[-1]["facts"]["stack"][-1]
    (folder / "constructor").touch()
    assert nbray.get(ref, timeout=10) == 1


def test_call_of_an_actor_without_room_names_who_keeps_it() -> None:
    keeper = Actor.options(num_cpus=2).remote()
    nbray.get(keeper.pid.remote(), timeout=10)
    ref = Actor.options(num_cpus=1).remote().pid.remote()

    until(lambda: "resources" in [kind for kind, _name, _state in names(ref)], "it waits for room")
    busy = nbray.why(ref).links[-1]
    assert busy["facts"]["holders"][0]["task"] == "Actor Actor"
    assert "for its life" in str(nbray.why(ref))
    nbray.kill(keeper)
    assert nbray.get(ref, timeout=10) > 0


# --- said by itself ---------------------------------------------------------------------------------------


def told_within(seconds: float, what: str, begin: Callable[[], Any]) -> str:
    """The notice that comes; others may come, too."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        begin()
        started_s = time.monotonic()
        until(lambda: any(what in str(each.message) for each in caught), "somebody says so", 15.0)
        took_s = time.monotonic() - started_s
    assert took_s <= seconds
    return next(str(each.message) for each in caught if what in str(each.message))


@pytest.mark.slow
def test_actors_that_get_results_of_each_other_are_named_within_five_seconds() -> None:
    first, second = Actor.remote(), Actor.remote()
    nbray.get([first.set_other.remote(second), second.set_other.remote(first)], timeout=10)
    time.sleep(1.0)
    refs: list[Any] = []

    text = told_within(5, "waited for each other", lambda: refs.append(first.around.remote(3)))

    assert text.count("waits in get() or wait() for a result of Actor.around") == 2
    assert "stands behind Actor.around at its actor" in text
    assert names(refs[0])[-1][0] == "cycle"
    nbray.kill(first)
    with pytest.raises(RayActorError):
        nbray.get(refs[0], timeout=10)


@pytest.mark.slow
def test_actor_that_keeps_the_cpus_that_its_own_task_needs_is_told_of_within_five_seconds() -> None:
    actor = Actor.options(num_cpus=2).remote()
    nbray.get(actor.pid.remote(), timeout=10)

    text = told_within(5, "for 3 s", lambda: actor.gets.remote([one.remote()]))

    # Either comes first: that they wait for each other, or that nothing comes free.
    assert "which Actor.gets holds" in text or "Actor Actor keeps all of this node for life" in text
    nbray.kill(actor)
    assert nbray.get(one.remote(), timeout=10) == 1


@pytest.mark.slow
def test_a_stopped_actor_is_told_of_within_ten_seconds() -> None:
    actor = Actor.remote()
    pid = nbray.get(actor.pid.remote(), timeout=10)
    refs: list[Any] = []

    def stop() -> None:
        os.kill(pid, signal.SIGSTOP)
        refs.append(actor.pid.remote())

    text = told_within(10, "is stopped (SIGSTOP)", stop)

    assert f"(pid {pid}), which runs call Actor.pid," in text
    assert f"kill -CONT {pid}" in text
    assert names(refs[0])[-1][2] == "stopped"
    os.kill(pid, signal.SIGCONT)
    assert nbray.get(refs[0], timeout=10) == pid


def test_an_infeasible_actor_is_told_of_once_and_pushed() -> None:
    pushed = Pushed()

    text = told_within(5, "needs 2 GPU", lambda: Actor.options(num_gpus=2).remote())

    assert "Actor Actor needs 2 GPU" in text
    assert [kind for kind, _message in pushed(1)] == ["infeasible_task"]


# --- quotas -----------------------------------------------------------------------------------------------

MIB = 1 << 20


@nbray.remote(memory=100 * MIB, num_cpus=0)
class Holds:
    def __init__(self) -> None:
        self.held: list[Any] = []

    def leave_in_a_cycle(self, size_mib: int) -> int:
        ring: list[Any] = [np.ones(size_mib * MIB // 8)]
        ring.append(ring)
        return size_mib

    def hold(self, size_mib: int) -> int:
        self.held.append(np.ones(size_mib * MIB // 8))
        return size_mib

    def drop(self) -> int:
        self.held = []
        return os.getpid()


@nbray.remote(memory=100 * MIB, num_cpus=0)
class HoldsAsync:
    def __init__(self) -> None:
        self.held: list[Any] = []

    async def hold(self, size_mib: int) -> int:
        self.held.append(np.ones(size_mib * MIB // 8))
        return size_mib

    async def drop(self) -> int:
        self.held = []
        return os.getpid()


@pytest.mark.parametrize("cls", [Holds, HoldsAsync])
def test_an_actor_over_its_quota_fails_its_calls_until_it_holds_less(cls: Any) -> None:
    actor = cls.remote()
    pid = nbray.get(actor.drop.remote(), timeout=10)
    assert nbray.get(actor.hold.remote(60), timeout=10) == 60

    for size_mib in (80, 1):
        with pytest.raises(nbray.RayOutOfMemoryError, match="its memory= allows 100 MiB") as caught:
            nbray.get(actor.hold.remote(size_mib), timeout=10)
        assert isinstance(caught.value, ActorQuotaError)
        assert 130 * MIB < caught.value.held_bytes < 180 * MIB
        assert caught.value.pid == pid

    assert nbray.get(actor.drop.remote(), timeout=10) == pid
    assert nbray.get(actor.hold.remote(60), timeout=10) == 60


def test_what_is_only_in_cycles_does_not_count() -> None:
    actor = Holds.remote()

    assert nbray.get(actor.leave_in_a_cycle.remote(150), timeout=10) == 150
    assert nbray.get(actor.hold.remote(60), timeout=10) == 60

"""How long an actor lives: while somebody can call it, and no longer; ends by its own will and by force."""

from __future__ import annotations

import gc
import os
import pickle
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import nbray
from nbray.model.actor_errors import RayActorError
from tests.support import procfs
from tests.support.drivers import driver, is_gone, recorded
from tests.support.sessions import await_forgotten, session
from tests.support.waiting import until

pytestmark = pytest.mark.integration
LEAKS_CHECKED_PER = "module"

#: What dies with its owner is gone this soon (AC7).
GONE_WITH_OWNER_S = 2.0


@pytest.fixture(scope="module", autouse=True)
def _cluster(_module_leaves_nothing_behind: None) -> Iterator[None]:
    with session(num_cpus=2, log_to_driver=False):
        yield


@pytest.fixture(autouse=True)
def _nothing_is_kept() -> Iterator[None]:
    """Whatever became of the actors of a test: the driver keeps nothing of them, the node no process."""
    yield
    await_forgotten()
    until(lambda: not actor_processes(), "all processes of actors are gone")


def actor_processes() -> list[procfs.Process]:
    gc.collect()
    return [p for p in procfs.descendants(os.getpid()) if p.name.startswith("nbray-") and is_actor(p)]


def is_actor(process: procfs.Process) -> bool:
    return process.name not in ("nbray-node", "nbray-zygote", "nbray-worker")


@nbray.remote
class Worker:
    """An actor of these tests."""

    def __init__(self, *kept: Any) -> None:
        self.kept = list(kept)
        self.calls = 0

    def pid(self) -> int:
        return os.getpid()

    def count(self) -> int:
        self.calls += 1
        return self.calls

    def keep(self, value: Any) -> None:
        self.kept.append(value)

    def drop(self) -> None:
        self.kept.clear()

    def call(self, method: Any) -> Any:
        return nbray.get(method.remote())

    def wait(self, path: str) -> str:
        Path(path + ".begun").touch()
        while not Path(path).exists():
            time.sleep(0.005)
        return "waited"

    def write(self, path: str) -> None:
        Path(path).touch()

    def leave(self) -> None:
        nbray.exit_actor()

    def make(self) -> list[Any]:
        return [Worker.remote()]

    def run(self, function: Callable[..., Any], *args: Any) -> Any:
        return function(*args)


def process_of(actor: Any) -> procfs.Process:
    (process,) = recorded([nbray.get(actor.pid.remote())])
    return process


def await_end(process: procfs.Process, deadline_s: float = 5.0) -> None:
    until(lambda: is_gone(process), f"{process} is gone", deadline_s)


# --- handles ------------------------------------------------------------------------------------------------


def test_it_ends_when_its_last_handle_goes() -> None:
    actor = Worker.remote()
    process = process_of(actor)
    also = [actor, actor]

    del actor
    time.sleep(0.1)
    assert not is_gone(process)
    assert nbray.get(also[0].count.remote()) == 1

    del also
    await_end(process)


def test_it_goes_although_its_driver_has_nothing_else_to_do() -> None:
    actor = Worker.remote()
    process = process_of(actor)
    time.sleep(0.5)  # all threads of nbray in this process sleep now

    del actor

    await_end(process)


def test_calls_that_were_made_before_the_last_handle_went_are_done(folder: Path) -> None:
    refs = Worker.remote().count.remote(), Worker.remote().write.remote(str(folder / "written"))
    actor = Worker.remote()
    calls = [actor.count.remote() for _ in range(1000)]

    del actor

    assert nbray.get(calls) == list(range(1, 1001))
    assert nbray.get(refs[0]) == 1
    until((folder / "written").exists, "a call whose result nobody has was done")


def test_a_call_whose_result_nobody_wants_is_done_before_the_actor_goes(folder: Path) -> None:
    for i in range(20):
        Worker.remote().write.remote(str(folder / str(i)))

    until(lambda: len(list(folder.iterdir())) == 20, "all were done")


def test_a_call_that_waits_for_its_argument_keeps_the_actor(folder: Path) -> None:
    @nbray.remote
    def slow(path: str) -> int:
        while not Path(path).exists():
            time.sleep(0.005)
        return 5

    actor = Worker.remote()
    process = process_of(actor)
    kept = actor.run.remote(abs, slow.remote(str(folder / "go")))
    del actor
    time.sleep(0.15)
    assert not is_gone(process)

    (folder / "go").touch()

    assert nbray.get(kept) == 5
    await_end(process)


def test_a_task_that_has_a_handle_among_its_arguments_keeps_the_actor(folder: Path) -> None:
    @nbray.remote
    def slow(path: str) -> int:
        while not Path(path).exists():
            time.sleep(0.005)
        return 5

    @nbray.remote
    def use(actors: list[Any], _x: int) -> int:
        count: int = nbray.get(actors[0].count.remote())
        return count

    actor = Worker.remote()
    process = process_of(actor)
    result = use.remote([actor], slow.remote(str(folder / "go")))
    del actor
    time.sleep(0.15)
    assert not is_gone(process)
    (folder / "go").touch()

    assert nbray.get(result) == 1
    await_end(process)


def test_a_method_that_was_passed_on_holds_the_actor() -> None:
    actor, holder = Worker.remote(), Worker.remote()
    process = process_of(actor)
    nbray.get(holder.keep.remote(actor.count))
    count = actor.count

    del actor
    time.sleep(0.1)
    assert nbray.get(count.remote()) == 1
    del count
    time.sleep(0.1)
    assert not is_gone(process)

    nbray.get(holder.drop.remote())
    await_end(process)


def test_a_handle_in_another_actor_keeps_it_and_goes_with_that() -> None:
    actor = Worker.remote()
    process = process_of(actor)
    holder = Worker.remote(actor)
    nbray.get(holder.count.remote())

    del actor
    time.sleep(0.1)
    assert not is_gone(process)

    nbray.kill(holder)
    await_end(process)


def test_a_handle_in_a_stored_object_keeps_it() -> None:
    actor = Worker.remote()
    process = process_of(actor)
    box = nbray.put({"actor": actor})

    del actor
    time.sleep(0.1)
    assert not is_gone(process)
    assert nbray.get(nbray.get(box)["actor"].count.remote()) == 1

    del box
    await_end(process)


def test_two_actors_that_hold_each_other_go_when_one_lets_go() -> None:
    one, other = Worker.remote(), Worker.remote()
    processes = [process_of(one), process_of(other)]
    nbray.get([one.keep.remote(other), other.keep.remote(one)])
    nbray.get(one.drop.remote())

    del one
    time.sleep(0.1)
    assert not is_gone(processes[0])  # the other one has a handle
    assert nbray.get(other.count.remote()) == 1

    del other
    for process in processes:
        await_end(process)


def test_an_actor_that_was_never_called_goes_too() -> None:
    for _ in range(5):
        Worker.remote()

    until(lambda: not actor_processes(), "none of them is left")


def test_an_actor_that_goes_was_not_a_failure() -> None:
    actor = Worker.options(max_restarts=-1).remote()
    process = process_of(actor)

    del actor
    await_end(process)
    time.sleep(0.1)

    assert actor_processes() == []


# --- by its own will ----------------------------------------------------------------------------------------


def test_terminate_ends_it_after_the_calls_that_it_was_sent_before() -> None:
    actor = Worker.options(max_restarts=-1).remote()
    process = process_of(actor)

    before = [actor.count.remote() for _ in range(100)]
    end = actor.__ray_terminate__.remote()

    assert nbray.get(before) == list(range(1, 101))
    assert nbray.get(end) is None
    await_end(process)
    with pytest.raises(RayActorError, match="__ray_terminate__"):
        nbray.get(actor.count.remote())


def test_exit_actor_ends_it_without_a_restart() -> None:
    actor = Worker.options(max_restarts=-1, max_task_retries=-1).remote()
    process = process_of(actor)

    before = actor.count.remote()
    with pytest.raises(RayActorError, match="exit_actor"):
        nbray.get(actor.leave.remote(), timeout=10)

    assert nbray.get(before) == 1
    await_end(process)
    with pytest.raises(RayActorError):
        nbray.get(actor.count.remote())


def test_exit_actor_elsewhere_is_a_type_error() -> None:
    @nbray.remote
    def leave() -> None:
        nbray.exit_actor()

    for call in (nbray.exit_actor, lambda: nbray.get(leave.remote())):
        with pytest.raises(TypeError, match="exit_actor"):
            call()


def test_exit_actor_also_ends_it_where_the_method_catches_all_exceptions() -> None:
    @nbray.remote
    class Careful:
        def leave(self) -> str:
            try:
                nbray.exit_actor()
            except Exception:  # noqa: BLE001  # as users do
                return "caught"

    with pytest.raises(RayActorError):
        nbray.get(Careful.remote().leave.remote())


# --- by force -----------------------------------------------------------------------------------------------


def test_kill_ends_it_at_once_whatever_it_does(folder: Path) -> None:
    actor = Worker.remote()
    process = process_of(actor)
    blocked = actor.wait.remote(str(folder / "never"))
    behind = actor.count.remote()
    until((folder / "never.begun").exists, "it blocks")

    nbray.kill(actor)

    for ref in (blocked, behind, actor.count.remote()):
        with pytest.raises(RayActorError, match="kill"):
            nbray.get(ref, timeout=2)
    await_end(process)


def test_no_call_that_was_made_after_a_kill_runs() -> None:
    for _ in range(5):
        actor = Worker.remote()
        nbray.get(actor.count.remote())

        nbray.kill(actor)

        with pytest.raises(RayActorError):
            nbray.get(actor.count.remote(), timeout=5)


def test_a_kill_allows_a_restart_unless_it_is_told_not_to() -> None:
    actor = Worker.options(max_restarts=5).remote()
    first = process_of(actor)
    nbray.get(actor.count.remote())

    nbray.kill(actor)

    assert nbray.get(actor.count.remote(), timeout=5) == 1  # of the new one
    await_end(first)
    nbray.kill(actor, no_restart=True)
    with pytest.raises(RayActorError):
        nbray.get(actor.count.remote(), timeout=5)


def test_the_older_way_to_kill() -> None:
    actor = Worker.remote()
    process = process_of(actor)

    actor.__ray_kill__()

    await_end(process)
    with pytest.raises(RayActorError):
        nbray.get(actor.count.remote())


@pytest.mark.parametrize("wrong", [None, 1, "name", Worker])
def test_kill_takes_handles_alone(wrong: Any) -> None:
    with pytest.raises(ValueError, match="handle"):
        nbray.kill(wrong)


def test_kill_also_ends_one_that_is_not_made_yet(folder: Path) -> None:
    @nbray.remote
    def slow(path: str) -> int:
        while not Path(path).exists():
            time.sleep(0.005)
        return 5

    actor = Worker.remote(slow.remote(str(folder / "go")))
    call = actor.count.remote()

    nbray.kill(actor)

    with pytest.raises(RayActorError, match="kill"):
        nbray.get(call, timeout=5)
    (folder / "go").touch()
    time.sleep(0.1)
    assert actor_processes() == []


def test_kill_ends_a_constructor_that_never_ends(folder: Path) -> None:
    @nbray.remote
    class Stuck:
        def __init__(self, path: str) -> None:
            Path(path).touch()
            time.sleep(600)

        def one(self) -> int:
            return 1

    actor = Stuck.remote(str(folder / "begun"))
    call = actor.one.remote()
    until((folder / "begun").exists, "it is being made")

    nbray.kill(actor)

    with pytest.raises(RayActorError, match="kill"):
        nbray.get(call, timeout=5)


def kill_and_stay(actor: Any) -> None:
    nbray.kill(actor)
    time.sleep(10)


def test_an_actor_may_kill_another_and_itself() -> None:
    one, other = Worker.remote(), Worker.remote()
    nbray.get(other.count.remote())

    nbray.get(one.run.remote(nbray.kill, other))
    with pytest.raises(RayActorError):
        until(lambda: nbray.get(other.count.remote(), timeout=5) is None, "it is dead")

    with pytest.raises(RayActorError):
        nbray.get(one.run.remote(kill_and_stay, one), timeout=5)


# --- failed constructors ------------------------------------------------------------------------------------


def test_each_call_of_one_that_could_not_be_made_raises_what_its_constructor_raised() -> None:
    @nbray.remote
    class Bad:
        def __init__(self, word: str) -> None:
            raise KeyError(f"no {word} here")

        def one(self) -> int:
            return 1

    bad = Bad.remote("luck")

    for ref in [bad.one.remote(), bad.one.remote()]:
        with pytest.raises(KeyError, match="no luck here"):
            nbray.get(ref, timeout=10)
    with pytest.raises(KeyError, match=r"no luck here"):
        nbray.get(bad.one.remote(), timeout=10)

    @nbray.remote
    def call(handle: Any) -> Any:
        return nbray.get(handle.one.remote())

    with pytest.raises(KeyError, match="no luck here"):
        nbray.get(call.remote(bad), timeout=10)


def test_a_constructor_that_raised_is_not_tried_again(folder: Path) -> None:
    @nbray.remote(max_restarts=-1)
    class Bad:
        def __init__(self, path: str) -> None:
            with open(path, "a") as file:
                file.write(".")
            raise ValueError("never")

        def one(self) -> int:
            return 1

    with pytest.raises(ValueError, match="never"):
        nbray.get(Bad.remote(str(folder / "tries")).one.remote(), timeout=10)
    time.sleep(0.1)
    assert (folder / "tries").read_text() == "."


def test_an_argument_of_its_constructor_that_failed_is_the_error_of_each_call() -> None:
    @nbray.remote
    def fail() -> None:
        raise ZeroDivisionError("nothing by nothing")

    actor = Worker.remote(fail.remote())

    for _ in range(2):
        with pytest.raises(ZeroDivisionError, match="nothing by nothing"):
            nbray.get(actor.count.remote(), timeout=10)


def test_what_its_class_cannot_import_is_told_at_each_call(folder: Path) -> None:
    (folder / "here_alone.py").write_text("class Base:\n    def one(self):\n        return 1\n")
    script = f"""
        sys.path.insert(0, {str(folder)!r})
        nbray.init(num_cpus=1)
        sys.path.remove({str(folder)!r})
        import importlib.util
        spec = importlib.util.spec_from_file_location("here_alone_too", {str(folder / "here_alone.py")!r})
        module = importlib.util.module_from_spec(spec)
        sys.modules["here_alone_too"] = module
        spec.loader.exec_module(module)
        bad = nbray.remote(module.Base).remote()
        for _ in range(2):
            try:
                nbray.get(bad.one.remote(), timeout=10)
            except nbray.RayActorError as error:
                tell(str(error))
        nbray.shutdown()
    """
    with driver(script) as running:
        for _ in range(2):
            told = running.told()
            assert "failed to be imported" in told
            assert "cannot execute this method" in told
            assert "No module named" in told


def test_a_constructor_may_take_an_actor_down() -> None:
    @nbray.remote
    class Leaves:
        def __init__(self) -> None:
            nbray.exit_actor()

        def one(self) -> int:
            return 1

    with pytest.raises(RayActorError):
        nbray.get(Leaves.remote().one.remote(), timeout=10)


# --- owners -------------------------------------------------------------------------------------------------


def test_an_actor_dies_with_the_actor_that_made_it() -> None:
    owner = Worker.remote()
    (made,) = nbray.get(owner.make.remote())
    process = process_of(made)
    assert nbray.get(made.count.remote()) == 1

    nbray.kill(owner)

    await_end(process, GONE_WITH_OWNER_S)
    with pytest.raises(RayActorError, match="made it"):
        nbray.get(made.count.remote(), timeout=5)


def test_an_actor_dies_with_the_worker_whose_task_made_it() -> None:
    @nbray.remote(max_retries=0)
    def make() -> tuple[int, list[Any]]:
        return os.getpid(), [Worker.remote()]

    pid, (made,) = nbray.get(make.remote())
    process = process_of(made)

    os.kill(pid, signal.SIGKILL)

    await_end(process, GONE_WITH_OWNER_S)
    with pytest.raises(RayActorError):
        nbray.get(made.count.remote(), timeout=5)


def test_what_an_actor_made_and_nobody_else_has_goes_with_it() -> None:
    owner = Worker.remote()
    pids = nbray.get(owner.run.remote(_makes_a_chain, 3))
    processes = recorded(pids)

    nbray.kill(owner)

    for process in processes:
        await_end(process, GONE_WITH_OWNER_S)


_KEPT: list[Any] = []


def _makes_a_chain(length: int) -> list[int]:
    below = Worker.remote()
    _KEPT.append(below)
    pids: list[int] = nbray.get(below.run.remote(_makes_a_chain, length - 1)) if length > 1 else []
    return [nbray.get(below.pid.remote()), *pids]


@pytest.mark.parametrize("how", ["exit", "shutdown", "kill"])
def test_the_actors_of_a_driver_end_with_it_and_take_their_children_along(how: str) -> None:
    script = f"""
        import subprocess
        nbray.init(num_cpus=1)

        @nbray.remote
        class Parent:
            def spawn(self):
                return os.getpid(), subprocess.Popen(["sleep", "600"], start_new_session=True).pid

        parents = [Parent.remote() for _ in range(2)]
        busy = nbray.remote(Parent._cls).remote()
        tell([pid for pids in nbray.get([p.spawn.remote() for p in parents]) for pid in pids])
        hear()
        if {how!r} == "shutdown":
            nbray.shutdown()
            tell()
            hear()
    """
    with driver(script) as running:
        processes = recorded(running.told())
        if how == "kill":
            running.kill()
        else:
            running.say()
        if how == "shutdown":
            running.told()
        for process in processes:
            await_end(process, GONE_WITH_OWNER_S)


def test_children_of_an_actor_go_with_it() -> None:
    @nbray.remote
    class Parent:
        def spawn(self) -> int:
            import subprocess

            return subprocess.Popen(["sleep", "600"], start_new_session=True).pid

    parent = Parent.remote()
    (child,) = recorded([nbray.get(parent.spawn.remote())])

    nbray.kill(parent)

    await_end(child)


# --- crowds -------------------------------------------------------------------------------------------------


def test_a_hundred_thousand_calls_of_a_dead_actor_all_end_within_two_seconds(
    show: Callable[[str], None],
) -> None:
    actor = Worker.remote()
    refs = [actor.run.remote(time.sleep, 600)]
    refs += [actor.count.remote() for _ in range(100_000)]

    began_s, worked_s = time.monotonic(), time.process_time()
    nbray.kill(actor)
    _ready, rest = nbray.wait(refs, num_returns=len(refs), timeout=30)
    took_s, worked_s = time.monotonic() - began_s, time.process_time() - worked_s

    show(f"100,001 calls of a killed actor ended in {took_s:.2f} s, for {worked_s:.2f} s of work")
    assert rest == []
    assert worked_s < 2  # of this process: others may have the machine meanwhile
    for ref in (refs[0], refs[1], refs[50_000], refs[-1]):
        with pytest.raises(RayActorError):
            nbray.get(ref)


def test_many_actors_are_made_called_and_gone() -> None:
    actors = [Worker.remote() for _ in range(40)]

    assert nbray.get([actor.count.remote() for actor in actors]) == [1] * 40

    del actors
    until(lambda: not actor_processes(), "all are gone")


def test_a_handle_of_another_session_is_told_from_others() -> None:
    script = """
        nbray.init(num_cpus=1)

        @nbray.remote
        class One:
            def one(self):
                return 1

        old = One.remote()
        assert nbray.get(old.one.remote()) == 1
        method = old.one
        nbray.shutdown()
        nbray.init(num_cpus=1)
        for call in (lambda: old.one.remote(), lambda: method.remote(), lambda: nbray.kill(old),
                     lambda: nbray.get(nbray.remote(lambda h: 1).remote(old)), lambda: nbray.put(old)):
            try:
                call()
            except nbray.StaleSessionError:
                tell("stale")
            except Exception as exc:
                tell(repr(exc))
        tell(nbray.get(One.remote().one.remote()))
        nbray.shutdown()
        try:
            One.remote()
        except nbray.RayConnectionError:
            tell("no session")
        try:
            method.remote()
        except nbray.RayConnectionError:
            tell("no session")
    """
    with driver(script) as running:
        assert [running.told() for _ in range(5)] == ["stale"] * 5
        assert running.told() == 1
        assert [running.told() for _ in range(2)] == ["no session"] * 2


def test_before_init_a_class_can_be_defined_but_no_actor_made() -> None:
    script = """
        @nbray.remote
        class One:
            def one(self):
                return 1

        for call in (One.remote, lambda: nbray.kill(1), lambda: nbray.get_actor("x"), nbray.exit_actor):
            try:
                call()
            except Exception as exc:
                tell(type(exc).__name__)
        nbray.init(num_cpus=1)
        tell(nbray.get(One.remote().one.remote()))
        nbray.shutdown()
    """
    with driver(script) as running:
        names = [running.told() for _ in range(4)]
        assert names == ["RayConnectionError", "ValueError", "RayConnectionError", "RayConnectionError"]
        assert running.told() == 1


def test_handles_pickled_by_hand_hold_the_actor_as_long_as_their_process_lives() -> None:
    holder = Worker.remote()
    actor = Worker.remote()
    process = process_of(actor)
    pickled = nbray.get(holder.run.remote(pickle.dumps, actor))

    del actor
    time.sleep(0.1)
    assert not is_gone(process)
    assert nbray.get(pickle.loads(pickled).count.remote()) == 1

    nbray.kill(holder)
    await_end(process)

"""Actors that are killed come back with the state of a checkpoint, and what they were told since then."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

import nbray
from nbray.actor import Checkpoint, Checkpointable, CheckpointContext
from nbray.wire.actor_messages import ActorList, GetActors, KillActor
from tests.support import procfs
from tests.support.sessions import await_forgotten, session, store_is_empty, this_process
from tests.support.waiting import until

pytestmark = pytest.mark.integration
LEAKS_CHECKED_PER = "module"

#: ``NBRAY_TEST_KILLS=200`` runs the whole of the long test.
KILLS = int(os.environ.get("NBRAY_TEST_KILLS", "25"))
ALWAYS: dict[str, Any] = {"max_restarts": -1, "max_task_retries": -1}


@pytest.fixture(autouse=True, scope="module")
def cluster(_module_leaves_nothing_behind: None) -> Iterator[None]:
    with session(num_cpus=4, log_to_driver=False):
        yield


@pytest.fixture(name="folder")
def folder_of_actors(folder: Path) -> Iterator[Path]:
    """No actor writes into it any more when it goes."""
    yield folder
    process = this_process()
    for facts in actors():
        if facts.state != "DEAD":
            with process.loop.guard, process.loop.lock:
                process.tell_daemon(KillActor(facts.actor_id, facts.owner, True))
    until(
        lambda: all(one.state == "DEAD" and not procfs.process(one.pid) for one in actors()),
        "no actor is left",
    )


def remote(cls: type, checkpoint_interval: int | None = None) -> Any:
    """Actors of a class, which are restarted and called again without end."""
    return nbray.remote(checkpoint_interval=checkpoint_interval, **ALWAYS)(cls)


class Counting:
    """It notes in a file what it did in which of its lives."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.total = 0
        self.note("made")

    def note(self, word: str) -> None:
        with open(self.path, "a") as file:
            file.write(f"{word}\n")

    def add(self, number: int = 1) -> int:
        self.total += number
        self.note(f"add {self.total}")
        return self.total

    def pid(self) -> int:
        return os.getpid()

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def fail(self) -> None:
        self.total += 1
        raise ValueError("on purpose")

    def grow(self, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        self.total += int(array[0])
        return array + self.total


Counter = remote(Counting, 5)


class Saving(Counting):
    """It says itself what its state is."""

    def __ray_save__(self) -> dict[str, Any]:
        self.note("save")
        return {"path": self.path, "total": self.total}

    def __ray_restore__(self, state: dict[str, Any]) -> None:
        self.path, self.total = state["path"], state["total"]
        self.note(f"restore {self.total}")


class Stubborn(Saving):
    def __ray_save__(self) -> dict[str, Any]:
        raise ValueError("it will not be saved")


class Forgetful(Saving):
    def __ray_restore__(self, state: dict[str, Any]) -> None:
        raise ValueError("it cannot be restored")


def words(path: Path) -> list[str]:
    return path.read_text().splitlines()


def kill(actor: Any) -> None:
    """As a crash would; the next call is on its way while it is down."""
    pid = nbray.get(actor.pid.remote())
    os.kill(pid, signal.SIGKILL)


def checkpoints_of(actor: Any) -> list[Path]:
    """The files of its checkpoints, the newest first."""
    folder = Path(this_process().welcome.session_dir) / "checkpoints" / actor._actor_id.hex()
    return sorted(folder.glob("*"), key=lambda path: path.stat().st_mtime_ns, reverse=True)


def has_checkpoints(actor: Any, number: int) -> bool:
    return len(checkpoints_of(actor)) == number


def after_covered(actor: Any) -> None:
    """The driver has heard of the last checkpoint."""
    route = this_process().actors.routes[actor._actor_id.binary()]
    until(lambda: not route.kept.calls, "a checkpoint covers all calls")


# --- every n calls ------------------------------------------------------------------------------------


def test_it_comes_back_with_the_last_checkpoint_and_what_came_after_it_runs_again(folder: Path) -> None:
    path = folder / "log"
    counter = Counter.remote(str(path))
    assert nbray.get([counter.add.remote() for _ in range(12)]) == list(range(1, 13))

    kill(counter)  # asking for its pid was a call, too

    assert nbray.get(counter.add.remote(), timeout=10) == 13
    told = words(path)
    assert told.count("made") == 1  # it is pickled whole
    assert told[:13] == ["made", *(f"add {n}" for n in range(1, 13))]
    assert told[13:] == ["add 11", "add 12", "add 13"]


def test_its_own_methods_save_and_restore_without_the_constructor(folder: Path) -> None:
    path = folder / "log"
    counter = remote(Saving, 3).remote(str(path))
    nbray.get([counter.add.remote() for _ in range(7)])

    kill(counter)

    assert nbray.get(counter.add.remote(), timeout=10) == 8
    told = words(path)
    assert told.count("made") == 1
    assert told[told.index("restore 6") :][:3] == ["restore 6", "add 7", "add 8"]


def test_results_that_were_seen_do_not_change_when_their_calls_run_again(folder: Path) -> None:
    class Dice:
        def throw(self, size: int) -> Any:
            return np.random.default_rng().random(size)

        def pid(self) -> int:
            return os.getpid()

    dice = remote(Dice, 100).remote()
    refs = [dice.throw.remote(1), dice.throw.remote(100_000)]
    before = [value.copy() for value in nbray.get(refs)]

    kill(dice)
    nbray.get(dice.pid.remote(), timeout=10)

    assert all(np.array_equal(*pair) for pair in zip(before, nbray.get(refs), strict=True))

    @nbray.remote
    def as_others_see_it(value: Any) -> Any:
        return value.sum()

    assert nbray.get(as_others_see_it.remote(refs[1])) == before[1].sum()
    del refs, before
    until(store_is_empty, "what the calls made when they ran again is gone")


def test_large_arguments_are_held_until_a_checkpoint_covers_their_calls(folder: Path) -> None:
    counter = Counter.remote(str(folder / "log"))
    array = np.full(100_000, 7)
    nbray.get([counter.grow.remote(array), counter.grow.remote(nbray.put(array))])
    assert not store_is_empty()

    kill(counter)

    assert nbray.get(counter.add.remote(0), timeout=10) == 14
    nbray.get([counter.add.remote() for _ in range(5)])
    until(store_is_empty, "nobody needs the arguments any more")


def test_calls_that_fail_count_and_fail_again_in_silence(folder: Path) -> None:
    counter = Counter.remote(str(folder / "log"))
    failing = [counter.fail.remote() for _ in range(3)]
    with pytest.raises(ValueError, match="on purpose"):
        nbray.get(failing[2])

    kill(counter)

    assert nbray.get(counter.add.remote(), timeout=10) == 4
    with pytest.raises(ValueError, match="on purpose"):
        nbray.get(failing[0])


def test_an_array_in_the_state_can_be_written_to_after_a_restart() -> None:
    class Weights:
        def __init__(self) -> None:
            self.values = np.zeros(1000)

        def train(self) -> float:
            self.values += 1
            return float(self.values.sum())

        def pid(self) -> int:
            return os.getpid()

    weights = remote(Weights, 1).remote()
    assert nbray.get(weights.train.remote()) == 1000

    kill(weights)

    assert nbray.get(weights.train.remote(), timeout=10) == 2000


def test_without_retries_calls_since_the_checkpoint_are_lost(folder: Path) -> None:
    path = folder / "log"
    counter = Counter.options(max_task_retries=0).remote(str(path))
    nbray.get([counter.add.remote() for _ in range(8)])

    kill(counter)

    until(lambda: answers(counter), "it is back")
    assert nbray.get(counter.add.remote()) == 6


def answers(actor: Any) -> bool:
    try:
        nbray.get(actor.pid.remote(), timeout=10)
    except nbray.RayActorError:
        return False
    return True


def test_a_call_that_was_given_up_leaves_no_gap(folder: Path) -> None:
    """It takes the process down each time it runs: after its last attempt it never runs again."""
    counter = Counter.options(max_task_retries=1, checkpoint_interval=4).remote(str(folder / "log"))
    nbray.get([counter.add.remote() for _ in range(6)])

    with pytest.raises(nbray.RayActorError):
        nbray.get(counter.die.remote(), timeout=10)

    assert nbray.get(counter.add.remote(), timeout=10) == 7
    kill(counter)
    assert nbray.get([counter.add.remote() for _ in range(3)], timeout=10) == [8, 9, 10]
    kill(counter)
    assert nbray.get(counter.add.remote(), timeout=10) == 11


# --- what fails ---------------------------------------------------------------------------------------


def test_a_state_that_cannot_be_saved_is_reported_and_everything_runs_again(folder: Path) -> None:
    path = folder / "log"
    counter = remote(Stubborn, 3).remote(str(path))
    assert nbray.get([counter.add.remote() for _ in range(10)])[-1] == 10

    kill(counter)

    assert nbray.get(counter.add.remote(), timeout=10) == 11
    assert words(path).count("made") == 2
    until(lambda: reported("could not be saved") and reported("it will not be saved"), "it is reported")


def reported(text: str) -> bool:
    """Whether a worker of this session said so."""
    logs = Path(this_process().welcome.session_dir) / "logs"
    return any(text in path.read_text() for path in logs.glob("worker-*.log"))


def test_a_state_that_cannot_be_restored_means_that_everything_runs_again(folder: Path) -> None:
    path = folder / "log"
    counter = remote(Forgetful, 3).remote(str(path))
    assert nbray.get([counter.add.remote() for _ in range(10)])[-1] == 10

    kill(counter)

    assert nbray.get(counter.add.remote(), timeout=10) == 11
    assert words(path).count("made") == 2
    until(lambda: reported("it cannot be restored"), "it is reported")


def test_calls_that_nobody_keeps_any_more_are_missed_aloud(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    counter = remote(Forgetful, 3).remote(str(folder / "log"))
    ref = nbray.put(1)
    assert nbray.get([counter.add.remote(ref) for _ in range(4)])[-1] == 4

    kill(counter)

    assert nbray.get(counter.add.remote(), timeout=10) == 2  # the fourth runs again, and this one
    until(lambda: "3 calls from here are missing in its state" in caplog.text, "it is reported")


@pytest.mark.parametrize("damage", [b"", b"half"], ids=["empty", "torn"])
def test_a_damaged_file_is_not_restored_but_the_one_before_it(folder: Path, damage: bytes) -> None:
    path = folder / "log"
    counter = remote(Saving, 3).remote(str(path))
    nbray.get([counter.add.remote() for _ in range(10)])
    newest = checkpoints_of(counter)[0]
    content = newest.read_bytes()
    newest.write_bytes(content[: len(content) // 2] if damage else b"")

    os.kill(pid_by_title(counter), signal.SIGKILL)

    assert nbray.get(counter.add.remote(), timeout=10) == 11
    assert [word for word in words(path) if word.startswith(("made", "restore"))] == ["made", "restore 6"]


def pid_by_title(actor: Any) -> int:
    """Without a call."""
    (pid,) = (facts.pid for facts in actors() if facts.actor_id == actor._actor_id.binary())
    return int(pid)


def actors() -> list[Any]:
    reply = this_process().ask(GetActors)
    assert isinstance(reply, ActorList)
    return reply.actors


def test_checkpoints_go_with_the_actor(folder: Path) -> None:
    counter = Counter.remote(str(folder / "log"))
    nbray.get([counter.add.remote() for _ in range(20)])
    after_covered(counter)
    until(partial(has_checkpoints, counter, 2), "the older ones are gone")
    directory = checkpoints_of(counter)[0].parent
    assert directory.stat().st_mode & 0o777 == 0o700

    del counter

    until(lambda: not directory.exists(), "its folder is gone")
    await_forgotten()


# --- who says itself when -------------------------------------------------------------------------------


class Ledger(Checkpointable):
    """Its checkpoints are files in a folder."""

    def __init__(self, folder: str, every: int = 5) -> None:
        self.folder = Path(folder)
        self.every = every
        self.total = 0
        self.contexts: list[CheckpointContext] = []
        self.note("made")

    def note(self, word: str) -> None:
        with open(self.folder / "log", "a") as file:
            file.write(f"{word}\n")

    def add(self) -> int:
        self.total += 1
        return self.total

    def pid(self) -> int:
        return os.getpid()

    def told(self) -> list[CheckpointContext]:
        return self.contexts

    def should_checkpoint(self, checkpoint_context: CheckpointContext) -> bool:
        self.contexts.append(checkpoint_context)
        return checkpoint_context.num_tasks_since_last_checkpoint >= self.every

    def save_checkpoint(self, actor_id: Any, checkpoint_id: Any) -> None:
        (self.folder / checkpoint_id.hex()).write_text(json.dumps(self.total))

    def load_checkpoint(self, actor_id: Any, available_checkpoints: list[Checkpoint]) -> Any:
        ids = [one.checkpoint_id.hex() for one in available_checkpoints]
        totals = [json.loads((self.folder / name).read_text()) for name in ids]
        self.note(f"offered {totals}")
        assert [c.timestamp for c in available_checkpoints] == sorted(
            (c.timestamp for c in available_checkpoints), reverse=True
        )
        self.total = totals[0]
        return available_checkpoints[0].checkpoint_id

    def checkpoint_expired(self, actor_id: Any, checkpoint_id: Any) -> None:
        (self.folder / checkpoint_id.hex()).unlink()


def test_it_is_asked_after_each_call_and_chooses_what_to_load(folder: Path) -> None:
    ledger = remote(Ledger).remote(str(folder))
    nbray.get([ledger.add.remote() for _ in range(11)])
    contexts = nbray.get(ledger.told.remote())
    assert [c.num_tasks_since_last_checkpoint for c in contexts] == [1, 2, 3, 4, 5, 1, 2, 3, 4, 5, 1]
    assert {c.actor_id for c in contexts} == {ledger._actor_id}
    assert all(c.time_elapsed_ms_since_last_checkpoint >= 0 for c in contexts)

    kill(ledger)

    assert nbray.get(ledger.add.remote(), timeout=10) == 12
    assert words(folder / "log") == ["made", "made", "offered [10, 5]"]


def test_twenty_checkpoints_are_kept_and_the_others_expire(folder: Path) -> None:
    ledger = remote(Ledger).remote(str(folder), 1)
    nbray.get([ledger.add.remote() for _ in range(30)])
    until(lambda: totals_in(folder) == list(range(11, 31)), "the last 20 are left")

    os.kill(pid_by_title(ledger), signal.SIGKILL)

    assert nbray.get(ledger.add.remote(), timeout=10) == 31
    assert words(folder / "log")[-1] == f"offered {list(range(30, 10, -1))}"


def totals_in(folder: Path) -> list[int] | None:
    try:
        return sorted(json.loads(path.read_text()) for path in folder.iterdir() if path.name != "log")
    except (FileNotFoundError, json.JSONDecodeError):  # one expired this moment, or is being written
        return None


class Choosy(Ledger):
    """It loads what it was told to."""

    def load_checkpoint(self, actor_id: Any, available_checkpoints: list[Checkpoint]) -> Any:
        super().load_checkpoint(actor_id, available_checkpoints)
        choice = (self.folder / "choice").read_text()
        if choice == "none":
            self.total = 0
            return None
        if choice == "raise":
            raise RuntimeError("no checkpoint is good enough")
        if choice == "strange":
            return nbray.ActorCheckpointID.from_random()
        oldest = available_checkpoints[-1].checkpoint_id
        self.total = json.loads((self.folder / oldest.hex()).read_text())
        return oldest


@pytest.mark.parametrize(("choice", "made"), [("none", 2), ("raise", 3), ("strange", 3), ("oldest", 2)])
def test_whatever_it_loads_what_is_missing_runs_again(folder: Path, choice: str, made: int) -> None:
    (folder / "choice").write_text(choice)
    ledger = remote(Choosy).remote(str(folder), 3)
    nbray.get([ledger.add.remote() for _ in range(10)])

    kill(ledger)

    assert nbray.get(ledger.add.remote(), timeout=10) == 11
    assert words(folder / "log").count("made") == made


class Unlucky(Ledger):
    def save_checkpoint(self, actor_id: Any, checkpoint_id: Any) -> None:
        raise OSError("no room")


class Undecided(Ledger):
    def should_checkpoint(self, checkpoint_context: CheckpointContext) -> bool:
        raise RuntimeError("it cannot say")


@pytest.mark.parametrize("kind", [Unlucky, Undecided])
def test_what_its_methods_raise_is_reported_and_it_goes_on(folder: Path, kind: type) -> None:
    ledger = remote(kind).remote(str(folder))
    assert nbray.get([ledger.add.remote() for _ in range(7)])[-1] == 7

    kill(ledger)

    assert nbray.get(ledger.add.remote(), timeout=10) == 8


# --- what is refused --------------------------------------------------------------------------------------


def test_a_class_that_lacks_a_method_is_refused_at_decoration() -> None:
    with pytest.raises(TypeError, match="checkpoint_expired"):

        @nbray.remote
        class Half(Checkpointable):
            def should_checkpoint(self, checkpoint_context: CheckpointContext) -> bool:
                return True

            def save_checkpoint(self, actor_id: Any, checkpoint_id: Any) -> None: ...

            def load_checkpoint(self, actor_id: Any, available_checkpoints: list[Checkpoint]) -> Any: ...


@pytest.mark.parametrize("options", [{"checkpoint_interval": 3}, {"max_concurrency": 2}])
def test_what_a_checkpointable_class_cannot_have_is_refused(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="Ledger"):
        nbray.remote(**options)(Ledger)


def test_an_interval_of_nothing_is_refused_and_minus_one_means_none(folder: Path) -> None:
    with pytest.raises(ValueError, match="checkpoint_interval"):
        Counter.options(checkpoint_interval=0)

    path = folder / "log"
    counter = Counter.options(checkpoint_interval=-1).remote(str(path))
    nbray.get([counter.add.remote() for _ in range(7)])
    assert checkpoints_of(counter) == []
    kill(counter)
    assert nbray.get(counter.add.remote(), timeout=10) == 1


# --- who calls ------------------------------------------------------------------------------------------


def test_calls_of_a_process_that_has_no_handle_any_more_run_again(folder: Path) -> None:
    """The task's worker let go of its handle; it is there still."""
    counter = Counter.options(checkpoint_interval=100).remote(str(folder / "log"))

    @nbray.remote
    def adds(actor: Any) -> int:
        return int(nbray.get(actor.add.remote(100)))

    assert nbray.get(adds.remote(counter)) == 100
    assert nbray.get(counter.add.remote()) == 101

    kill(counter)

    until(lambda: nbray.get(counter.add.remote(0), timeout=10) == 101, "both have told it again")


def test_nothing_of_a_dead_actor_is_kept(folder: Path) -> None:
    counter = Counter.options(checkpoint_interval=100).remote(str(folder / "log"))
    nbray.get([counter.grow.remote(np.ones(100_000, int)) for _ in range(5)])

    nbray.kill(counter, no_restart=True)

    until(store_is_empty, "its callers have let go")
    with pytest.raises(nbray.RayActorError):
        nbray.get(counter.add.remote(), timeout=10)
    del counter
    await_forgotten()


class Tally:
    """For each caller the numbers that it sent, as they came."""

    def __init__(self) -> None:
        self.numbers: dict[str, list[int]] = {}

    def count(self, caller: str, number: int) -> int:
        mine = self.numbers.setdefault(caller, [])
        mine.append(number)
        return len(mine)

    def all(self) -> dict[str, list[int]]:
        return self.numbers


@nbray.remote(num_cpus=1)
def counts(tally: Any, caller: str, stop: str) -> int:
    """Call until there is a file, and check each answer."""
    return call_until(tally, caller, lambda: os.path.exists(stop))


def call_until(tally: Any, caller: str, is_over: Callable[[], bool]) -> int:
    random = Random(caller)
    sent = 0
    seen: list[Any] = []
    while not is_over():
        some = range(sent + 1, sent + 1 + random.choice([1, 1, 3, 20]))
        refs = [tally.count.remote(caller, number) for number in some]
        assert nbray.get(refs, timeout=60) == list(some)
        seen = [*seen[-50:], *zip(refs, some, strict=True)]
        assert [nbray.get(ref) for ref, _ in seen] == [number for _, number in seen]
        sent = some[-1]
        time.sleep(random.random() * 0.005)
    return sent


def test_an_ordered_counter_is_exact_whenever_it_is_killed(folder: Path, show: Callable[[str], None]) -> None:
    """Three callers, ``KILLS`` times kill -9 at random moments."""
    tally = remote(Tally, 10).remote()
    nbray.get(tally.all.remote())
    stop = folder / "stop"
    callers = [counts.remote(tally, f"task {n}", str(stop)) for n in range(2)]
    random = Random(KILLS)
    killing = threading.Thread(target=kill_often, args=(tally, random, stop))
    killing.start()
    try:
        sent = {"driver": call_until(tally, "driver", stop.exists)}
    finally:
        stop.touch()
        killing.join()
    for n, ref in enumerate(callers):
        sent[f"task {n}"] = nbray.get(ref, timeout=60)

    expected = {caller: list(range(1, number + 1)) for caller, number in sent.items()}
    until(lambda: nbray.get(tally.all.remote(), timeout=60) == expected, "all have told it again")
    show(f"{KILLS} kills of an actor with checkpoints, {sum(sent.values())} calls")


def kill_often(actor: Any, random: Random, stop: Path) -> None:
    try:
        for _ in range(KILLS):
            pid = until(lambda: pid_if_alive(actor), "it is alive")
            time.sleep(random.random() * 0.05)
            os.kill(pid, signal.SIGKILL)
            until(lambda pid=pid: pid_if_alive(actor) not in (0, pid), "it is alive again")  # type: ignore[misc]
    finally:
        stop.touch()


def pid_if_alive(actor: Any) -> int:
    (facts,) = (one for one in actors() if one.actor_id == actor._actor_id.binary())
    return int(facts.pid) if facts.state == "ALIVE" else 0


def test_an_answer_comes_soon_after_a_crash(folder: Path, show: Callable[[str], None]) -> None:
    counter = Counter.remote(str(folder / "log"))
    taken_ms = []
    for turn in range(1, 8):
        pid = nbray.get(counter.pid.remote())
        start_s = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        assert nbray.get(counter.add.remote(), timeout=10) == turn
        taken_ms.append((time.monotonic() - start_s) * 1e3)
    show(f"from kill -9 of an actor to the next answer: {sorted(taken_ms)[3]:.0f} ms")

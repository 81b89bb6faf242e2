"""kill -9 at random moments under load: every result is right or a typed error, nothing hangs or stays.

Called by:  pytest. ``NBRAY_KILLS=200`` kills more often than every test run does, ``NBRAY_KILLS_FROM`` says
            where to begin.
Imports:    tests.support.chaos, nbray.
Never:      draws a number from anything but a trial's own seed, which a failure names.

The driver is the process that runs these tests: that it lives is seen by its going on.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from random import Random

import pytest

import nbray
from nbray.model.errors import NbrayError, RayletError
from tests.support.chaos import Load, Victims, daemon_of_this_process, death
from tests.support.drivers import session_processes
from tests.support.faults import await_no_trace
from tests.support.waiting import until

pytestmark = [pytest.mark.integration, pytest.mark.chaos]
LEAKS_CHECKED_PER = "module"

KILLS = int(os.environ.get("NBRAY_KILLS", "20"))
FIRST = int(os.environ.get("NBRAY_KILLS_FROM", "0"))
#: Of ten deaths; what the daemon's leaves behind needs a new session, so it comes last.
ROLES = ("worker", "zygote", "worker", "redis", "worker", "worker", "zygote", "worker", "worker", "daemon")
#: After the daemon's death every wait ends this soon.
TYPED_S = 2.0


@pytest.fixture(autouse=True, scope="module")
def _sessions_end(_module_leaves_nothing_behind: None) -> Iterator[None]:
    yield
    nbray.shutdown()


def start() -> None:
    nbray.init(num_cpus=2, object_store_memory=100 << 20, log_to_driver=False)


@pytest.mark.parametrize("block", range(FIRST, FIRST + KILLS, len(ROLES)))
def test_every_result_is_right_or_typed(block: int, show: Callable[[str], None]) -> None:
    deaths: Counter[str] = Counter()
    for seed in range(block, min(block + len(ROLES), FIRST + KILLS)):
        role = ROLES[seed % len(ROLES)]
        if not nbray.is_initialized():
            start()
        try:
            deaths[role] += trial(Random(seed), role)
        except BaseException as exc:
            raise AssertionError(f"trial {seed}, kill -9 of the {role}, failed") from exc
    show(f"trials {block} ff.: killed {dict(deaths)}")


def trial(random: Random, role: str) -> int:
    """One load, one death; of workers now and then a second one. Returns how many died."""
    victims, at_s = Victims.now(), random.uniform(0, 0.3)
    second_s = at_s + random.uniform(0, 0.1)
    is_pair = role == "worker" and random.random() < 0.25
    with (
        death(at_s, lambda: victims.pid_of(role, random)) as killed,
        death(second_s, lambda: victims.pid_of(role, random) if is_pair else 0) as also_killed,
    ):
        if role == "daemon":
            lose_the_session(random, killed)
        else:
            go_through(random)
    if role != "daemon":
        assert_all_is_as_before()
    return len(killed) + len(also_killed)


def go_through(random: Random) -> None:
    load = Load(random)
    wrong = [result.what for result in load.results if not load.is_fine(result)]
    assert not wrong


def assert_all_is_as_before() -> None:
    await_no_trace()
    resources = nbray.status().to_dict()["nodes"][0]["resources"]
    until(lambda: nbray.status().nodes[0]["free"] == resources, "all resources came back")
    assert nbray.status().to_dict()["redis"]["restarts"] <= 3


def lose_the_session(random: Random, killed: list[tuple[int, float]]) -> None:
    """Threads submit and wait until the daemon dies: all end soon, with its error."""
    session_dir = nbray.status().to_dict()["session_dir"]
    ended_s: list[float] = []
    wrong: list[str] = []

    def work(seed: int) -> None:
        try:
            while True:
                load = Load(Random(seed))
                wrong.extend(result.what for result in load.results if not load.is_fine(result))
        except NbrayError as exc:
            if not isinstance(exc, RayletError):
                wrong.append(repr(exc))
            ended_s.append(time.monotonic())

    threads = [threading.Thread(target=work, args=[random.getrandbits(32)]) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not [thread for thread in threads if thread.is_alive()]
    assert wrong == []
    ((_pid, killed_s),) = killed
    assert max(ended_s) - killed_s < TYPED_S
    nbray.shutdown()
    assert_gone(session_dir)


def assert_gone(session_dir: str) -> None:
    def is_gone() -> bool:
        return not (
            os.path.exists(session_dir) or [p for p in session_processes(session_dir) if p.state != "Z"]
        )

    until(is_gone, f"nothing is left of {session_dir}", TYPED_S)


@pytest.mark.parametrize("seed", range(max(2, KILLS // 10)))
def test_a_death_during_init_is_typed_and_init_works_again(seed: int) -> None:
    nbray.shutdown()
    random = Random(seed)
    with death(random.uniform(0, 0.4), daemon_of_this_process), contextlib.suppress(NbrayError):
        start()
        nbray.put(bytes(1 << 20))
    nbray.shutdown()

    start()

    assert nbray.get(nbray.put(7)) == 7


@pytest.mark.parametrize("seed", range(max(4, KILLS // 10)))
def test_a_death_during_shutdown_does_not_disturb_it(seed: int) -> None:
    random = Random(seed)
    if not nbray.is_initialized():
        start()
    role = ("worker", "zygote", "redis", "daemon")[seed % 4]
    victims, session_dir = Victims.now(), nbray.status().to_dict()["session_dir"]
    load = Load(random)
    with death(random.uniform(0, 0.1), lambda: victims.pid_of(role, random)):
        time.sleep(random.uniform(0, 0.1))
        started_s = time.monotonic()
        nbray.shutdown()
        took_s = time.monotonic() - started_s

    assert took_s < 5.0
    assert_gone(session_dir)
    del load

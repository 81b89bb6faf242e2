"""Memory runs out in a container: a task is ended with a typed error, and everything else goes on."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.support.cgroups import MemoryCgroup, memory_cgroup

pytestmark = [pytest.mark.integration, pytest.mark.slow]

MIB = 1 << 20

_PREAMBLE = """\
import json, os, signal, time
import numpy as np
import nbray

@nbray.remote(max_retries=0)
def eat(total_mib, mib_per_s):
    held, began_s = [], time.monotonic()
    while len(held) * 8 < total_mib:
        held.append(np.ones(1 << 20))  # 8 MiB
        time.sleep(max(0.0, len(held) * 8 / mib_per_s - (time.monotonic() - began_s)))
    return len(held) * 8

@nbray.remote
def sleeps(duration_s):
    time.sleep(duration_s)
    return "fine"

def failure_of(ref):
    try:
        nbray.get(ref, timeout=50)
    except nbray.NbrayError as exc:
        return exc
    raise AssertionError("it did not fail")
"""


@pytest.fixture
def group() -> Iterator[MemoryCgroup]:
    with ExitStack() as stack:
        try:
            group = stack.enter_context(memory_cgroup(500 * MIB))
        except OSError as exc:
            pytest.skip(f"memory cgroups cannot be made here: {exc}")
        yield group


# The mark lies well below the limit: the rest must last as long as a busy machine keeps the daemon waiting.


def run_inside(group: MemoryCgroup, script: str) -> Any:
    """Run a driver in the group; the last line that it prints is JSON."""
    done = subprocess.run(
        [sys.executable, "-c", _PREAMBLE + textwrap.dedent(script)],
        preexec_fn=group.enter, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"code {done.returncode}; {group.kills()} killed\n{done.stderr}"
    return json.loads(done.stdout.splitlines()[-1])


def test_eater_is_ended_within_two_seconds_and_the_rest_goes_on(group: MemoryCgroup) -> None:
    found = run_inside(group, """
        nbray.init(num_cpus=2, object_store_memory=80 << 20, memory_usage_threshold=0.8)
        other = sleeps.remote(3)
        ref = eat.remote(2000, 100)
        crossed_s = None
        from nbray.core.memory_watch import fullest
        from nbray.store.budget import MemoryBudget
        budget = MemoryBudget()
        while not nbray.wait([ref], timeout=0.01)[0]:
            level = fullest(budget.levels())
            if level.share > 0.8 and crossed_s is None:
                crossed_s = time.monotonic()
        took_s = time.monotonic() - crossed_s if crossed_s else 0.0
        exc = failure_of(ref)
        print(json.dumps([type(exc).__name__, took_s, exc.where, exc.by_kernel, exc.held_bytes, exc.largest,
                          exc.pid, str(exc), nbray.get(other), nbray.get(eat.remote(16, 1000))]))
    """)  # fmt: skip

    name, took_s, where, by_kernel, held_bytes, largest, pid, text, other, after = found
    assert name == "RayOutOfMemoryError"
    assert took_s <= 2
    assert where.startswith("cgroup")
    assert not by_kernel, f"{text}; {group.kills()} killed"
    assert held_bytes > 200 * MIB
    assert ["nbray-worker (eat)", pid] in [each[:2] for each in largest]
    assert "task eat (attempt 1 of 1)" in text
    assert (other, after) == ("fine", 16)
    assert group.kills() == 0


def test_tasks_that_do_not_fit_together_run_after_one_another(group: MemoryCgroup) -> None:
    values = run_inside(group, """
        nbray.init(num_cpus=3, object_store_memory=80 << 20)
        eater = eat.options(max_retries=5)
        print(json.dumps(nbray.get([eater.remote(160, 200) for _ in range(4)], timeout=80)))
    """)  # fmt: skip

    assert values == [160] * 4


def test_the_newest_that_may_run_again_is_ended_first(group: MemoryCgroup) -> None:
    found = run_inside(group, """
        nbray.init(num_cpus=2, object_store_memory=80 << 20, memory_usage_threshold=0.8)
        old = eat.options(max_retries=0).remote(200, 60)
        time.sleep(0.6)
        new = eat.options(max_retries=3).remote(256, 100)
        values = nbray.get([old, new], timeout=60)
        retried = nbray.status().to_dict()["functions"]["eat"]["retried"]
        print(json.dumps([values, retried]))
    """)  # fmt: skip

    values, retried = found
    assert values == [200, 256]
    assert retried >= 1


def test_faster_than_anybody_looks_the_kernel_ends_a_worker_and_it_is_said(group: MemoryCgroup) -> None:
    found = run_inside(group, """
        nbray.init(num_cpus=2, object_store_memory=80 << 20)
        @nbray.remote(max_retries=0)
        def gulp():
            return len(bytearray(2000 << 20))
        exc = failure_of(gulp.remote())
        print(json.dumps([type(exc).__name__, str(exc), nbray.get(sleeps.remote(0))]))
    """)  # fmt: skip

    name, text, after = found
    assert name == "RayOutOfMemoryError"
    assert "task gulp" in text
    assert after == "fine"


def test_memory_of_a_child_process_counts(group: MemoryCgroup) -> None:
    found = run_inside(group, """
        nbray.init(num_cpus=1, object_store_memory=80 << 20, memory_usage_threshold=0.7)
        @nbray.remote(max_retries=0)
        def starts_an_eater():
            import subprocess, sys
            code = "import time; h = []\\nfor n in range(300): h.append(bytearray(5 << 20)); time.sleep(.05)"
            return subprocess.run([sys.executable, "-c", code]).returncode
        exc = failure_of(starts_an_eater.remote())
        print(json.dumps([type(exc).__name__, exc.held_bytes]))
    """)  # fmt: skip

    name, held_bytes = found
    assert name == "RayOutOfMemoryError"
    assert held_bytes > 200 * MIB


def test_the_mark_can_be_set(group: MemoryCgroup) -> None:
    used_bytes, threshold = run_inside(group, """
        nbray.init(num_cpus=1, object_store_memory=80 << 20, memory_usage_threshold=0.6)
        exc = failure_of(eat.remote(1000, 150))
        print(json.dumps([exc.used_bytes, exc.threshold]))
    """)  # fmt: skip

    assert threshold == 0.6
    assert 300 * MIB <= used_bytes <= 400 * MIB


def test_at_a_mark_of_one_only_the_kernel_ends_anybody(group: MemoryCgroup) -> None:
    name = run_inside(group, """
        nbray.init(num_cpus=1, object_store_memory=80 << 20, memory_usage_threshold=1.0)
        print(json.dumps(type(failure_of(eat.remote(1000, 400))).__name__))
    """)  # fmt: skip

    assert name == "RayWorkerError"
    assert group.kills() >= 1


# --- actors ---------------------------------------------------------------------------------------------

_ACTORS = """
@nbray.remote(num_cpus=0)
class Holds:
    def hold(self, size_mib):
        self.held = [np.ones(1 << 20) for _ in range(size_mib // 8)]  # 8 MiB each
        return size_mib
    def ping(self):
        return "pong"
    def eat(self, total_mib, mib_per_s):
        return nbray_eat(total_mib, mib_per_s)

def nbray_eat(total_mib, mib_per_s):
    held = []
    while len(held) * 8 < total_mib:
        held.append(np.ones(1 << 20))
        time.sleep(8 / mib_per_s)
    return total_mib
"""


def test_an_actor_that_fills_the_memory_is_ended_with_both_types_of_error(group: MemoryCgroup) -> None:
    found = run_inside(group, textwrap.dedent(_ACTORS) + textwrap.dedent("""
        nbray.init(num_cpus=2, object_store_memory=80 << 20, memory_usage_threshold=0.8)
        actor, other = Holds.remote(), Holds.remote()
        nbray.get(other.ping.remote())
        exc = failure_of(actor.eat.remote(2000, 100))
        later = failure_of(actor.ping.remote())
        print(json.dumps([[base.__name__ for base in type(exc).__mro__], type(later).__name__, str(exc),
                          exc.held_bytes, nbray.get(other.ping.remote()),
                          [error["type"] for error in nbray.errors()]]))
    """))  # fmt: skip

    bases, later, text, held_bytes, other, kinds = found
    assert {"RayActorError", "RayOutOfMemoryError"} <= set(bases)
    assert later == "ActorOutOfMemoryError"
    assert "of Actor Holds" in text
    assert held_bytes > 200 * MIB
    assert other == "pong"
    assert kinds == ["worker_died"]


def test_a_task_that_may_run_again_goes_before_an_actor(group: MemoryCgroup) -> None:
    found = run_inside(group, textwrap.dedent(_ACTORS) + textwrap.dedent("""
        nbray.init(num_cpus=2, object_store_memory=80 << 20, memory_usage_threshold=0.8)
        actor = Holds.remote()
        ref = eat.options(max_retries=1).remote(160, 40)
        time.sleep(1.0)
        kept = nbray.get(actor.hold.remote(200), timeout=50)
        until_s = time.monotonic() + 20
        retried = 0
        while not retried and time.monotonic() < until_s:
            retried = nbray.status().to_dict()["functions"]["eat"]["retried"]
            time.sleep(0.05)
        print(json.dumps([kept, nbray.get(actor.ping.remote(), timeout=20), retried]))
    """))  # fmt: skip

    assert found == [200, "pong", 1]

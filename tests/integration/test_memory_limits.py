"""Less memory than the store was promised: a typed error, and nobody is killed."""

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

pytestmark = pytest.mark.integration

MIB = 1 << 20


@pytest.fixture
def group() -> Iterator[MemoryCgroup]:
    with ExitStack() as stack:
        try:
            group = stack.enter_context(memory_cgroup(300 * MIB))
        except OSError as exc:
            pytest.skip(f"memory cgroups cannot be made here: {exc}")
        yield group


def run_inside(group: MemoryCgroup, script: str) -> Any:
    """Run a driver in the group; what it prints is JSON."""
    done = subprocess.run(
        [sys.executable, "-c", "import json, time, numpy as np, nbray\n" + textwrap.dedent(script)],
        preexec_fn=group.enter, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"code {done.returncode}; {group.kills()} killed\n{done.stderr}"
    return json.loads(done.stdout)


def test_store_larger_than_the_cgroup_fills_up_with_a_typed_error_and_nobody_is_killed(
    group: MemoryCgroup,
) -> None:
    found = run_inside(group, """
        nbray.init(num_cpus=1, object_store_memory=1 << 30, object_spilling=False)
        @nbray.remote
        def first(array):
            return int(array[0])
        refs, error, slowest_s = [], "", 0.0
        for n in range(200):
            started_s = time.monotonic()
            try:
                refs.append(nbray.put(np.full(1 << 20, n)))  # 8 MiB
            except nbray.ObjectStoreFullError as exc:
                error = str(exc)
                break
            finally:
                slowest_s = max(slowest_s, time.monotonic() - started_s)
        values = [int(nbray.get(ref)[-1]) for ref in refs]
        by_tasks = nbray.get([first.remote(ref) for ref in refs])
        del refs
        again = int(nbray.get(nbray.put(np.full(1 << 20, 7)))[5])
        nbray.shutdown()
        print(json.dumps([error, slowest_s, values, by_tasks, again]))
    """)  # fmt: skip

    error, slowest_s, values, by_tasks, again = found
    assert "memory" in error
    assert "limit" in error
    assert slowest_s < 2
    assert len(values) >= 8  # 64 MiB at least
    assert values == by_tasks == list(range(len(values)))
    assert again == 7
    assert group.kills() == 0


def test_one_object_larger_than_the_cgroup_is_refused(group: MemoryCgroup) -> None:
    found = run_inside(group, """
        nbray.init(num_cpus=1, object_store_memory=2 << 30)
        from nbray.runtime.current import current
        from nbray.runtime.layout import Serialized
        @nbray.remote
        def alive():
            return "yes"
        packed = Serialized(b"")
        packed.size_bytes = 1 << 30  # it says so; making it would take the memory here
        process = current()
        try:
            with process.loop.guard:
                process.objects.creating.store(b"x" * 20, process.process_id, packed)
        except nbray.ObjectStoreFullError as exc:
            error = str(exc)
        print(json.dumps([error, nbray.get(alive.remote())]))
    """)  # fmt: skip

    assert "1.0 GiB" in found[0]
    assert found[1] == "yes"
    assert group.kills() == 0


def test_default_store_fits_into_the_cgroup(group: MemoryCgroup) -> None:
    capacity_bytes = run_inside(group, """
        nbray.init(num_cpus=1)
        print(nbray.status().to_dict()["store"]["capacity_bytes"])
    """)  # fmt: skip

    assert 75 * MIB <= capacity_bytes <= 200 * MIB
    assert group.kills() == 0

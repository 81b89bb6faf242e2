"""What may still be taken, on machines and in containers that are directories of small files."""

from __future__ import annotations

from pathlib import Path

import pytest

from nbray.core.memory_watch import Level
from nbray.model.limits import STORE_MIN_BYTES
from nbray.store.budget import MemoryBudget

MIB = 1024 * 1024
GIB = 1024 * MIB
UNLIMITED_V1 = 9223372036854771712
V2_MOUNT = "35 24 0:30 {root} {point} rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate"
V1_MOUNT = "36 24 0:31 {root} {point} rw,nosuid shared:10 - cgroup cgroup rw,memory"
V1_CPU_MOUNT = "37 24 0:32 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu"


class Machine:
    """A fake /proc and /sys."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.mounts: list[str] = []
        self.memory(total=100 * GIB, available=50 * GIB)
        self.cgroup("")

    def write(self, path: str, text: str) -> None:
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def memory(self, total: int, available: int) -> None:
        self.write(
            "/proc/meminfo",
            f"MemTotal:  {total // 1024} kB\nMemFree:  1024 kB\nMemAvailable: {available // 1024} kB\n",
        )

    def cgroup(self, text: str) -> None:
        self.write("/proc/self/cgroup", text)

    def mount(self, line: str, root: str, point: str) -> None:
        self.mounts.append(line.format(root=root, point=point))
        self.write("/proc/self/mountinfo", "\n".join(["1 0 8:1 / / rw - ext4 /dev/sda rw", *self.mounts]))

    def v2(self, directory: str, limit: str, usage: int, inactive_file: int = 0, high: str = "max") -> None:
        self.write(f"{directory}/memory.max", f"{limit}\n")
        self.write(f"{directory}/memory.high", f"{high}\n")
        self.write(f"{directory}/memory.current", f"{usage}\n")
        self.write(f"{directory}/memory.stat", f"anon 5\ninactive_file {inactive_file}\n")

    def v1(self, directory: str, limit: int, usage: int, inactive_file: int = 0) -> None:
        self.write(f"{directory}/memory.limit_in_bytes", f"{limit}\n")
        self.write(f"{directory}/memory.usage_in_bytes", f"{usage}\n")
        self.write(f"{directory}/memory.stat", f"inactive_file 1\ntotal_inactive_file {inactive_file}\n")

    def available(self) -> int:
        return MemoryBudget(self.root).available()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_without_cgroups_the_machine_decides_and_keeps_a_twentieth(machine: Machine) -> None:
    assert machine.available() == 45 * GIB


def test_a_small_machine_keeps_64_mib(machine: Machine) -> None:
    machine.memory(total=GIB, available=100 * MIB)

    assert machine.available() == 36 * MIB


def test_what_may_be_taken_is_never_negative(machine: Machine) -> None:
    machine.memory(total=GIB, available=10 * MIB)

    assert machine.available() == 0


def test_an_old_kernel_without_memavailable_offers_what_is_free(machine: Machine) -> None:
    machine.write("/proc/meminfo", f"MemTotal: {GIB // 1024} kB\nMemFree: {100 * 1024} kB\n")

    assert machine.available() == 36 * MIB


def test_a_version_2_limit_counts_and_its_idle_page_cache_does_not(machine: Machine) -> None:
    machine.cgroup("0::/user/box\n")
    machine.mount(V2_MOUNT, "/", "/sys/fs/cgroup")
    machine.v2("/sys/fs/cgroup/user/box", str(GIB), usage=600 * MIB, inactive_file=100 * MIB)

    assert machine.available() == 524 * MIB - 64 * MIB


def test_the_tightest_ancestor_decides(machine: Machine) -> None:
    machine.cgroup("0::/user/box\n")
    machine.mount(V2_MOUNT, "/", "/sys/fs/cgroup")
    machine.v2("/sys/fs/cgroup/user/box", "max", usage=0)
    machine.v2("/sys/fs/cgroup/user", str(GIB), usage=GIB - 80 * MIB)

    assert machine.available() == 16 * MIB


def test_the_throttling_limit_counts_like_the_hard_one(machine: Machine) -> None:
    machine.cgroup("0::/box\n")
    machine.mount(V2_MOUNT, "/", "/sys/fs/cgroup")
    machine.v2("/sys/fs/cgroup/box", str(GIB), usage=0, high=str(200 * MIB))

    assert machine.available() == 136 * MIB


def test_no_limit_is_no_limit(machine: Machine) -> None:
    machine.cgroup("4:memory:/box\n0::/box\n")
    machine.mount(V2_MOUNT, "/", "/sys/fs/cgroup/unified")
    machine.mount(V1_MOUNT, "/", "/sys/fs/cgroup/memory")
    machine.v2("/sys/fs/cgroup/unified/box", "max", usage=5 * GIB)
    machine.v1("/sys/fs/cgroup/memory/box", UNLIMITED_V1, usage=5 * GIB)

    assert machine.available() == 45 * GIB


def test_a_version_1_limit_counts_through_all_ancestors(machine: Machine) -> None:
    machine.cgroup("7:cpu,cpuacct:/elsewhere\n4:memory:/a/b\n")
    machine.mounts.append(V1_CPU_MOUNT)
    machine.mount(V1_MOUNT, "/", "/sys/fs/cgroup/memory")
    machine.v1("/sys/fs/cgroup/memory/a/b", UNLIMITED_V1, usage=0)
    machine.v1("/sys/fs/cgroup/memory/a", GIB, usage=GIB // 2, inactive_file=64 * MIB)

    assert machine.available() == 512 * MIB


def test_a_container_sees_its_own_cgroup_at_the_mount_point(machine: Machine) -> None:
    machine.cgroup("4:memory:/docker/c0ffee\n")
    machine.mount(V1_MOUNT, "/docker/c0ffee", "/sys/fs/cgroup/memory")
    machine.v1("/sys/fs/cgroup/memory", 300 * MIB, usage=36 * MIB)

    assert machine.available() == 200 * MIB


def test_a_path_outside_the_namespace_means_the_mount_point(machine: Machine) -> None:
    machine.cgroup("0::/../other\n")
    machine.mount(V2_MOUNT, "/", "/sys/fs/cgroup")
    machine.v2("/sys/fs/cgroup", str(300 * MIB), usage=36 * MIB)

    assert machine.available() == 200 * MIB


def test_a_mount_point_with_a_blank_is_found(machine: Machine) -> None:
    machine.cgroup("0::/box\n")
    machine.mount(V2_MOUNT, "/", r"/my\040cgroups")
    machine.v2("/my cgroups/box", str(300 * MIB), usage=36 * MIB)

    assert machine.available() == 200 * MIB


def test_figures_are_read_anew_each_time(machine: Machine) -> None:
    machine.cgroup("0::/box\n")
    machine.mount(V2_MOUNT, "/", "/sys/fs/cgroup")
    machine.v2("/sys/fs/cgroup/box", str(300 * MIB), usage=36 * MIB)
    budget = MemoryBudget(machine.root)

    machine.v2("/sys/fs/cgroup/box", str(300 * MIB), usage=136 * MIB)

    assert budget.available() == 100 * MIB


def test_a_machine_that_shows_no_memory_figures_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="meminfo"):
        MemoryBudget(tmp_path)


def test_a_store_takes_three_tenths_by_default(machine: Machine) -> None:
    capacity = MemoryBudget(machine.root).default_capacity()

    assert capacity == int(45 * GIB * 0.3) // 4096 * 4096


def test_a_store_has_its_smallest_size_where_three_tenths_are_less(machine: Machine) -> None:
    machine.memory(total=GIB, available=200 * MIB)

    assert MemoryBudget(machine.root).default_capacity() == STORE_MIN_BYTES


def test_a_default_store_never_exceeds_what_may_be_taken(machine: Machine) -> None:
    machine.memory(total=GIB, available=104 * MIB)

    assert MemoryBudget(machine.root).default_capacity() == 40 * MIB


def test_this_machine_has_memory_to_offer() -> None:
    assert MemoryBudget().available() >= 0


# --- what is in use, for who watches ------------------------------------------------------------------


def test_every_level_says_what_is_in_use_and_how_much_there_is(machine: Machine) -> None:
    machine.memory(total=100 * GIB, available=50 * GIB)
    machine.cgroup("0::/user/box\n")
    machine.mount(V2_MOUNT, "/", "/sys/fs/cgroup")
    machine.v2("/sys/fs/cgroup/user/box", str(GIB), usage=600 * MIB, inactive_file=100 * MIB)
    machine.v2("/sys/fs/cgroup/user", str(2 * GIB), usage=GIB)

    assert list(MemoryBudget(machine.root).levels()) == [
        Level("the machine", 50 * GIB, 100 * GIB),
        Level("cgroup box", 500 * MIB, GIB),
        Level("cgroup user", GIB, 2 * GIB),
    ]


def test_kills_by_the_kernel_are_those_of_our_cgroups(machine: Machine) -> None:
    machine.write("/proc/vmstat", "oom_kill 90\n")
    machine.cgroup("0::/user/box\n")
    machine.mount(V2_MOUNT, "/", "/sys/fs/cgroup")
    machine.v2("/sys/fs/cgroup/user/box", str(GIB), usage=0)
    machine.write("/sys/fs/cgroup/user/box/memory.events", "high 3\noom 4\noom_kill 2\n")

    assert MemoryBudget(machine.root).kernel_kills() == 2


def test_kills_by_the_kernel_are_those_of_the_machine_where_there_is_no_cgroup(machine: Machine) -> None:
    machine.write("/proc/vmstat", "nr_free_pages 7\noom_kill 90\n")

    assert MemoryBudget(machine.root).kernel_kills() == 90

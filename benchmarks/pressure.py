"""Objects under pressure: many references, more data than the store holds; beside Ray, and the disk itself.

Called by:  ``python -m benchmarks.pressure [--only nbray] [--rounds 3] [--soak 300]``.
Imports:    numpy; nbray or Ray, each in a process of its own.
Never:      measures two at once; leaves a file.

What Ray does to the same program is the peer's column. How fast the disk is by itself, with an fdatasync,
is measured in the same run, on the file system that holds the spilled bytes.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from typing import Any

MIB = 1 << 20
STORE_BYTES = 200 * MIB
HELD, HELD_BYTES = 12, 40 * MIB
LARGE_BYTES = 300 * MIB

#: What is measured, and what it should reach: seconds, or a share of the disk's speed.
TARGETS = {
    "5 000 references in one object, read by a task": 0.2,
    "10 000 references as arguments": 0.3,
    "get of 10 000": 0.03,
    "12 x 40 MB put into 200 MB": None,
    "12 x 40 MB read again": None,
    "300 MB put into 200 MB, and read": None,
}


def timed(work: Callable[[], object]) -> float:
    started_s = time.perf_counter()
    work()
    return time.perf_counter() - started_s


def disk_seconds(size_bytes: int, pieces: int = 1) -> float:
    """How long the disk takes for so many bytes, in so many pieces with an fdatasync each."""
    block = memoryview(os.urandom(4 * MIB))
    with tempfile.TemporaryFile() as file:
        os.posix_fallocate(file.fileno(), 0, size_bytes)

        def write() -> None:
            for _ in range(pieces):
                for _ in range(size_bytes // pieces // len(block)):
                    os.write(file.fileno(), block)
                os.fdatasync(file.fileno())

        return timed(write)


def references(ray: Any) -> dict[str, float]:
    @ray.remote  # type: ignore[untyped-decorator]  # of one runtime or the other
    def total(refs: list[Any]) -> int:
        return sum(ray.get(refs))

    @ray.remote  # type: ignore[untyped-decorator]
    def count(*values: Any) -> int:
        return len(values)

    ray.get([total.remote([ray.put(1)]), count.remote(1)])
    inner = [ray.put(n) for n in range(5000)]
    nested = timed(lambda: ray.get(total.remote(inner)))
    many = [ray.put(n) for n in range(10_000)]
    arguments = timed(lambda: ray.get(count.remote(*many)))
    got = timed(lambda: ray.get(many))
    return dict(zip(TARGETS, (nested, arguments, got), strict=False))


def spilling(ray: Any) -> dict[str, float]:
    import numpy as np

    arrays = [np.random.default_rng(n).integers(0, 255, HELD_BYTES, dtype=np.uint8) for n in range(HELD)]
    sums = [zlib.crc32(array.data) for array in arrays]
    refs: list[Any] = []
    put = timed(lambda: refs.extend(map(ray.put, arrays)))
    arrays.clear()

    def read() -> None:
        for ref, checksum in zip(refs, sums, strict=True):
            assert zlib.crc32(ray.get(ref).data) == checksum, "wrong bytes"

    again = timed(read)
    refs.clear()
    large = np.random.default_rng(0).integers(0, 255, LARGE_BYTES, dtype=np.uint8)

    def both() -> None:
        assert zlib.crc32(ray.get(ray.put(large)).data) == zlib.crc32(large.data)

    return dict(zip(list(TARGETS)[3:], (put, again, timed(both)), strict=True))


def soak(ray: Any, seconds: float) -> dict[str, float]:
    """Put, get and drop a gigabyte over and over; how much memory that costs driver and daemon a minute."""
    import numpy as np
    import psutil

    driver = psutil.Process()
    daemons = [p for p in driver.children(recursive=True) if "node" in p.name() or "raylet" in p.name()]
    samples: list[tuple[float, int, int]] = []
    held: list[tuple[Any, int]] = []
    random = np.random.default_rng(0)
    started_s = time.monotonic()
    turn = 0
    while (passed_s := time.monotonic() - started_s) < seconds:
        array = random.integers(0, 255, 20 * MIB, dtype=np.uint8)
        held.append((ray.put(array), zlib.crc32(array.data)))
        if len(held) > 1024 // 20:
            ref, checksum = held.pop(int(random.integers(len(held))))
            assert zlib.crc32(ray.get(ref).data) == checksum, "wrong bytes"
            del ref
        del array
        turn += 1
        if not turn % 20:
            samples.append((passed_s, driver.memory_info().rss, sum(d.memory_info().rss for d in daemons)))
    held.clear()
    later = [sample for sample in samples if sample[0] > min(60.0, seconds / 5)]
    return {
        "puts": float(turn),
        "driver_mib_a_minute": slope([(s, own) for s, own, _ in later]) * 60 / MIB,
        "daemon_mib_a_minute": slope([(s, others) for s, _, others in later]) * 60 / MIB,
    }


def slope(points: list[tuple[float, int]]) -> float:
    """Of the straight line that fits best, per second."""
    if len(points) < 2:
        return 0.0
    return statistics.linear_regression([p[0] for p in points], [p[1] for p in points]).slope


def measure(name: str, part: str, seconds: float) -> dict[str, float]:
    """In this process: one runtime, one part."""
    ray = importlib.import_module(name)
    options: dict[str, Any] = {"include_dashboard": False} if name == "ray" else {}
    store = {} if part == "references" else {"object_store_memory": STORE_BYTES}
    ray.init(num_cpus=2, log_to_driver=False, **store, **options)
    try:
        if part == "references":
            return references(ray)
        return soak(ray, seconds) if part == "soak" else spilling(ray)
    finally:
        ray.shutdown()


def in_child(name: str, part: str, seconds: float = 0.0) -> dict[str, float] | None:
    """None: this runtime is not installed, or did not manage."""
    command = [sys.executable, "-m", "benchmarks.pressure", "--child", name, part, "--soak", str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600 + seconds, check=False)
    lines = done.stdout.splitlines()
    if done.returncode != 0 or not lines:
        print(f"{name}, {part}: {(done.stderr.strip().splitlines() or ['nothing was printed'])[-1]}")
        return None
    found: dict[str, float] = json.loads(lines[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pressure", description=__doc__)
    parser.add_argument("--only", choices=("nbray", "ray"), help="leave the other out")
    parser.add_argument("--rounds", type=int, default=3, help="medians of so many; 3")
    parser.add_argument("--soak", type=float, default=0.0, metavar="SECONDS", help="only nbray, for so long")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(options.child[0], options.child[1], options.soak)))
    elif options.soak:
        for key, value in (in_child("nbray", "soak", options.soak) or {}).items():
            print(f"{key:24} {value:10.2f}")
    else:
        compare([options.only] if options.only else ["nbray", "ray"], options.rounds)


def compare(names: list[str], rounds: int) -> None:
    """The table: medians of rounds that take turns."""
    found: dict[str, dict[str, list[float]]] = {name: {} for name in names}
    disk: dict[str, list[float]] = {"put": [], "large": []}
    for _ in range(rounds):
        disk["put"].append(disk_seconds(HELD * HELD_BYTES - STORE_BYTES, HELD - STORE_BYTES // HELD_BYTES))
        disk["large"].append(disk_seconds(LARGE_BYTES))
        for name in names:
            for part in ("references", "spilling"):
                for key, value in (in_child(name, part) or {}).items():
                    found[name].setdefault(key, []).append(value)
    print(f"{'seconds':52}" + "".join(f"{name:>10}" for name in names) + "    target")
    for key, target in TARGETS.items():
        cells = [statistics.median(found[name][key]) if key in found[name] else None for name in names]
        texts = "".join(f"{'-' if cell is None else f'{cell:.3f}':>10}" for cell in cells)
        print(f"{key:52}{texts}    {'' if target is None else f'<= {target}'}")
    print(f"{'the disk itself: what must be spilled of 12 x 40 MB':52}{statistics.median(disk['put']):10.3f}")
    print(f"{'the disk itself: 300 MB':52}{statistics.median(disk['large']):10.3f}")


if __name__ == "__main__":
    main()

"""What runs as tasks. Plain functions of a module, so that every contender imports them in its workers.

Called by:  workers of all contenders.
Imports:    the standard library; NumPy where a task makes an array.
Never:      measures, sleeps, or returns something that could be another task's result.
"""

from __future__ import annotations

import os
import time
from typing import Any

_kept: dict[int, Any] = {}


def echo(value: Any) -> Any:
    """The smallest task that cannot be mistaken for another's result."""
    return value


def meet(path: str, writes: bool) -> int:
    """Return this process's ID once another process has opened the same FIFO: both are running then."""
    with open(path, "wb" if writes else "rb"):
        return os.getpid()


def blocked(path: str) -> int:
    """Sit in the kernel until the driver, which has the FIFO open, closes it."""
    with open(path, "rb") as gate:
        return len(gate.read())


def total_of_array(array: Any) -> float:
    return float(array.sum())


def total_of_arguments(*values: int) -> int:
    return sum(values)


def ends_of_array(array: Any) -> tuple[int, float, float]:
    """Looks at the array without reading all of it: size, first and last element."""
    return array.size, float(array[0]), float(array[-1])


def held(array: Any, path: str) -> tuple[int, float, float]:
    """Keep the array until the driver closes the FIFO."""
    blocked(path)
    return ends_of_array(array)


def big_array(count: int, path: str = "", writes: bool = False) -> Any:
    """An array that this worker keeps, so that only the way of the result is measured."""
    import numpy as np

    if path:
        meet(path, writes)
    if count not in _kept:
        _kept[count] = np.arange(count, dtype=np.float64)
    return os.getpid() if path else _kept[count]


def filled_array(count: int, value: float) -> Any:
    import numpy as np

    return np.full(count, value)


def added(left: Any, right: Any) -> Any:
    return left + right


def plus_one(value: int) -> int:
    return value + 1


def spin(cpu_s: float) -> float:
    """Burn this much CPU time of this thread."""
    began_s = time.thread_time()
    while (used_s := time.thread_time() - began_s) < cpu_s:
        pass
    return used_s


def fan_out(contender: str, count: int) -> int:
    """A task that starts tasks and waits for all of them."""
    from benchmarks import adapters

    with adapters.load(contender).inside() as adapter:
        submit = adapter.task(echo)
        return sum(adapter.get_all([submit(i) for i in range(count)]))


def nested(contender: str, depth: int) -> int:
    """A task that waits for a task that waits for a task; returns how many there were."""
    if depth <= 1:
        return depth
    from benchmarks import adapters

    with adapters.load(contender).inside() as adapter:
        below: int = adapter.get(adapter.task(nested)(contender, depth - 1))
        return 1 + below


def with_numpy(path: str, writes: bool) -> bool:
    """Have NumPy in this worker before memory is compared."""
    import numpy as np

    meet(path, writes)
    return bool(np.arange(2).sum() == 1)

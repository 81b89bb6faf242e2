"""What happened to every task reaches the daemon, with the notebook cell that it belongs to."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

import nbray
from nbray.api.session import set_current_cell
from nbray.events.schema import CELL, NAME, STATE
from tests.support.sessions import session, this_process
from tests.support.waiting import until

pytestmark = pytest.mark.integration


@pytest.fixture(autouse=True)
def _cluster() -> Iterator[None]:
    with session(num_cpus=2):
        yield
    set_current_cell("")


def counts() -> dict[str, int]:
    tasks: dict[str, int] = nbray.status().to_dict()["tasks"]
    return tasks


def counts_of(name: str) -> dict[str, int]:
    functions: dict[str, dict[str, int]] = nbray.status().to_dict()["functions"]
    return functions.get(name, {})


def test_counts_are_right_once_all_is_quiet() -> None:
    @nbray.remote
    def work(n: int) -> int:
        if n % 10 == 3:
            raise ValueError
        return n

    @nbray.remote
    def parent() -> int:
        return sum(nbray.get([work.remote(0) for _ in range(5)]))

    refs: list[Any] = [work.remote(n) for n in range(40)] + [parent.remote() for _ in range(3)]
    nbray.wait(refs, num_returns=len(refs))

    right = {"submitted": 58, "running": 0, "finished": 54, "failed": 4, "retried": 0, "cancelled": 0}
    until(lambda: counts() == right, f"the counts are {right}")
    assert counts_of("work") == {
        "submitted": 55,
        "running": 55,
        "finished": 51,
        "failed": 4,
        "retried": 0,
        "cancelled": 0,
    }
    assert counts_of("parent")["submitted"] == 3
    assert nbray.status().to_dict()["events_dropped"] == 0


def test_retries_and_deaths_are_counted(tmp_path: Any) -> None:
    @nbray.remote(max_retries=1)
    def die_once(path: str) -> None:
        if not os.path.exists(path):
            open(path, "w").close()
            os._exit(1)

    @nbray.remote(max_retries=1)
    def die() -> None:
        os._exit(1)

    nbray.get(die_once.remote(str(tmp_path / "died")))
    # What a worker noted in its last quarter of a second dies with it, so let it arrive first.
    until(lambda: counts_of("die_once").get("finished") == 1, "the success is counted")
    with pytest.raises(nbray.RayWorkerError):
        nbray.get(die.remote())

    def right() -> bool:
        once, always = counts_of("die_once"), counts_of("die")
        return (
            (once.get("retried"), once.get("finished"), once.get("failed")) == (1, 1, 0)
            and (always.get("retried"), always.get("finished"), always.get("failed")) == (1, 0, 1)
            and counts()["running"] == 0
        )

    until(right, "one retry each, and one failure")


def test_task_whose_argument_failed_counts_as_failed_without_running() -> None:
    @nbray.remote
    def fail() -> None:
        raise ValueError

    @nbray.remote
    def use(value: Any) -> None: ...

    ref = use.remote(fail.remote())
    nbray.wait([ref])

    until(lambda: counts_of("use").get("failed") == 1, "it is counted")
    assert counts_of("use") == {
        "submitted": 1,
        "running": 0,
        "finished": 0,
        "failed": 1,
        "retried": 0,
        "cancelled": 0,
    }


def test_running_counts_what_runs_now(tmp_path: Any) -> None:
    @nbray.remote
    def stay(path: str) -> None:
        while not os.path.exists(path):
            pass

    refs = [stay.remote(str(tmp_path / "go on")) for _ in range(5)]
    until(lambda: counts()["running"] == 2, "two run")

    (tmp_path / "go on").touch()
    nbray.get(refs)

    until(lambda: counts()["running"] == 0, "none runs")


def test_tasks_carry_the_cell_that_submitted_them_and_so_do_their_children(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shipped: list[Any] = []
    recorder = this_process().recorder
    tell_daemon = recorder._tell_daemon

    def spy(message: Any) -> None:
        shipped.extend(message.rows)
        tell_daemon(message)

    monkeypatch.setattr(recorder, "_tell_daemon", spy)

    @nbray.remote
    def child() -> str:
        from nbray.runtime.current import current

        return current().context.cell

    @nbray.remote
    def parent() -> list[str]:
        from nbray.runtime.current import current

        return [current().context.cell, nbray.get(child.remote())]

    set_current_cell("In[1]")
    first = parent.remote()
    set_current_cell("In[2]")
    second = parent.remote()

    assert nbray.get([first, second]) == [["In[1]"] * 2, ["In[2]"] * 2]
    until(lambda: len(shipped) >= 2, "both submissions are on their way to the daemon")
    assert [(row[NAME], row[STATE], row[CELL]) for row in shipped if row[STATE] == "submitted"] == [
        ("parent", "submitted", "In[1]"), ("parent", "submitted", "In[2]")
    ]  # fmt: skip

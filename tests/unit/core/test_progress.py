"""Workers that make no progress are told of, and no worker that computes, sleeps or waits.

Called by:  pytest.
Imports:    nbray.core.progress.
Never:      reads a clock: time is a number here.
"""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from nbray.core.progress import Ask, Command, GoesOn, Hung, Look, Progress, Stopped

W = b"worker"


class Watch:
    """One worker, looked at once a second."""

    def __init__(self) -> None:
        self.progress = Progress()
        self.now_s = 100.0
        self.cpu_s = 0.0
        self.said: list[tuple[float, Command]] = []

    def second(self, state: str, cpu_s: float = 0.0, *, answers: bool = True, passed_s: float = 1.0) -> None:
        self.now_s += passed_s
        self.cpu_s += cpu_s
        out: list[Command] = []
        self.progress.look(self.now_s, [Look(W, state, self.cpu_s)], out)
        if answers and Ask(W) in out:
            self.progress.answered(W, out)
        self.said += [(self.now_s - 100.0, command) for command in out if command != Ask(W)]

    def notices(self) -> list[Command]:
        return [command for _at_s, command in self.said]


def test_stopped_worker_is_told_of_within_ten_seconds() -> None:
    watch = Watch()

    for _ in range(10):
        watch.second("T", answers=False)

    ((at_s, notice),) = watch.said
    assert isinstance(notice, Stopped)
    assert at_s <= 10


def test_stopped_worker_is_told_of_again_with_its_age_and_ever_more_rarely() -> None:
    watch = Watch()

    for _ in range(3600):
        watch.second("T", answers=False)

    ages = [command.age_s for command in watch.notices() if isinstance(command, Stopped)]
    assert ages[0] < 10
    assert 4 <= len(ages) <= 12
    assert all(later - earlier >= 20 for earlier, later in pairwise(ages))


def test_worker_that_goes_on_is_told_of_once() -> None:
    watch = Watch()
    for _ in range(8):
        watch.second("T", answers=False)

    for _ in range(20):
        watch.second("R", 1.0)

    assert [type(command) for command in watch.notices()] == [Stopped, GoesOn]


def test_worker_that_gave_its_lease_back_goes_on() -> None:
    watch = Watch()
    for _ in range(8):
        watch.second("T", answers=False)

    out: list[Command] = []
    watch.progress.look(watch.now_s + 1, [], out)

    assert [type(command) for command in out] == [GoesOn]


def test_short_stop_is_not_told_of() -> None:
    watch = Watch()

    for _ in range(30):
        watch.second("T", answers=False)
        watch.second("R", 1.0)

    assert watch.notices() == []


def test_worker_that_sleeps_without_an_answer_is_told_of_within_ten_seconds() -> None:
    watch = Watch()

    for _ in range(10):
        watch.second("S", 0.004, answers=False)  # its threads ask for Python's lock now and then

    ((at_s, notice),) = watch.said
    assert isinstance(notice, Hung)
    assert at_s <= 10


def test_time_that_the_watcher_slept_does_not_count() -> None:
    watch = Watch()

    for _ in range(2):
        watch.second("S", answers=False)
    watch.second("S", answers=False, passed_s=3600.0)

    assert watch.notices() == []


def test_worker_with_another_lease_begins_anew() -> None:
    watch = Watch()
    for _ in range(4):
        watch.second("T", answers=False)

    watch.progress.look(watch.now_s, [], [])
    for _ in range(4):
        watch.second("T", answers=False)

    assert watch.notices() == []


@given(
    st.lists(
        st.sampled_from(["computes", "holds the lock and computes", "sleeps", "waits for a core"]),
        max_size=60,
    )
)
def test_no_worker_that_works_or_answers_is_ever_told_of(seconds: list[str]) -> None:
    watch = Watch()

    for doing in seconds:
        if doing == "computes":
            watch.second("R", 0.9)
        elif doing == "holds the lock and computes":
            watch.second("S", 0.2, answers=False)  # a moment of sleep may be what the look sees
        elif doing == "sleeps":
            watch.second("S", 0.0)
        else:
            watch.second("R", 0.0, answers=False)

    assert watch.notices() == []

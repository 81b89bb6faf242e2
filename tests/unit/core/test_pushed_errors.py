"""The errors of jobs: bounded by number and length, and told no faster than people can read."""

from __future__ import annotations

from nbray.core.pushed_errors import (
    JOBS_MAX,
    MESSAGE_MAX_CHARS,
    ROWS_MAX,
    TEXT_MAX_CHARS,
    TOLD_PER_S,
    ErrorLog,
    PoolSize,
    Telling,
    shortened,
)
from nbray.wire.error_messages import ErrorRow


def test_the_oldest_errors_of_a_job_go_first() -> None:
    log = ErrorLog()
    for n in range(ROWS_MAX + 5):
        log.push(b"a", ErrorRow("task", str(n), float(n)))
    log.push(b"b", ErrorRow("task", "of another job", 0.0))

    assert [row.message for row in log.of(b"a")] == [str(n) for n in range(5, ROWS_MAX + 5)]
    assert [row.message for row in log.of(b"b")] == ["of another job"]
    assert set(log.all()) == {b"a", b"b"}
    assert log.of(b"c") == []


def test_long_texts_leave_room_for_fewer_and_the_last_one_always_stays() -> None:
    log = ErrorLog()
    for _ in range(10):
        log.push(b"a", ErrorRow("task", "x" * (TEXT_MAX_CHARS // 4), 0.0))
    assert len(log.of(b"a")) == 4

    log.push(b"a", ErrorRow("task", "y" * (2 * TEXT_MAX_CHARS), 0.0))
    assert [row.message[0] for row in log.of(b"a")] == ["y"]


def test_the_oldest_job_is_forgotten() -> None:
    log = ErrorLog()
    for n in range(JOBS_MAX + 1):
        log.push(bytes([n]), ErrorRow("task", "t", 0.0))

    assert list(log.all()) == [bytes([n]) for n in range(1, JOBS_MAX + 1)]


def test_a_long_message_keeps_its_ends() -> None:
    assert shortened("short") == "short"
    cut = shortened("a" * MESSAGE_MAX_CHARS + "b")
    assert cut.startswith("aaa")
    assert cut.endswith("ab")
    assert "[1 characters cut]" in cut


def test_so_many_a_second_are_told_and_the_rest_is_counted() -> None:
    telling = Telling()

    told = [telling.may_tell(7.5) for _ in range(TOLD_PER_S + 3)]

    assert told == [True] * TOLD_PER_S + [False] * 3
    assert telling.take_left_out() == 3
    assert telling.take_left_out() == 0
    assert telling.may_tell(8.1)


def test_a_pool_is_large_at_each_multiple_from_three_times_the_cpus_on() -> None:
    size = PoolSize(2)

    told = [workers for workers in [1, 2, 5, 6, 7, 8, 7, 8, 14, 15, 16] if size.grown(workers)]

    assert told == [6, 8, 14, 16]
    assert "6 worker processes on a node with 2 CPUs" in (PoolSize(2).grown(6) or "")

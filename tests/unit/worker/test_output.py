"""A task's stdout: text in, whole lines out."""

from __future__ import annotations

import pytest

from nbray.worker.output import TaskStream


class Sink:
    """Notes what a stream emits."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.stream = TaskStream("stdout", 1, lambda _name, lines: self.batches.append(lines))

    @property
    def lines(self) -> list[str]:
        return [line for batch in self.batches for line in batch]


def test_lines_go_out_when_they_are_whole() -> None:
    sink = Sink()

    sink.stream.write("one\ntwo\nthr")
    assert sink.lines == ["one", "two"]
    sink.stream.write("ee\n")

    assert sink.lines == ["one", "two", "three"]


def test_last_line_without_an_end_goes_out_with_the_task() -> None:
    sink = Sink()

    sink.stream.write("no end")
    sink.stream.end_of_task()
    sink.stream.end_of_task()

    assert sink.lines == ["no end"]


def test_end_of_a_line_that_was_too_long_to_keep_adds_no_empty_line() -> None:
    sink = Sink()

    sink.stream.write("x" * 100_000)
    sink.stream.write("\n")
    sink.stream.write("\n")
    sink.stream.write("next\n")

    assert sink.lines == ["x" * 100_000, "", "next"]


def test_much_text_at_once_leaves_in_bounded_batches_and_whole() -> None:
    sink = Sink()
    text = "".join(f"{n}\n" for n in range(400_000))

    sink.stream.write(text)
    sink.stream.write("y" * 5_000_000 + "\n")

    assert len(sink.batches) > 5
    assert max(sum(map(len, batch)) for batch in sink.batches) <= 2 * 1024 * 1024
    assert sink.lines[:400_000] == text.splitlines()
    assert "".join(sink.lines[400_000:]) == "y" * 5_000_000


def test_only_text_can_be_written() -> None:
    with pytest.raises(TypeError, match="bytes"):
        Sink().stream.write(b"raw")  # type: ignore[arg-type]

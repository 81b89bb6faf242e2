"""Stamps, and who believes which."""

from __future__ import annotations

from nbray.control.records import NewestOnly, Stamp, StampSource


def test_stamps_compare_by_epoch_then_incarnation_then_sequence() -> None:
    assert Stamp(1, 9, 9) < Stamp(2, 1, 1) < Stamp(2, 2, 0) < Stamp(2, 2, 1)


def test_a_source_counts_up_and_takes_a_new_epoch() -> None:
    source = StampSource(cluster_epoch=1, node_incarnation=4)
    first = source.next()

    source.cluster_epoch = 2

    assert first == Stamp(1, 4, 1)
    assert source.next() == Stamp(2, 4, 2)


def test_a_reader_refuses_what_is_older_than_what_it_saw() -> None:
    newest = NewestOnly()

    assert newest.accepts("n", Stamp(1, 2, 5))
    assert not newest.accepts("n", Stamp(1, 1, 99))
    assert newest.accepts("n", Stamp(1, 2, 5))
    assert newest.accepts("n", Stamp(2, 0, 0))
    assert newest.refused == 1


def test_a_reader_judges_each_key_by_itself() -> None:
    newest = NewestOnly()
    newest.accepts("n", Stamp(9, 9, 9))

    assert newest.accepts("m", Stamp(1, 1, 1))
    newest.forget("n")
    assert newest.accepts("n", Stamp(1, 1, 1))

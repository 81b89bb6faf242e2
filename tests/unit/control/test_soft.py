"""The queue of soft writes."""

from __future__ import annotations

from nbray.control.soft import SoftWrites


def command(name: str) -> tuple[tuple[str, ...], ...]:
    return (("SET", name),)


def test_the_newest_of_a_slot_wins_and_goes_to_the_end() -> None:
    soft = SoftWrites()
    soft.put("a", command("old"), keep=False)
    soft.put("b", command("b"), keep=False)

    soft.put("a", command("new"), keep=False)

    assert soft.take(10) == [("b", command("b")), ("a", command("new"))]
    assert not soft.has_pending


def test_when_it_is_full_the_oldest_goes_and_is_counted() -> None:
    soft = SoftWrites(max_slots=2)

    for name in "abc":
        soft.put(name, command(name), keep=True)

    assert [slot for slot, _ in soft.take(10)] == ["b", "c"]
    soft.requeue_kept()
    assert [slot for slot, _ in soft.take(10)] == ["b", "c"]
    assert soft.dropped == 2


def test_what_was_not_sent_comes_back_in_front_unless_something_newer_came() -> None:
    soft = SoftWrites()
    soft.put("a", command("a1"), keep=False)
    soft.put("b", command("b1"), keep=False)
    batch = soft.take(10)
    soft.put("c", command("c1"), keep=False)
    soft.put("b", command("b2"), keep=False)

    soft.give_back(batch)

    assert soft.take(10) == [("a", command("a1")), ("b", command("b2")), ("c", command("c1"))]


def test_kept_facts_are_sent_again_to_a_new_server_in_their_newest_form() -> None:
    soft = SoftWrites()
    soft.put("node", command("n1"), keep=True)
    soft.put("event", command("e1"), keep=False)
    soft.take(10)
    soft.put("node", command("n2"), keep=True)
    soft.take(10)

    soft.requeue_kept()

    assert soft.take(10) == [("node", command("n2"))]


def test_a_forgotten_fact_does_not_come_back() -> None:
    soft = SoftWrites()
    soft.put("node", command("n1"), keep=True)

    soft.forget("node")

    soft.requeue_kept()
    assert soft.take(10) == []


def test_a_slot_that_is_no_longer_kept_is_not_repeated() -> None:
    soft = SoftWrites()
    soft.put("node", command("n1"), keep=True)
    soft.put("node", command("n2"), keep=False)
    soft.take(10)

    soft.requeue_kept()

    assert not soft.has_pending


def test_giving_back_does_not_outgrow_the_bound() -> None:
    soft = SoftWrites(max_slots=2)
    soft.put("a", command("a"), keep=False)
    soft.put("b", command("b"), keep=False)
    batch = soft.take(10)
    soft.put("c", command("c"), keep=False)

    soft.give_back(batch)

    assert [slot for slot, _ in soft.take(10)] == ["b", "c"]

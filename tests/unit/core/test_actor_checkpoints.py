"""Which checkpoints of an actor count at its supervisor, for how long, and who is handed them."""

from __future__ import annotations

from nbray.core.actor_record import ActorState, Command, DropCheckpoints
from nbray.core.actors import CHECKPOINTS_KEPT, STATES_KEPT, ActorTable
from nbray.wire.actor_messages import ActorSpec, SavedCheckpoint

ACTOR, OWNER, NOW = b"actor", b"owner", (0.0, 0)


class Desk:
    """A table with one actor, which is restarted without end."""

    def __init__(self, interval: int = -1) -> None:
        self.table = ActorTable()
        self.out: list[Command] = []
        self.lives = 0
        spec = ActorSpec(
            ACTOR, OWNER, b"class", "C", "", "", False, {}, {}, -1, 1, False, interval, b"", [], 0, "", 1
        )
        self.table.create(spec, *NOW, self.out)

    def start(self) -> bytes:
        self.lives += 1
        lease, process = b"lease %d" % self.lives, b"process %d" % self.lives
        assert self.table.requested(ACTOR, lease)
        self.table.leased(lease, process, 1, "", *NOW, self.out)
        return process

    def live(self) -> bytes:
        process = self.start()
        self.table.started(process, b"", *NOW, self.out)
        return process

    def save(self, process: bytes, incarnation: int, number: int) -> bool:
        return self.table.saved(process, incarnation, SavedCheckpoint(b"%d" % number, 0, []))

    @property
    def dropped(self) -> list[bytes]:
        return [command.actor_id for command in self.out if isinstance(command, DropCheckpoints)]

    @property
    def known(self) -> list[int]:
        return [int(one.checkpoint_id) for one in self.table.actors[ACTOR].checkpoints]


def test_the_newest_come_first_and_outlive_the_process() -> None:
    desk = Desk()
    process = desk.live()
    assert desk.save(process, 0, 1)
    assert desk.save(process, 0, 2)

    desk.table.lost(process, "it died", *NOW, desk.out)
    desk.live()

    assert desk.known == [2, 1]


def test_who_is_not_alive_cannot_save() -> None:
    desk = Desk()
    process = desk.start()
    assert not desk.save(process, 0, 1)
    desk.table.started(process, b"", *NOW, desk.out)
    assert not desk.save(process, 1, 2)
    desk.table.lost(process, "it died", *NOW, desk.out)

    assert not desk.save(process, 0, 3)
    assert not desk.save(desk.live(), 0, 4)
    assert desk.known == []


def test_who_saves_its_state_itself_has_more_than_who_has_it_saved() -> None:
    for interval, kept in ((-1, CHECKPOINTS_KEPT), (5, STATES_KEPT)):
        desk = Desk(interval)
        process = desk.live()
        for number in range(30):
            desk.save(process, 0, number)

        assert desk.known == list(range(29, 29 - kept, -1))


def test_checkpoints_go_when_the_actor_and_its_process_are_gone() -> None:
    desk = Desk()
    process = desk.live()
    desk.save(process, 0, 1)
    desk.table.kill(ACTOR, OWNER, True, *NOW, desk.out)
    assert not desk.dropped

    desk.table.lost(process, "it was killed", *NOW, desk.out)

    assert desk.table.actors[ACTOR].state is ActorState.DEAD
    assert desk.dropped == [ACTOR]
    assert desk.known == []


def test_checkpoints_of_a_dead_owners_actor_go_with_its_process() -> None:
    desk = Desk()
    process = desk.live()
    desk.save(process, 0, 1)
    desk.table.process_lost(OWNER, *NOW, desk.out)
    assert not desk.dropped

    desk.table.lost(process, "its owner is gone", *NOW, desk.out)

    assert desk.dropped == [ACTOR]


def test_an_actor_without_checkpoints_has_none_to_drop() -> None:
    desk = Desk(0)
    process = desk.live()
    desk.table.kill(ACTOR, OWNER, True, *NOW, desk.out)
    desk.table.lost(process, "it was killed", *NOW, desk.out)

    assert not desk.dropped

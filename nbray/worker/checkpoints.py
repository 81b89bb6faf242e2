"""Checkpoints of the actor that this worker is: when they are saved, from which one it comes back.

Called by:  worker.{actor,executor}.
Imports:    core.actors, runtime.{checkpointable,process,...}, worker.{owner_links,saved_state}, wire.
Never:      runs while a call runs: there is one at a time.

A checkpoint counts when the daemon has been told of it. By then all answers to calls that it covers are in
the kernel's hands, where they outlive this process: so no caller ever has to ask for the answer of a call
that must not run again. Then callers are told what it covers, and forget that.
"""

from __future__ import annotations

import logging
import os
import time
import traceback
from collections.abc import Callable
from typing import Any

from nbray.core.actors import checkpoints_kept
from nbray.model import ids
from nbray.runtime.checkpointable import Checkpoint, CheckpointContext
from nbray.runtime.identifiers import ActorCheckpointID, ActorID
from nbray.runtime.process import Process
from nbray.runtime.waiting import Waiter
from nbray.transport.channel import Channel
from nbray.wire.actor_messages import CallsCovered, CheckpointSaved, SavedCheckpoint, StartActor, StateHas
from nbray.wire.codec import encode
from nbray.worker.owner_links import OwnerLink
from nbray.worker.saved_state import SavedStates

logger = logging.getLogger("nbray")

#: So long a checkpoint waits for callers to read their answers; then for the end of the next call.
_PATIENCE_S = 0.05
_LOOK_S = 0.002


def report(text: str) -> None:
    """Tell people that a checkpoint failed."""
    # The seam for ``runtime.pushed_errors.push("checkpoint", text)``.
    logger.error("%s", text)


class Checkpoints:
    """Of one incarnation.

    Attributes:
        calls: of each caller, how many calls the actor's state has.
    """

    def __init__(self, process: Process, message: StartActor) -> None:
        self.calls: dict[bytes, int] = {}
        self._process = process
        self._loop = process.loop
        self._spec = message.spec
        self._incarnation = message.incarnation
        self._saved = list(message.checkpoints)  # the newest first
        self._kept = checkpoints_kept(message.spec)
        self._actor_id = ActorID(message.spec.actor_id)
        self._states = SavedStates(process, message.spec.actor_id)
        self._callers: list[tuple[OwnerLink, Channel]] = []
        self._since_calls = 0
        self._since_s = time.monotonic()
        self._is_late = False  # one is due that could not be saved after the last call

    # --- coming back -----------------------------------------------------------------------------

    def construct(self, cls: Any, make: Callable[[], Any]) -> Any:
        """The actor's instance: from a checkpoint if there is one, else ``make`` makes it."""
        if not (self._incarnation and self._saved):
            return make()
        if self._spec.checkpoint_interval > 0:
            return self._restored(cls, make)
        return self._loaded(make)

    def _restored(self, cls: Any, make: Callable[[], Any]) -> Any:
        """From a state that we saved: without the constructor."""
        for checkpoint in self._saved:
            try:
                state = self._states.read(checkpoint.checkpoint_id)
            except (OSError, ValueError) as exc:
                report(
                    f"{self._name} is restarted from an older checkpoint: the last one is damaged ({exc})."
                )
                continue
            try:
                instance = _revived(cls, self._states.load(state))
            except Exception as exc:  # noqa: BLE001  # whatever user code raises, there is the constructor
                self._failed("restarted from its checkpoint", exc)
                break
            self.calls = dict(checkpoint.calls)
            return instance
        return make()

    def _loaded(self, make: Callable[[], Any]) -> Any:
        """By the actor's own method, after the constructor."""
        instance = make()
        offered = {ActorCheckpointID(c.checkpoint_id): c for c in self._saved}
        available = [Checkpoint(checkpoint_id, c.saved_ms) for checkpoint_id, c in offered.items()]
        try:
            chosen = instance.load_checkpoint(self._actor_id, available)
            if chosen is None:
                return instance
            if chosen not in offered:
                raise ValueError(f"load_checkpoint() returned {chosen!r}, which it was not offered.")
        except Exception as exc:  # noqa: BLE001  # whatever user code raises, there is the constructor
            self._failed("restarted from a checkpoint", exc)
            return make()  # anew: it may have loaded half a state
        self.calls = dict(offered[chosen].calls)
        return instance

    # --- callers ---------------------------------------------------------------------------------

    def greet(self, link: OwnerLink) -> None:
        """A caller connected. Lock held."""
        assert link.channel is not None
        self._callers.append((link, link.channel))
        self._loop.send(link.channel, encode(StateHas(self.calls.get(link.owner_id, 0))), now=True)

    # --- saving ----------------------------------------------------------------------------------

    def after_call(self, owner_id: bytes, instance: Any) -> None:
        """A call of this process was executed, and answered."""
        self.calls[owner_id] = self.calls.get(owner_id, 0) + 1
        self._since_calls += 1
        if not self._is_due(instance):
            return
        if not self._answers_are_out():
            self._is_late = True
            return
        self._is_late = False
        checkpoint_id = os.urandom(ActorCheckpointID.SIZE_BYTES)
        try:
            if self._spec.checkpoint_interval > 0:
                self._states.write(checkpoint_id, _state_of(instance))
            else:
                instance.save_checkpoint(self._actor_id, ActorCheckpointID(checkpoint_id))
        except Exception as exc:  # noqa: BLE001  # whatever user code raises is reported
            self._failed("saved", exc)
            if self._spec.checkpoint_interval > 0:
                self._since_calls = 0
            return
        self._since_calls, self._since_s = 0, time.monotonic()
        self._count(SavedCheckpoint(checkpoint_id, int(time.time() * 1000), list(self.calls.items())))
        self._expire(instance)

    def _is_due(self, instance: Any) -> bool:
        interval = self._spec.checkpoint_interval
        if interval > 0:
            return self._since_calls >= interval
        elapsed_ms = int((time.monotonic() - self._since_s) * 1000)
        try:
            answer = instance.should_checkpoint(
                CheckpointContext(self._actor_id, self._since_calls, elapsed_ms)
            )
        except Exception as exc:  # noqa: BLE001  # whatever user code raises is reported
            self._failed("asked whether to save", exc)
            return False
        return bool(answer) or self._is_late

    def _answers_are_out(self) -> bool:
        """Whether all answers are on their way, whatever becomes of this process."""
        loop = self._loop
        until_s = time.monotonic() + _PATIENCE_S
        with loop.guard:
            while True:
                with loop.lock:
                    self._callers = [(link, c) for link, c in self._callers if link.channel is c]
                    for _link, channel in self._callers:
                        loop.send_rows(channel, [], now=True)
                    if not any(channel.outgoing or channel.rows for _link, channel in self._callers):
                        return True
                if self._is_late or time.monotonic() >= until_s:
                    return False
                loop.wait(Waiter(), time.monotonic() + _LOOK_S)

    def _count(self, checkpoint: SavedCheckpoint) -> None:
        """From now on it counts."""
        process, loop = self._process, self._loop
        self._saved.insert(0, checkpoint)
        with loop.guard, loop.lock:
            process.tell_daemon(CheckpointSaved(self._spec.actor_id, self._incarnation, checkpoint))
            waits = process.objects.creating.has_backlog()
        if waits:  # it must be in the kernel's hands before callers forget anything
            process.pin([])
        with loop.guard, loop.lock:
            for link, channel in self._callers:
                if link.channel is channel:
                    loop.send(channel, encode(CallsCovered(self.calls.get(link.owner_id, 0))), now=False)

    def _expire(self, instance: Any) -> None:
        while len(self._saved) > self._kept:
            expired = self._saved.pop().checkpoint_id
            try:
                if self._spec.checkpoint_interval > 0:
                    self._states.remove(expired)
                else:
                    instance.checkpoint_expired(self._actor_id, ActorCheckpointID(expired))
            except Exception as exc:  # noqa: BLE001  # whatever user code raises is reported
                self._failed("told that a checkpoint expired", exc)

    # --- people ----------------------------------------------------------------------------------

    @property
    def _name(self) -> str:
        return f"Actor {self._spec.class_name} {ids.short(self._spec.actor_id)}"

    def _failed(self, what: str, exc: Exception) -> None:
        report(f"{self._name} could not be {what}:\n{''.join(traceback.format_exception(exc))}")


def _state_of(instance: Any) -> Any:
    save = getattr(instance, "__ray_save__", None)
    return instance if save is None else save()


def _revived(cls: Any, state: Any) -> Any:
    """What ``_state_of`` gave becomes an instance again."""
    if not hasattr(cls, "__ray_restore__"):
        return state
    instance = cls.__new__(cls)
    instance.__ray_restore__(state)
    return instance

"""Performing what the directory of objects orders.

Called by:  store.{server,creating,slab_requests,disk_jobs,pressure}.
Imports:    nbray.core.object_commands, nbray.store.space, nbray.wire.
Never:      decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from nbray.core.allocator import Extent
from nbray.core.object_commands import Command, Fetch, Release, ReleaseDisk
from nbray.store.space import Space
from nbray.wire.base import Message


class Performer:
    """Call it with commands.

    Args:
        send: delivers a message to a process; must not raise, and drops what a lost one would get.
    """

    def __init__(self, space: Space, send: Callable[[bytes, Message], object]) -> None:
        self.send = send
        #: Called when space of the arena came back, once after all commands.
        self.on_room: Callable[[], None] = lambda: None
        #: Called with each object that must be read from the disk, after all commands.
        self.on_fetch: Callable[[bytes], None] = lambda _object_id: None
        #: Called with each extent of the spill file that is nobody's any more.
        self.on_disk_released: Callable[[Extent], None] = lambda _extent: None
        self._space = space

    def __call__(self, commands: Iterable[Command]) -> None:
        room = False
        fetches = []
        for command in commands:
            if isinstance(command, Release):
                room |= self._space.release(command.extent)
            elif isinstance(command, ReleaseDisk):
                self.on_disk_released(command.extent)
            elif isinstance(command, Fetch):
                fetches.append(command.object_id)
            else:
                self.send(command.process_id, command.message)
        for object_id in fetches:
            self.on_fetch(object_id)
        if room:
            self.on_room()

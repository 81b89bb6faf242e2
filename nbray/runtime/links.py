"""An owner's connections to the workers that it leased.

Called by:  runtime.submitter.
Imports:    core.{leases,tasks}, transport, wire.
Never:      sends or reads by itself.
"""

from __future__ import annotations

from nbray.core.leases import Lease
from nbray.core.tasks import TaskSpec
from nbray.model.resources import CPU, UNIT
from nbray.transport.channel import Channel
from nbray.wire.messages import DefineTask


class Link:
    """A connection to one worker. It stays open between leases."""

    __slots__ = ("channel", "functions", "lease", "process_id", "specs")

    def __init__(self, process_id: bytes) -> None:
        self.process_id = process_id
        self.channel: Channel | None = None
        self.functions: set[bytes] = set()  # that it was told
        self.specs: set[int] = set()
        self.lease: Lease | None = None


def definition_of(spec: TaskSpec) -> DefineTask:
    """What a worker is told once of all calls of a kind."""
    threads = max(1, dict(spec.shape).get(CPU, 0) // UNIT)
    return DefineTask(
        spec.spec_id, spec.function_id, spec.name, spec.num_returns, spec.depth, spec.cell, threads
    )

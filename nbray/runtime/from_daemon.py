"""What a process does with each message of its daemon.

Called by:  runtime.process.
Imports:    runtime.describing, wire.
Never:      does anything itself: each line names who does. Lock held.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from nbray.runtime import describing, waits
from nbray.runtime.questions import ANSWERS
from nbray.wire.actor_messages import ActorUpdate
from nbray.wire.base import Message
from nbray.wire.cancel_messages import CancelOf
from nbray.wire.error_messages import ErrorPushed
from nbray.wire.memory_messages import DescribeEntries
from nbray.wire.messages import (
    Advice,
    LeaseGranted,
    LeaseInfeasible,
    LogLines,
    ReclaimLease,
    WorkerLost,
)
from nbray.wire.object_messages import (
    CreateFailed,
    DropObjects,
    ObjectCreated,
    ObjectGone,
    ObjectReady,
    ObjectsLost,
    RecallObjects,
    RecallSlab,
    SettleParcels,
    SlabGranted,
    Unheld,
)
from nbray.wire.waiting_messages import DescribeWaits, MemoryEased, Notice

logger = logging.getLogger("nbray")

#: Each takes the ``runtime.process.Process`` (which imports this module) and the message.
HANDLERS: dict[type[Message], Callable[[Any, Any], None]] = {
    LeaseGranted: lambda p, m: p.submitter.on_granted(m),
    WorkerLost: lambda p, m: p.submitter.on_worker_lost(m),
    ActorUpdate: lambda p, m: p.actors.on_update(m),
    ReclaimLease: lambda p, m: p.submitter.on_reclaim(m.lease_id, m.when_idle),
    LeaseInfeasible: lambda p, m: p.notices.infeasible(m),
    Notice: lambda p, m: p.notices.arrived(m),
    MemoryEased: lambda p, _m: p.submitter.relief.eased(),
    Advice: lambda p, m: p.loop.later.append(partial(logger.warning, "%s", m.text)),
    ObjectCreated: lambda p, m: p.objects.on_created(m),
    CreateFailed: lambda p, m: p.objects.on_create_failed(m),
    ObjectReady: lambda p, m: p.objects.on_ready(m),
    ObjectGone: lambda p, m: p.objects.on_gone(m),
    SlabGranted: lambda p, m: p.on_slab(m),
    Unheld: lambda p, m: p.objects.on_unheld(m),
    SettleParcels: lambda p, m: p.submitter.on_settle_parcels(m),
    RecallObjects: lambda p, m: p.objects.on_recall(m),
    ObjectsLost: lambda p, m: p.objects.on_lost(m),
    DropObjects: lambda p, m: p.objects.freeing.free(o for o, _owner in m.held),
    RecallSlab: lambda p, m: p.objects.slabs.recalled(m),
    LogLines: lambda p, m: p.logs.arrived(m),
    **dict.fromkeys(ANSWERS, lambda p, m: p.questions.answered(m)),
    ErrorPushed: lambda p, m: p.pushed.arrived(m),
    DescribeEntries: describing.answer,
    DescribeWaits: waits.answer,
    CancelOf: lambda p, m: p.submitter.cancelling.asked(m),
}

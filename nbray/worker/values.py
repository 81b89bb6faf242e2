"""What a call takes and what it gives, between bytes and values.

Called by:  worker.{executor,concurrent,async_host}.
Imports:    core.{references,tasks}, nbray.model, runtime, wire, worker.owner_links.
Never:      keeps anything of a call: many may be under way.
"""

from __future__ import annotations

from typing import Any

from nbray.core.references import Away, Entry
from nbray.core.tasks import parcel_id
from nbray.model import ids
from nbray.model.limits import INLINE_MAX_BYTES, INLINE_TOTAL_MAX_BYTES
from nbray.runtime.arguments import fill_in
from nbray.runtime.process import Inner, Process
from nbray.runtime.refs import ObjectRef
from nbray.runtime.results import returned
from nbray.runtime.serialization import Serialized, deserialize, serialize
from nbray.wire.base import Descriptor, Value
from nbray.wire.messages import TaskCall
from nbray.worker.owner_links import Known, OwnerLink

#: The results of a call, whether they are its error, and the references in each of them.
Outcome = tuple[list[Value], bool, Inner]


class Values:
    """Reads arguments and packs results, in the worker of ``process``."""

    def __init__(self, process: Process) -> None:
        self._process = process

    def arguments(
        self, link: OwnerLink, call: TaskCall, borrowed: list[Entry]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What the function is called with; what lies in the store is appended to ``borrowed``."""
        args, kwargs = self._value(link, call.args, borrowed)
        if call.dependencies:
            values = [self._value(link, value, borrowed) for value in call.dependencies]
            args, kwargs = fill_in(args, kwargs, values)
        return args, kwargs

    def _value(self, link: OwnerLink, value: Value, borrowed: list[Entry]) -> Any:
        if type(value) is bytes:
            return deserialize(value)
        assert type(value) is Descriptor
        objects = self._process.objects
        with self._process.loop.lock:
            entry = objects.table.borrow_argument(value.object_id, link.owner_id)
            if entry.value is None or type(entry.value) is Away:
                objects.provide(entry, value)
        borrowed.append(entry)
        return objects.load(entry)

    def results(self, link: OwnerLink, call: TaskCall, known: Known, value: Any) -> Outcome:
        """What the function returned."""
        # All are pickled before the first is stored: a failure leaves nothing in the store.
        packed = [serialize(item, root=root) for root, item in returned(known.name, value, known.num_returns)]
        values, inline_bytes = [], 0
        for index, item in enumerate(packed):
            inline_bytes += item.size_bytes if item.size_bytes <= INLINE_MAX_BYTES else 0
            values.append(self._pack(link, call, index, item, inline_bytes > INLINE_TOTAL_MAX_BYTES))
        return values, False, self.parcel(link, call, [item.refs for item in packed])

    def parcel(self, link: OwnerLink, call: TaskCall, refs: list[list[ObjectRef]]) -> Inner:
        """References in the results: nobody may let go of them while they travel."""
        if not any(refs):
            return ()
        return self._process.send_parcel(parcel_id(call.task_id, call.attempt), link.owner_id, refs)

    def _pack(
        self, link: OwnerLink, call: TaskCall, index: int, packed: Serialized, seal: bool = False
    ) -> Value:
        if packed.size_bytes <= INLINE_MAX_BYTES and not (seal or call.seal_results):
            return packed.to_bytes()
        return self._process.store_result(ids.result_id(call.task_id, index), link.owner_id, packed)

"""Why is it not there? Asks all processes, round after round, until the chain of causes is known.

Called by:  api.explaining.
Imports:    core.{wait_chain,waits}, runtime.{code_names,process,waits}, wire.
Never:      waits for a process that is busy for longer than the daemon does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nbray.core.wait_chain import Link, chain
from nbray.core.waits import Known
from nbray.runtime import waits
from nbray.runtime.code_names import named
from nbray.wire.waiting_messages import GetWaits, WaitsReport

if TYPE_CHECKING:
    from nbray.runtime.process import Process
    from nbray.runtime.refs import ObjectRef

#: Each round follows a chain into the next process; longer ones are cut.
_ROUNDS_MAX = 8


def explain(process: Process, ref: ObjectRef) -> list[Link]:
    """The chain from a reference to what it waits for.

    Raises:
        NbrayError: the session is lost, or the reference is not of this one.
    """
    object_id = process.gets.entry(ref).object_id
    known = Known()
    wanted = [object_id]
    asked: set[bytes] = set()
    for _ in range(_ROUNDS_MAX):
        asked.update(wanted)
        _ask(process, known, wanted)
        missing = known.unknown() if object_id in known.objects else [object_id, *known.unknown()]
        wanted = [each for each in missing if each not in asked]
        if not wanted:
            break
    return [_in_words(link) for link in chain(known, object_id)]


def _in_words(link: Link) -> Link:
    """Cells are called as people call them."""
    facts = link.facts
    if "stack" in facts:
        facts = {**facts, "stack": [named(line) for line in facts["stack"]]}
    return link._replace(text=named(link.text), facts=facts)


def _ask(process: Process, known: Known, object_ids: list[bytes]) -> None:
    report = process.ask(lambda number: GetWaits(number, object_ids, True))
    assert isinstance(report, WaitsReport)
    known.add_report(report)
    with process.loop.guard, process.loop.lock:  # what this process knows is newer than its own answer
        process.objects.drain()
        known.add(waits.describe(process, [*object_ids, *known.unknown()], True))

"""Events of all kinds reach Redis, where monitors on other nodes would read them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

import nbray
from nbray.api.session import set_current_cell
from nbray.control.client import ControlClient
from nbray.control.config import USER
from nbray.control.records import StampSource
from nbray.control.secrets import redis_password, redis_values_key
from nbray.control.tables import ControlTables
from nbray.events.schema import CELL, KIND, NAME, STATE
from tests.support.sessions import session
from tests.support.waiting import until

pytestmark = pytest.mark.integration

Fact = tuple[str, str]


async def read_facts(folder: Path) -> tuple[set[Fact], set[str]]:
    """Pairs (kind, state) in the stream, and the cells that events of ``twice`` name."""
    token = (folder / "token").read_bytes()
    client = ControlClient(str(folder / "redis.sock"), username=USER, password=redis_password(token))
    reading = asyncio.get_running_loop().create_task(client.run())
    try:
        await client.connect(10)
        cluster_id = folder.name.removeprefix("nbray-")
        tables = ControlTables(
            client, cluster_id, values_key=redis_values_key(token), stamps=StampSource(1, 1)
        )
        rows = [row for _position, _stamp, record in await tables.events.read() for row in record.rows]
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
    facts = {(str(row[KIND]), str(row[STATE])) for row in rows}
    return facts, {str(row[CELL]) for row in rows if row[NAME] == "twice"}


def test_tasks_workers_objects_and_the_node_are_told_of() -> None:
    @nbray.remote
    def twice(array: np.ndarray) -> np.ndarray:
        return 2 * array

    with session(num_cpus=1):
        set_current_cell("In[7]")
        ref = nbray.put(np.ones(1_000_000))
        assert nbray.get(twice.remote(ref))[0] == 2
        del ref
        folder = Path(nbray.status().to_dict()["session_dir"])

        expected = {
            ("task", "submitted"), ("task", "finished"),
            ("object", "created"), ("object", "sealed"), ("object", "freed"),
            ("worker", "starting"), ("worker", "idle"), ("worker", "leased"), ("node", "up"),
        }  # fmt: skip
        until(lambda: expected <= asyncio.run(read_facts(folder))[0], f"Redis has {sorted(expected)}")
        assert asyncio.run(read_facts(folder))[1] == {"In[7]"}
    set_current_cell("")

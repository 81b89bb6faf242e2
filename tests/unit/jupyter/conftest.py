"""A shell in this process, and a session that only pretends.

The shell is IPython's own, without history and with its files in a temporary folder. ``fake`` stands
in for ``nbray.api.session``: what the magics do is compared with what they asked it for.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from nbray.api import listing, looking, session
from nbray.jupyter import kernel
from nbray.jupyter.kernel import magics
from nbray.observe import renderer
from nbray.observe.actors import Actors
from nbray.observe.cards import Dropped, Killed, SessionInfo
from nbray.observe.memory import Memory
from nbray.observe.status import ClusterStatus


def row_held_by(kind: str, name: str, leak: str = "") -> dict[str, Any]:
    """An object as ``nbray.memory()`` tells it."""
    return {
        "object": "00" * 20, "size_bytes": 5, "state": "inline", "place": "owner", "leak": leak,
        "owner": {"process": "driver", "pid": 1},
        "holders": [{"kind": kind, "name": name, "count": 1, "pid": 0}],
        "origin": {"kind": "", "name": "", "cell": "", "file": "", "line": 0},
    }  # fmt: skip


ACTOR: dict[str, Any] = {
    "ActorID": "ab" * 16, "Class": "Model", "Name": "", "State": "ALIVE", "Pid": 7, "Restarts": 0,
    "Resources": {}, "Cell": "In[3]", "Why": "",
}  # fmt: skip


class FakeSession:
    """Remembers what it was asked for."""

    def __init__(self) -> None:
        self.info: SessionInfo | None = None
        self.lost = False
        self.asked: list[dict[str, Any]] = []
        self.cells: list[str] = []
        self.dropped: list[tuple[str, ...]] = []
        self.killed: list[str] = []

    def init(self, address: str | None = None, **settings: Any) -> SessionInfo:
        settings = {"address": address, **settings}
        self.asked.append(settings)
        if settings["object_store_memory"] == 1:
            raise ValueError("The object store needs at least 75 MiB, not 1 B.")
        self.lost = False
        cpus = 2 if settings["num_cpus"] is None else settings["num_cpus"]
        self.info = SessionInfo({}, nodes=1, resources={"CPU": cpus * 10_000}, settings=settings)
        return self.info

    def session_info(self) -> SessionInfo | None:
        return self.info

    def is_initialized(self) -> bool:
        return self.info is not None and not self.lost

    def status(self) -> ClusterStatus:
        assert self.info is not None
        return ClusterStatus({"nodes": [{"name": "demo", "resources": self.info.resources}]})

    def memory(self) -> Memory:
        assert self.info is not None
        return Memory([row_held_by("variable", "x"), row_held_by("output", "Out[3]", leak="output")])

    def drop(self, *names: str) -> Dropped:
        if "nothing" in names:
            raise ValueError("There is nothing to drop by the name 'nothing'.")
        self.dropped.append(names)
        return Dropped(1 << 20)

    def actors(self) -> Actors:
        assert self.info is not None
        return Actors({"ab" * 16: ACTOR})

    def kill(self, word: str) -> Killed:
        if word == "nobody":
            raise ValueError("No living actor is called 'nobody'.")
        self.killed.append(word)
        return Killed(word)

    def shutdown(self) -> int:
        stopped, self.info = (5 if self.info is not None else 0), None
        return stopped

    def set_current_cell(self, label: str) -> None:
        self.cells.append(label)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeSession:
    """The session that the magics talk to."""
    fake = FakeSession()
    for name in ("init", "session_info", "is_initialized", "status", "shutdown", "set_current_cell"):
        monkeypatch.setattr(session, name, getattr(fake, name))
    monkeypatch.setattr(looking, "memory", fake.memory)
    monkeypatch.setattr(listing, "actors", fake.actors)
    monkeypatch.setattr(listing, "kill_actor", fake.kill)
    monkeypatch.setattr(magics, "drop", fake.drop)
    monkeypatch.delenv("NBRAY_RENDERER", raising=False)
    monkeypatch.setattr(renderer, "_chosen", renderer.AUTO)
    return fake


@pytest.fixture(scope="session")
def bare_shell(tmp_path_factory: pytest.TempPathFactory) -> InteractiveShell:
    """One shell for all tests here: making one takes a while."""
    config = Config()
    config.HistoryManager.enabled = False
    config.Completer.use_jedi = False
    config.InteractiveShell.ipython_dir = str(tmp_path_factory.mktemp("ipython"))
    return InteractiveShell(config=config)


@pytest.fixture
def shell(bare_shell: InteractiveShell, fake: FakeSession) -> Iterator[InteractiveShell]:
    """A shell with nbray loaded."""
    kernel.load(bare_shell)
    yield bare_shell
    kernel.unload(bare_shell)

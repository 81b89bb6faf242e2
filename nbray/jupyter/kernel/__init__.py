"""The half of nbray's Jupyter support that lives in the kernel: what ``%load_ext nbray`` loads.

Called by:  nbray (``load_ipython_extension`` and its opposite).
Imports:    IPython, jupyter.kernel.*.
Never:      starts a session by being loaded; leaves anything behind when it is unloaded.
"""

from __future__ import annotations

from typing import Any

from IPython.core.interactiveshell import InteractiveShell

from nbray.jupyter.kernel import completion
from nbray.jupyter.kernel.cells import CellStamp
from nbray.jupyter.kernel.magics import RayMagics
from nbray.jupyter.kernel.tracebacks import Tracebacks

__all__ = ["load", "unload"]


class _Loaded:
    """What was added to one shell, and what stood there before."""

    def __init__(self, shell: InteractiveShell) -> None:
        line_magics = shell.magics_manager.magics["line"]
        self.magics = RayMagics(shell)
        self.names = tuple(self.magics.magics["line"])
        self.replaced: dict[str, Any] = {n: line_magics[n] for n in self.names if n in line_magics}
        self.hooks = {n: completion.completer(getattr(self.magics, n).parser) for n in self.names}
        self.cells = CellStamp(shell)
        self.tracebacks = Tracebacks(shell)


_loaded: dict[InteractiveShell, _Loaded] = {}


def load(shell: InteractiveShell) -> None:
    """Add the magics, their completion and the cell hooks to a shell; a second time does nothing."""
    if shell in _loaded:
        return
    loaded = _Loaded(shell)
    shell.register_magics(loaded.magics)
    for name, hook in loaded.hooks.items():
        completion.add(shell, name, hook)
    loaded.cells.register()
    loaded.tracebacks.register()
    _loaded[shell] = loaded


def unload(shell: InteractiveShell) -> None:
    """Take out what ``load`` added and put back what it replaced; a session goes on running."""
    loaded = _loaded.pop(shell, None)
    if loaded is None:
        return
    loaded.cells.unregister()
    loaded.tracebacks.unregister()
    for name, hook in loaded.hooks.items():
        completion.remove(shell, name, hook)
    manager = shell.magics_manager
    for name in loaded.names:
        if getattr(manager.magics["line"].get(name), "__self__", None) is loaded.magics:
            del manager.magics["line"][name]
    manager.magics["line"].update(loaded.replaced)
    if manager.registry.get("RayMagics") is loaded.magics:
        del manager.registry["RayMagics"]

"""How a process of ours is started: the interpreter's command line and environment.

Called by:  cluster.launch (the daemon), node.zygote (the zygote).
Imports:    the standard library.
Never:      hands a secret on, by argument or by environment.
"""

from __future__ import annotations

import os
import sys

#: The import path travels here; the new process takes it out before anything can inherit it.
_PATH_VARIABLE = "NBRAY_SYS_PATH"
_SECRET_VARIABLES = frozenset({"NBRAY_TOKEN"})

#: ``python -c`` puts the working directory on the path; the starter's path is the right one. Nothing
#: becomes garbage while modules are imported, so the collector rests until ``main`` enables it.
_BOOT = (
    "import gc, os, sys; gc.disable(); sys.path[:] = os.environ.pop('{variable}').split(os.pathsep); "
    "from {module} import main; main()"
)


def command(module: str, *arguments: str, site: bool = True) -> list[str]:
    """A command line that runs ``module.main()``; ``environment`` makes the environment for it.

    Without ``site`` it starts 5 to 10 ms sooner, and what the environment hooks in by ``.pth`` files
    is not there: for processes that never run code of the user's.
    """
    flags = [] if site else ["-S"]
    return [sys.executable, *flags, "-c", _BOOT.format(variable=_PATH_VARIABLE, module=module), *arguments]


def environment(sys_path: list[str]) -> dict[str, str]:
    """This process's environment without secrets, and with the import path for the new one."""
    inherited = {name: value for name, value in os.environ.items() if name not in _SECRET_VARIABLES}
    return {**inherited, _PATH_VARIABLE: os.pathsep.join(sys_path)}

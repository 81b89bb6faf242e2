"""``%ray_init``, ``%ray_status``, ``%ray_objects``, ``%ray_actors``, ``%ray_shutdown``.

Called by:  jupyter.kernel (registers them), IPython (runs them).
Imports:    nbray.api.session, nbray.jupyter, nbray.observe, IPython.
Never:      prints: a magic returns a value that shows itself, so that ``s = %ray_status`` works.

A mistake in a line is a ``UsageError``, which IPython shows in one line. Errors of the cluster pass
through as they are.
"""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from IPython.core.error import UsageError
from IPython.core.magic import Magics, line_magic, magics_class
from IPython.core.magic_arguments import argument, magic_arguments, parse_argstring

from nbray.api import session
from nbray.jupyter import actors, drop, kill, objects, shutdown, status
from nbray.jupyter.kernel import options
from nbray.observe import renderer
from nbray.observe.actors import Actors
from nbray.observe.cards import Dropped, Killed, SessionInfo, Stopped
from nbray.observe.memory import Memory
from nbray.observe.status import ClusterStatus

#: The settings of a session that ``%ray_init`` can choose: name in ``init()`` -> option, default.
SETTINGS: dict[str, tuple[str, Any]] = {
    "address": ("--address", None),
    "num_cpus": ("--num-cpus", None),
    "resources": ("--resources", None),
    "object_store_memory": ("--object-store", None),
    "namespace": ("--namespace", None),
    "log_to_driver": ("--no-logs", True),
}


@magics_class
class RayMagics(Magics):
    """The magics of nbray."""

    @line_magic
    @magic_arguments()
    @argument("--num-cpus", type=options.count, metavar="N", help="CPUs to schedule on; default: all.")
    @argument(
        "--object-store",
        type=options.size_bytes,
        metavar="SIZE",
        dest="object_store_memory",
        help="Size of the shared-memory object store, as 200MB or 1GiB.",
    )
    @argument("--address", type=options.text, metavar="ADDR", help="Join this cluster; default: start one.")
    @argument("--namespace", type=options.text, metavar="NAME", help="Namespace for the names of actors.")
    @argument(
        "--resources",
        type=options.quantities,
        metavar="'NAME=NUMBER,...'",
        help="Resources of your own that tasks can ask for.",
    )
    @argument("--no-logs", action="store_false", dest="log_to_driver", help="Do not show what tasks print.")
    @argument(
        "--renderer", type=options.text, choices=renderer.RENDERERS, help="How results show themselves."
    )
    @argument("--quiet", action="store_true", help="Show nothing.")
    def ray_init(self, line: str) -> SessionInfo | None:
        """Start a cluster on this machine, or join one.

        Running the line again changes nothing and returns the same session; other settings need
        %ray_shutdown first.

        Example: %ray_init --num-cpus 4 --object-store 1GiB
        """
        asked = parse_argstring(self.ray_init, line)
        if asked.renderer:
            renderer.choose(asked.renderer)
        info = session.session_info() if session.is_initialized() else None
        if info is None:
            info = _start(asked)
        else:
            _require_same(asked, info)
        return None if asked.quiet else info

    @line_magic
    @magic_arguments()
    @argument("--json", action="store_true", help="Return plain data: dicts, lists, strings and numbers.")
    def ray_status(self, line: str) -> ClusterStatus | dict[str, Any]:
        """Show nodes, workers, store and tasks as they are now.

        Example: s = %ray_status
        """
        asked = parse_argstring(self.ray_status, line)
        return status().to_dict() if asked.json else status()

    @line_magic
    @magic_arguments()
    @argument("--holders", action="store_true", help="Show every holder of each object.")
    @argument(
        "--leaks",
        action="store_true",
        help="Show what only Out[n], _ or the last traceback holds, or nobody known, and what to do.",
    )
    @argument("--json", action="store_true", help="Return plain data: dicts, lists, strings and numbers.")
    @argument(
        "--drop",
        type=options.text,
        nargs="+",
        metavar="NAME",
        help="Let go of these: Out[3], Out (all), _, traceback (the last one), or variables of yours.",
    )
    def ray_objects(self, line: str) -> Memory | Dropped | dict[str, Any]:
        """Show which objects there are, how large, where, who holds them and which line made them.

        Example: %ray_objects --leaks
        """
        asked = parse_argstring(self.ray_objects, line)
        if asked.drop:
            return _drop(asked.drop)
        found = objects()
        found = found.holders() if asked.holders else found
        found = found.leaks() if asked.leaks else found
        return found.to_dict() if asked.json else found

    @line_magic
    @magic_arguments()
    @argument("--json", action="store_true", help="Return plain data: dicts, lists, strings and numbers.")
    @argument(
        "--kill",
        type=options.text,
        metavar="ACTOR",
        help="End this one for good: a name or an ID from the table.",
    )
    def ray_actors(self, line: str) -> Actors | Killed | dict[str, Any]:
        """Show which actors there are and were, how they are, and why they died.

        Example: %ray_actors --kill parameter_server
        """
        asked = parse_argstring(self.ray_actors, line)
        if asked.kill:
            try:
                return kill(asked.kill)
            except ValueError as exc:
                raise UsageError(str(exc)) from exc
        return actors().to_dict() if asked.json else actors()

    @line_magic
    @magic_arguments()
    def ray_shutdown(self, line: str) -> Stopped:
        """End the session and all its processes. The value is how many there were."""
        parse_argstring(self.ray_shutdown, line)
        return shutdown()


def _drop(names: list[str]) -> Dropped:
    try:
        return drop(*names)
    except ValueError as exc:
        raise UsageError(str(exc)) from exc


def _start(asked: Namespace) -> SessionInfo:
    try:
        return session.init(**{name: getattr(asked, name) for name in SETTINGS})
    except ValueError as exc:
        raise UsageError(str(exc)) from exc


def _require_same(asked: Namespace, info: SessionInfo) -> None:
    """Raise unless the line asks for the session that runs; a line without settings accepts any."""
    wanted = {name: getattr(asked, name) for name in SETTINGS}
    defaults = {name: default for name, (_, default) in SETTINGS.items()}
    if wanted == defaults:
        return
    running = {name: info.settings.get(name, default) for name, default in defaults.items()}
    differing = [
        f"{option} ({_shown(running[name])} now, {_shown(wanted[name])} asked for)"
        for name, (option, _) in SETTINGS.items()
        if wanted[name] != running[name]
    ]
    if differing:
        raise UsageError(
            f"A session with other settings is running: {'; '.join(differing)}. "
            "Run %ray_shutdown, then this line again; it ends running tasks and drops stored objects."
        )


def _shown(value: Any) -> str:
    return "default" if value is None else repr(value)

"""nbray in Jupyter: ``%load_ext nbray`` and what it brings.

Called by:  nbray (its load hooks), users who want the magics as plain functions.
Imports:    nbray.api, nbray.observe; IPython only inside ``jupyter.kernel``.
Never:      offers in a notebook what a script cannot have: each magic has its function.

=================  ==========================================
``%ray_init``      :func:`nbray.init`
``%ray_status``    :func:`status`
``%ray_objects``   :func:`objects`, :func:`drop`
``%ray_actors``    :func:`actors`, :func:`kill`
``%ray_shutdown``  :func:`shutdown`
=================  ==========================================
"""

from __future__ import annotations

from nbray.api import looking, session
from nbray.observe.actors import Actors
from nbray.observe.cards import Dropped, Killed, Stopped
from nbray.observe.memory import Memory
from nbray.observe.status import ClusterStatus

__all__ = ["actors", "drop", "kill", "objects", "shutdown", "status"]


def status() -> ClusterStatus:
    """A snapshot of the cluster; without a session one that says so, not an error."""
    return session.status() if session.is_initialized() else ClusterStatus()


def objects() -> Memory:
    """Which objects there are and who holds them: ``nbray.memory()``; without a session an empty table."""
    return looking.memory() if session.is_initialized() else Memory([])


def actors() -> Actors:
    """Which actors there are and were: ``nbray.actors()``; without a session an empty table."""
    if not session.is_initialized():
        return Actors()
    from nbray.api import listing

    found = listing.actors()
    assert isinstance(found, Actors)
    return found


def kill(word: str) -> Killed:
    """End an actor for good.

    Args:
        word: its name, or its ID as the table shows it.

    Raises:
        ValueError: no living actor, or several, are called that.
        RayConnectionError: no session is running.
    """
    from nbray.api import listing

    return listing.kill_actor(word)


def drop(*names: str) -> Dropped:
    """Make the notebook let go of what it holds by these names. The value is how many bytes came back.

    Args:
        names: outputs as ``"Out[3]"``, all of them as ``"Out"``; ``"_"``, ``"__"``, ``"___"``; the last
            traceback as ``"traceback"``; variables of yours by their names.

    Raises:
        ValueError: there is nothing of that name, or no notebook; nothing was dropped.
        RayConnectionError: no session is running.
    """
    from IPython.core.getipython import get_ipython

    from nbray.jupyter.kernel.dropping import drop as drop_from

    shell = get_ipython()
    if shell is None:
        raise ValueError("drop() is for notebooks: this process has no outputs that a shell keeps.")
    return drop_from(shell, names)


def shutdown() -> Stopped:
    """End the session. The value is the number of processes that were ended."""
    return Stopped(session.shutdown())

"""nbray in Jupyter: ``%load_ext nbray`` and what it brings.

Called by:  nbray (its load hooks), users who want the magics as plain functions.
Imports:    nbray.api, nbray.observe; IPython only inside ``jupyter.kernel``.
Never:      offers in a notebook what a script cannot have: each magic has its function.

=================  ==========================================
``%ray_init``      :func:`nbray.init`
``%ray_status``    :func:`status`
``%ray_shutdown``  :func:`shutdown`
=================  ==========================================
"""

from __future__ import annotations

from nbray.api import session
from nbray.observe.cards import Stopped
from nbray.observe.status import ClusterStatus

__all__ = ["shutdown", "status"]


def status() -> ClusterStatus:
    """A snapshot of the cluster; without a session one that says so, not an error."""
    return session.status() if session.is_initialized() else ClusterStatus()


def shutdown() -> Stopped:
    """End the session. The value is the number of processes that were ended."""
    return Stopped(session.shutdown())

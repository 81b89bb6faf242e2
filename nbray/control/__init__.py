"""Redis and nothing else: where it comes from, how the embedded one runs, what is kept in it.

Called by:  cluster (``source``: before anything starts), node (all of it).
Imports:    nbray.model; msgspec; redis-py, but only once a client connects.
Never:      is on the path of a task, holds the truth about running work, unpickles.

Read in this order: ``source`` (which Redis), ``config`` and ``server`` (run our own), ``supervisor``
(keep it running), ``secrets`` (passwords and tags), ``client`` (talk to it), ``records`` and
``tables`` (the keys and what lies under them).
"""

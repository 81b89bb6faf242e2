"""The node daemon: one per node; resources, leases, worker processes, the object store, logs, Redis.

Called by:  cluster, which starts ``nbray.node.__main__`` and imports none of this.
Imports:    nbray.store, control, events, transport, core, wire, model.
Never:      unpickles, runs user code, or imports nbray.runtime.
"""

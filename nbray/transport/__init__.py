"""How bytes move between processes: sockets, framed channels, process plumbing of Linux.

Called by:  control, store, runtime, node, worker, cluster.
Imports:    nbray.wire, nbray.model.
Never:      knows what a task or an object is.
"""

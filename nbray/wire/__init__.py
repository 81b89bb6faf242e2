"""The protocol: every message (messages.py) and how it becomes bytes (codec.py).

Called by:  core, transport, store, runtime, node, worker.
Imports:    nbray.model, msgspec.
Never:      touches a socket, unpickles, copies bulk data.
"""

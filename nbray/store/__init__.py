"""The node's shared memory: one arena, who hands it out, and how processes map it.

Called by:  node (server, arena, budget), runtime (mapping).
Imports:    nbray.core, nbray.wire, nbray.model.
Never:      unpickles; knows what the bytes mean.
"""

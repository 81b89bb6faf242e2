"""Sizes and caps that several packages must agree on.

Called by:  every other package.
Imports:    nothing.
Never:      holds a setting that users change (those travel in messages).
"""

from __future__ import annotations

PROTOCOL_VERSION = 1

#: Values up to this size ride inside messages; larger ones go to the node's store.
INLINE_MAX_BYTES = 100 * 1024

#: And no more than this together, of one task's arguments or results.
INLINE_TOTAL_MAX_BYTES = 4 * 1024 * 1024

#: Hard cap of one frame, checked before anything is allocated. Function code is the largest thing
#: that rides in a frame; bulk data never does.
FRAME_MAX_BYTES = 64 * 1024 * 1024

#: Python code above this size in one function's pickle draws a warning (a captured array, usually).
FUNCTION_WARN_BYTES = 10_000_000

#: Every object in the store starts at a multiple of this: a cache line, and what NumPy likes.
STORE_ALIGNMENT_BYTES = 64

#: Smallest store that ``init`` accepts.
STORE_MIN_BYTES = 75 * 1024 * 1024

#: A unix socket path may not be longer (108 with the terminating zero).
SOCKET_PATH_MAX_BYTES = 107

#: Where a session keeps the states of its actors: in a folder of this name, each actor in one of its own.
CHECKPOINTS_FOLDER = "checkpoints"

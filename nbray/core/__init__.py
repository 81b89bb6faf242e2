"""Pure decisions: what must happen next, given what has happened.

Called by:  the one host of each class: the store, the node daemon, the runtime.
Imports:    nbray.wire, nbray.model. Nothing that waits.
Never:      does I/O, reads a clock, draws randomness, sends, spawns. Time and chance arrive as
            arguments, so that a failing run replays from its list of calls.

Classes here expose plain methods that take facts and append commands (small frozen tuples) to a
list that the caller owns. The caller performs the commands, in order, and feeds back as facts what
came of them. There is no generic event loop: one costs more than most decisions do.
"""

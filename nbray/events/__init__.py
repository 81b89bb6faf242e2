"""Recording what happens: rows, the rings that hold them, and the daemon's memory of them.

Called by:  every process, which records; node, which collects; observe, which shows.
Imports:    nbray.model.
Never:      blocks the work that it records, or keeps more than its bound.
"""

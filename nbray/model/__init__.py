"""Domain nouns: identifiers, resources, limits and errors, all plain data.

Called by:  every other package.
Imports:    the standard library only.
Never:      does I/O, reads a clock, draws randomness, imports a package above.
"""

"""What users call: sessions, tasks, objects.

Called by:  nbray/__init__.py, jupyter, users.
Imports:    cluster, observe, runtime, model.
Never:      holds a decision or a socket: it checks arguments and calls the runtime.
"""

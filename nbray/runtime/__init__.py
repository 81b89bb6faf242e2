"""The owner's half of nbray, embedded in every driver and every worker.

Called by:  api, worker.
Imports:    nbray.store, events, transport, core, wire, model; cloudpickle and numpy, lazily.
Never:      is imported by a daemon.
"""

"""Starting clusters: session directories, the node daemon, fate sharing.

Called by:  api.session.
Imports:    nbray.runtime and below.
Never:      imports nbray.node: it starts the daemon as a process.
"""

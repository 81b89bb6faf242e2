"""Views: what people and tests see of a cluster, as values that print themselves.

Called by:  api (init and status return these), jupyter.
Imports:    nbray.events, nbray.model.
Never:      asks a daemon, changes anything, or lets text that users chose reach a page unescaped.
"""

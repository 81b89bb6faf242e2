"""The worker process: forked by the zygote, it runs tasks, one at a time.

Called by:  node, which names ``nbray.worker.zygote`` on a command line and imports none of this.
Imports:    nbray.runtime and below; numpy and cloudpickle, loaded once in the zygote.
Never:      is imported by the driver or the daemon.
"""

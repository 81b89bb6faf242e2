"""What is built on actors and tasks: names for actors, pools of them.

Called by:  users, as ``nbray.util``.
Imports:    nbray.api, util.*.
Never:      reaches below nbray.api: users could have written it.

    from nbray.util import ActorPool

    pool = ActorPool([Worker.remote() for _ in range(4)])
    for result in pool.map(lambda worker, x: worker.work.remote(x), range(100)):
        print(result)
"""

from nbray.api.actors import get_actor, register_actor
from nbray.util.actor_pool import ActorPool

__all__ = ["ActorPool", "get_actor", "register_actor"]

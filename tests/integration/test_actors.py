"""Actors to the letter: how they are made, what a handle and its methods are, in which order calls run."""

from __future__ import annotations

import copy
import os
import pickle
import pydoc
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import nbray
from tests.support.drivers import driver
from tests.support.sessions import session
from tests.support.waiting import until

pytestmark = pytest.mark.integration
LEAKS_CHECKED_PER = "module"


@pytest.fixture(scope="module", autouse=True)
def _cluster(_module_leaves_nothing_behind: None) -> Iterator[None]:
    with session(num_cpus=2):
        yield


class Plain:
    """What actor classes may be made of."""

    def inherited(self) -> str:
        return "from the plain class"


@nbray.remote
class Counter(Plain):
    """Counts."""

    START = 10

    def __init__(self, n: int = START, *, step: int = 1) -> None:
        self.n, self.step = n, step

    def add(self, times: int = 1) -> int:
        """Count, so many times."""
        self.n += times * self.step
        return self.n

    def pid(self) -> int:
        return os.getpid()

    @classmethod
    def of_class(cls, x: int) -> tuple[int, int]:
        return cls.START, x

    @staticmethod
    def of_nobody(x: int) -> int:
        return 2 * x

    @nbray.method(num_return_vals=2)
    def both(self) -> tuple[int, int]:
        return self.n, self.step

    @nbray.method(num_returns=0)
    def nothing(self) -> None:
        self.n += 1000


@nbray.remote
class Log:
    """Notes in which order its calls ran."""

    def __init__(self) -> None:
        self.notes: list[Any] = []

    def note(self, value: Any) -> Any:
        self.notes.append(value)
        return value

    def noted(self) -> list[Any]:
        return self.notes


# --- making one -----------------------------------------------------------------------------------------


def test_an_actor_keeps_its_state_in_a_process_of_its_own() -> None:
    one, other = Counter.remote(), Counter.remote(n=5, step=2)

    assert nbray.get([one.add.remote(), one.add.remote(3), other.add.remote()]) == [11, 14, 7]
    pids = nbray.get([one.pid.remote(), one.pid.remote(), other.pid.remote()])
    assert pids[0] == pids[1] != pids[2]
    assert os.getpid() not in pids


def test_constructor_arguments_are_checked_in_the_caller() -> None:
    with pytest.raises(TypeError, match="Counter"):
        Counter.remote(1, 2)
    with pytest.raises(TypeError, match="unknown"):
        Counter.remote(unknown=1)
    with pytest.raises(TypeError, match="multiple values"):
        Counter.remote(1, n=1)
    with pytest.raises(nbray.SerializationError):
        Counter.remote(threading.Lock())


def test_a_class_without_a_constructor_takes_no_arguments() -> None:
    @nbray.remote
    class Bare:
        def one(self) -> int:
            return 1

    with pytest.raises(TypeError, match="Bare"):
        Bare.remote(1)
    assert nbray.get(Bare.remote().one.remote()) == 1


def test_all_ways_to_make_one_are_one() -> None:
    one = nbray.put(1)

    made = [
        Counter._remote([1]),
        Counter._remote(args=(one,), kwargs={"step": one}),
        Counter._remote(kwargs={"n": 1}, num_cpus=0),
        Counter.options(num_cpus=0.5).remote(n=one),
        nbray.remote(num_cpus=0)(Counter._cls).remote(1),
    ]

    assert nbray.get([actor.add.remote() for actor in made]) == [2] * 5


def test_a_constructor_waits_for_the_results_of_tasks() -> None:
    @nbray.remote
    def slow(x: int) -> int:
        time.sleep(0.1)
        return x

    actor = Counter.remote(slow.remote(3), step=slow.remote(4))

    assert nbray.get(actor.add.remote()) == 7


def test_large_arguments_arrive_as_they_are_and_read_only() -> None:
    @nbray.remote
    class Keeper:
        def __init__(self, array: np.ndarray, stored: np.ndarray) -> None:
            self.arrays = array, stored

        def look(self, array: np.ndarray) -> tuple[float, list[bool]]:
            arrays = (*self.arrays, array)
            return float(sum(a.sum() for a in arrays)), [a.flags.writeable for a in arrays]

        def give(self) -> np.ndarray:
            return self.arrays[0]

    ones = np.ones(200_000)
    keeper = Keeper.remote(ones, nbray.put(ones))

    assert nbray.get(keeper.look.remote(ones)) == (600_000.0, [False] * 3)
    assert nbray.get(keeper.give.remote()).sum() == 200_000


def test_a_remote_class_can_be_neither_called_nor_derived_from() -> None:
    with pytest.raises(TypeError, match="cannot be instantiated directly"):
        Counter()
    with pytest.raises(TypeError, match=r"^Inheriting from actor classes is not currently supported"):

        class Derived(Counter):
            pass


def test_what_a_class_has_can_be_read_through_it() -> None:
    assert Counter.START == 10
    assert Counter.of_nobody(4) == 8
    assert Counter.__doc__ == "Counts."
    assert Counter.__name__ == "Counter"
    with pytest.raises(AttributeError):
        Counter.unknown  # noqa: B018


def test_inherited_class_and_static_methods_can_be_called() -> None:
    actor = Counter.remote()

    assert nbray.get(actor.inherited.remote()) == "from the plain class"
    assert nbray.get(actor.of_class.remote(7)) == (10, 7)
    assert nbray.get(actor.of_nobody.remote(7)) == 14


def test_a_class_may_use_what_is_defined_after_it_and_itself() -> None:
    @nbray.remote
    class Tree:
        def __init__(self, depth: int) -> None:
            self.below = Tree.remote(depth - 1) if depth else None

        def depth(self) -> int:
            return later(0 if self.below is None else nbray.get(self.below.depth.remote()))

    def later(depth: int) -> int:
        return depth + 1

    assert nbray.get(Tree.remote(2).depth.remote()) == 3


def test_a_class_that_is_defined_again_is_another_one_and_actors_keep_theirs() -> None:
    def define(version: int) -> Any:
        @nbray.remote
        class Versioned:
            def version(self) -> int:
                return version

        return Versioned

    actors = [define(n).remote() for n in range(3)]

    assert nbray.get([actor.version.remote() for actor in actors]) == [0, 1, 2]


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"num_returns": 2}, TypeError, "method"),
        ({"max_calls": 1}, TypeError, "max_calls"),
        ({"max_retries": 1}, TypeError, "max_task_retries"),
        ({"max_restarts": -2}, ValueError, "max_restarts"),
        ({"max_reconstructions": -2}, ValueError, "max_reconstructions"),
        ({"max_restarts": 1.5}, TypeError, "max_restarts"),
        ({"max_task_retries": 1}, ValueError, "max_restarts"),
        ({"max_restarts": 1, "max_task_retries": -2}, ValueError, "max_task_retries"),
        ({"max_concurrency": 0}, ValueError, "max_concurrency"),
        ({"checkpoint_interval": 0}, ValueError, "checkpoint_interval"),
        ({"resources": {"CPU": 1}}, (ValueError, AssertionError), "num_cpus"),
        ({"unknown": 1}, TypeError, "unknown"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused_at_decoration(options: Any, kind: Any, words: str) -> None:
    with pytest.raises(kind, match=words):
        nbray.remote(**options)(Plain)


def test_a_quantity_that_makes_no_sense_is_refused_by_the_call() -> None:
    wrong = nbray.remote(num_cpus=1.5)(Plain)

    with pytest.raises(ValueError, match="num_cpus"):
        wrong.remote()


# --- what it holds ----------------------------------------------------------------------------------------


def free_cpus() -> float:
    (node,) = nbray.status().to_dict()["nodes"]
    return float(node["free"].get("CPU", 0)) / 10_000


def test_without_resources_it_holds_none_and_with_some_a_cpu_for_life() -> None:
    until(lambda: free_cpus() == 2, "actors of earlier tests are gone")
    light = [nbray.remote(Plain).remote() for _ in range(4)]
    nbray.get([actor.inherited.remote() for actor in light])
    assert free_cpus() == 2

    heavy = nbray.remote(max_restarts=0, memory=50 << 20)(Plain).remote()
    nbray.get(heavy.inherited.remote())
    assert free_cpus() == 1

    del heavy
    until(lambda: free_cpus() == 2, "its CPU came back")


def test_blocking_in_a_method_does_not_release_what_the_actor_holds() -> None:
    @nbray.remote(num_cpus=1)
    class Blocking:
        def wait(self, refs: list[Any]) -> Any:
            return nbray.get(refs[0])

    @nbray.remote
    def slow() -> int:
        time.sleep(0.3)
        return 1

    until(lambda: free_cpus() == 2, "actors of earlier tests are gone")
    actor = Blocking.remote()
    nbray.get(actor.wait.remote([nbray.put(0)]))
    waiting = actor.wait.remote([slow.remote()])

    until(lambda: free_cpus() == 0, "actor and task run")
    assert nbray.get(waiting) == 1


def test_on_a_node_without_cpus_only_those_that_need_none_can_be() -> None:
    script = """
        import warnings
        warnings.simplefilter("ignore")
        nbray.init(num_cpus=0)

        @nbray.remote
        class One:
            def one(self):
                return 1

        plain = One.remote()
        tell(nbray.get(One.options(num_cpus=0).remote().one.remote()))
        call = plain.one.remote()
        tell(len(nbray.wait([call], timeout=0.3)[0]))
        tell(nbray.actors(plain)["State"])
        nbray.kill(plain)
        try:
            nbray.get(call, timeout=5)
        except nbray.RayActorError:
            tell("killed")
        nbray.shutdown()
    """
    with driver(script) as running:
        assert [running.told() for _ in range(4)] == [1, 0, "PENDING", "killed"]


def test_one_that_asks_for_what_is_taken_waits_for_it() -> None:
    until(lambda: free_cpus() == 2, "actors of earlier tests are gone")
    heavy = nbray.remote(num_cpus=2)(Plain)
    first, second = heavy.remote(), heavy.remote()
    nbray.get(first.inherited.remote())
    waiting = second.inherited.remote()
    assert nbray.wait([waiting], timeout=0.2)[0] == []

    del first

    assert nbray.get(waiting, timeout=10) == "from the plain class"


def test_regular_tasks_never_run_in_the_process_of_an_actor() -> None:
    @nbray.remote
    def pid() -> int:
        return os.getpid()

    actors = [Counter.remote() for _ in range(3)]
    pids = set(nbray.get([actor.pid.remote() for actor in actors]))

    assert not pids & set(nbray.get([pid.remote() for _ in range(50)]))


# --- handles and methods ------------------------------------------------------------------------------------


def test_a_handle_shows_its_class_and_id_and_what_can_be_called() -> None:
    actor = Counter.remote()

    assert repr(actor) == f"Actor(Counter, {actor._actor_id.hex()})"
    assert {"add", "pid", "both", "inherited", "of_class", "of_nobody"} <= set(dir(actor))
    assert "__init__" not in dir(actor)
    assert actor.add.__doc__ == "Count, so many times."
    assert str(__import__("inspect").signature(actor.add)) == "(times=1)"
    assert actor == copy.copy(actor) == copy.deepcopy(actor) == pickle.loads(pickle.dumps(actor))
    assert len({actor, copy.copy(actor)}) == 1
    assert "Count, so many times." in pydoc.render_doc(actor.add)
    assert actor != Counter.remote()


def test_a_method_cannot_be_called_directly_and_says_how() -> None:
    actor = Counter.remote()

    with pytest.raises(TypeError, match=r"add\.remote"):
        actor.add()


def test_an_unknown_method_is_an_attribute_error_at_once() -> None:
    actor = Counter.remote()

    with pytest.raises(AttributeError, match="no method 'unknown'"):
        actor.unknown  # noqa: B018
    with pytest.raises(AttributeError, match="no method 'n'"):
        actor.n  # noqa: B018
    with pytest.raises(AttributeError, match="Counter"):
        actor.n = 3


def test_arguments_of_a_method_are_checked_in_the_caller() -> None:
    actor = Counter.remote()

    for args, kwargs in (((1, 2), {}), ((), {"unknown": 1}), ((1,), {"times": 1})):
        with pytest.raises(TypeError, match=r"Counter\.add"):
            actor.add.remote(*args, **kwargs)
    with pytest.raises(nbray.SerializationError):
        actor.add.remote(threading.Lock())
    assert nbray.get(actor.add.remote()) == 11


def test_a_method_returns_as_many_values_as_it_says() -> None:
    actor = Counter.remote(1)

    assert nbray.get(actor.both.remote()) == [1, 1]
    assert actor.nothing.remote() is None
    assert nbray.get(actor.add.remote(0)) == 1001
    assert nbray.get(actor.add._remote([1], {}, num_return_vals=1)) == 1002
    assert nbray.get(actor.both.options(num_returns=1).remote()) == (1002, 1)


@pytest.mark.parametrize(
    ("args", "options"),
    [((), {}), ((3,), {}), ((), {"num_returns": 1, "num_return_vals": 1}), ((), {"x": 1})],
)
def test_the_decorator_of_methods_takes_exactly_one_keyword(args: Any, options: Any) -> None:
    with pytest.raises((TypeError, AssertionError), match="exactly one"):
        nbray.method(*args, **options)


def test_what_a_method_raises_is_the_error_of_its_result_and_the_actor_goes_on() -> None:
    @nbray.remote
    class Fails:
        def fail(self) -> None:
            raise KeyError("gone")

        def one(self) -> int:
            return 1

    actor = Fails.remote()

    with pytest.raises(KeyError, match="gone") as caught:
        nbray.get(actor.fail.remote())
    assert isinstance(caught.value, nbray.RayTaskError)
    assert "Fails.fail" in str(caught.value)
    assert nbray.get(actor.one.remote()) == 1


def test_an_argument_that_failed_is_passed_on_and_the_method_does_not_run() -> None:
    @nbray.remote
    def fail() -> None:
        raise KeyError("gone")

    log = Log.remote()
    passed = log.note.remote(fail.remote())

    with pytest.raises(KeyError, match="gone"):
        nbray.get(passed)
    assert nbray.get(log.noted.remote()) == []


# --- order ------------------------------------------------------------------------------------------------


@nbray.remote
def after(seconds: float, value: Any) -> Any:
    time.sleep(seconds)
    return value


def test_calls_of_one_process_run_in_the_order_in_which_they_were_made() -> None:
    log = Log.remote()

    refs = [log.note.remote(after.remote(0.2, 0)), *(log.note.remote(i) for i in range(1, 50))]
    refs += [log.note.remote(after.remote(0.05, 50)), log.note.remote(51)]

    assert nbray.get(log.noted.remote()) == list(range(52))
    assert nbray.get(refs) == list(range(52))


def test_another_caller_is_not_held_up_by_arguments_that_are_not_ready() -> None:
    log = Log.remote()
    mine = log.note.remote(after.remote(1.0, "mine"))

    @nbray.remote
    def call(handle: Any) -> None:
        nbray.get(handle.note.remote("other's"))

    nbray.get(call.remote(log))

    assert nbray.wait([mine], timeout=0)[0] == []
    assert nbray.get(mine) == "mine"
    assert nbray.get(log.noted.remote()) == ["other's", "mine"]


def test_calls_of_many_callers_keep_the_order_of_each() -> None:
    log = Log.remote()

    @nbray.remote
    def call(handle: Any, who: int) -> None:
        nbray.get([handle.note.remote((who, i)) for i in range(200)])

    nbray.get([call.remote(log, who) for who in range(4)])

    noted = nbray.get(log.noted.remote())
    for who in range(4):
        assert [i for caller, i in noted if caller == who] == list(range(200))


def test_threads_of_one_process_each_keep_their_order() -> None:
    log = Log.remote()

    def call(who: int) -> None:
        nbray.get([log.note.remote((who, i)) for i in range(100)])

    threads = [threading.Thread(target=call, args=(who,)) for who in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    noted = nbray.get(log.noted.remote())
    for who in range(3):
        assert [i for caller, i in noted if caller == who] == list(range(100))


def test_many_calls_with_large_results_all_arrive() -> None:
    @nbray.remote
    class Maker:
        def make(self, i: int) -> np.ndarray:
            return np.full(50_000, i)

    maker = Maker.remote()

    arrays = nbray.get([maker.make.remote(i) for i in range(40)])

    assert [int(a[-1]) for a in arrays] == list(range(40))


# --- handles travel -----------------------------------------------------------------------------------------


def test_handles_may_be_arguments_in_containers_captured_and_pickled_by_hand() -> None:
    log = Log.remote()
    method = log.note

    @nbray.remote
    def argument(handle: Any) -> None:
        nbray.get(handle.note.remote("argument"))

    @nbray.remote
    def container(box: dict[str, list[Any]]) -> None:
        nbray.get(box["here"][0].note.remote("container"))

    @nbray.remote
    def captured() -> None:
        nbray.get(log.note.remote("captured"))

    @nbray.remote
    class Other:
        def __init__(self, handle: Any = None) -> None:
            self.handle = handle or log

        def call(self, word: str) -> None:
            nbray.get(self.handle.note.remote(word))

    @nbray.remote
    def of_method(bound: Any) -> None:
        nbray.get(bound.remote("method"))

    @nbray.remote
    def by_hand(pickled: bytes) -> None:
        nbray.get(pickle.loads(pickled).note.remote("by hand"))

    nbray.get(argument.remote(log))
    nbray.get(container.remote({"here": [log]}))
    nbray.get(captured.remote())
    nbray.get(Other.remote().call.remote("captured by a class"))
    nbray.get(Other.remote(log).call.remote("argument of a constructor"))
    nbray.get(of_method.remote(method))
    nbray.get(by_hand.remote(pickle.dumps(log)))
    nbray.get(argument.remote(nbray.put(log)))

    words = ["argument", "container", "captured", "captured by a class", "argument of a constructor"]
    assert nbray.get(log.noted.remote()) == [*words, "method", "by hand", "argument"]


def test_a_list_of_handles_may_be_returned_and_a_bare_one_may_not() -> None:
    @nbray.remote
    class Maker:
        def make(self) -> Any:
            return [Counter.remote(1)]

        def make_bare(self) -> Any:
            return Counter.remote(1)

    maker = Maker.remote()
    (actor,) = nbray.get(maker.make.remote())

    assert nbray.get(actor.add.remote()) == 2
    with pytest.raises(TypeError, match="return it in a list"):
        nbray.get(maker.make_bare.remote())


def test_a_handle_can_be_put_and_got() -> None:
    actor = Counter.remote(1)

    again = nbray.get(nbray.put(actor))

    assert again == actor
    assert nbray.get(again.add.remote()) == 2


def test_actors_may_call_each_other_and_themselves() -> None:
    @nbray.remote
    class Pinger:
        def __init__(self) -> None:
            self.got = 0

        def ping(self, other: Any, me: Any, times: int) -> None:
            self.got += 1
            if times:
                other.ping.remote(me, other, times - 1)

        def total(self) -> int:
            return self.got

    one, other = Pinger.remote(), Pinger.remote()
    one.ping.remote(other, one, 20)

    until(lambda: nbray.get([one.total.remote(), other.total.remote()]) == [11, 10], "all pings came")


def test_a_notebooks_names_do_not_hide_methods_called_like_those_of_handles() -> None:
    @nbray.remote
    class Odd:
        def remote(self) -> str:
            return "remote"

        def options(self) -> str:
            return "options"

        def __len__(self) -> int:
            return 7

        def __call__(self, x: int) -> int:
            return 2 * x

    odd: Any = Odd.remote()

    assert nbray.get([getattr(odd, name).remote() for name in ("remote", "options")]) == ["remote", "options"]
    assert nbray.get([odd.__len__.remote(), odd.__call__.remote(4)]) == [7, 8]

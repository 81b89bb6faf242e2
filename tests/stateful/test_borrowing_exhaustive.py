"""Small programs with references, in every order in which their messages can arrive, and whoever dies when.

Called by:  pytest, tests.stateful.test_borrowing_mutations.
Imports:    tests.support.borrowing_search, tests.support.borrowing_world.
Never:      samples: a search that does not come to its end is a failure.

One owner ``O`` and two workers, ``A`` and ``B``. Objects are named after who made them: ``O.1`` is the
first that ``O`` made, and ``O.3`` the third, perhaps the result of a task. What a script does not drop is
dropped when nothing else can happen.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.borrowing_search import A, B, Program, search

X, C = b"O.1", b"O.2"  # what most programs begin with: C holds a reference to X

#: X goes from O to A inside C, from A to B, and back by way of their results.
CHAIN = Program(
    [
        ("put", ()), ("put", (X,)), ("drop", X), ("submit", A, (C,), 0), ("drop", C),
        ("read", b"O.3"), ("drop", b"O.3"), ("drop", X),
    ],
    [
        [
            ("read", C), ("drop", C), ("submit", B, (X,), 1), ("drop", X),
            ("read", b"A.1"), ("drop", b"A.1"), ("finish", (X,), (X,), False),
        ],
        [("finish", (X,), (X,), False)],
    ],
)  # fmt: skip

#: A keeps C when its task is over, and takes X out of it later.
KEPT = Program(
    [("put", ()), ("put", (X,)), ("drop", X), ("submit", A, (C,), 0), ("drop", C), ("drop", b"O.3")],
    [[("finish", (), (), False), ("read", C), ("drop", C), ("drop", X)]],
)

#: A gives X back to its owner, who had let go of it, and who lets go of it again.
BACK = Program(
    [
        ("put", ()), ("submit", A, (X,), 0), ("drop", X),
        ("submit", A, (), 1), ("read", b"O.3"), ("drop", b"O.3"),
        ("submit", B, (X,), 2), ("drop", X),
    ],
    [
        [("finish", (), (), False)],
        [("finish", (X,), (X,), False)],
        [("finish", (), (), False), ("drop", X)],
    ],
)  # fmt: skip

#: B reads the result of A's task, which X is in, perhaps before O has it, and A may die in between.
SEEN = Program(
    [
        ("put", ()), ("submit", A, (X,), 0), ("drop", X),
        ("submit", B, (b"O.2",), 1), ("drop", b"O.2"),
    ],
    [
        [("finish", (X,), (), True)],
        [("read", b"O.2"), ("drop", b"O.2"), ("finish", (), (), False), ("drop", X)],
    ],
)  # fmt: skip

#: A keeps X when its task is over, lends it to B, and gets it back in a result.
LENT = Program(
    [("put", ()), ("submit", A, (X,), 0), ("drop", X), ("drop", b"O.2")],
    [
        [
            ("finish", (), (), False),
            ("submit", B, (X,), 1), ("drop", X), ("read", b"A.1"), ("drop", b"A.1"), ("drop", X),
        ],
        [("finish", (X,), (X,), False)],
    ],
)  # fmt: skip

#: What A made, one in the other, goes to B by way of O; A may die, and both live on as long as B wants.
ORPHANS = Program(
    [
        ("submit", A, (), 0), ("read", b"O.1"), ("drop", b"O.1"),
        ("submit", B, (b"A.2",), 1), ("drop", b"A.2"), ("drop", b"O.2"),
    ],
    [
        [("put", ()), ("put", (b"A.1",)), ("finish", (b"A.2",), (b"A.1", b"A.2"), False)],
        [("read", b"A.2"), ("drop", b"A.2"), ("finish", (), (), False), ("drop", b"A.1")],
    ],
)  # fmt: skip

#: Each, and how many states it has at least: fewer, and the programs no longer do what they say.
PROGRAMS = {
    "chain": (CHAIN, 1_500),
    "kept": (KEPT, 1_000),
    "back": (BACK, 4_000),
    "seen": (SEEN, 4_000),
    "lent": (LENT, 5_000),
    "orphans": (ORPHANS, 4_000),
}


@pytest.mark.stateful
@pytest.mark.parametrize("name", PROGRAMS)
def test_no_order_of_messages_and_no_death_breaks_a_promise(name: str, show: Callable[[str], None]) -> None:
    program, at_least = PROGRAMS[name]

    states = search(program)

    assert states >= at_least
    show(f"borrowing, all ways of {name!r}: {states} states")

"""The books of a node.

Called by:  pytest.
Imports:    nbray.core.ledger.
Never:      starts a process.
"""

from __future__ import annotations

from nbray.core.ledger import Ledger
from nbray.model.resources import Shape

CPU: Shape = (("CPU", 10),)
BOTH: Shape = (("CPU", 10), ("GPU", 5))


def test_what_is_taken_and_given_back_leaves_the_total_free() -> None:
    ledger = Ledger({"CPU": 20, "GPU": 5})

    ledger.take(BOTH)
    ledger.give(BOTH)

    assert ledger.free == ledger.total


def test_lent_cpus_are_free_and_the_rest_is_kept() -> None:
    ledger = Ledger({"CPU": 10, "GPU": 5})
    ledger.take(BOTH)

    ledger.lend(BOTH)

    assert (ledger.fits(CPU), ledger.fits(BOTH)) == (True, False)
    assert ledger.missing(BOTH) == ["GPU"]


def test_shape_comes_free_unless_a_blocked_worker_keeps_a_part() -> None:
    ledger = Ledger({"CPU": 10, "GPU": 5})
    ledger.take(BOTH)
    assert ledger.comes_free(BOTH)

    ledger.lend(BOTH)
    assert not ledger.comes_free(BOTH)

    ledger.unlend(BOTH)
    assert ledger.comes_free(BOTH)


def test_overshoot_is_what_was_taken_back_while_in_use() -> None:
    ledger = Ledger({"CPU": 10})
    ledger.take(CPU)
    ledger.lend(CPU)
    ledger.take(CPU)

    ledger.unlend(CPU)

    assert ledger.overshoot() == {"CPU": 10}


def test_smaller_total_leaves_leases_alone() -> None:
    ledger = Ledger({"CPU": 20})
    ledger.take(CPU)

    ledger.set_total({"GPU": 5})

    assert (ledger.free, ledger.leased) == ({"CPU": -10, "GPU": 5}, {"CPU": 10})
    assert not ledger.possible(CPU)


def test_only_a_shared_resource_delays() -> None:
    ledger = Ledger({"CPU": 20, "GPU": 5})

    assert not ledger.delays(CPU, (("GPU", 5),))
    assert not ledger.delays(CPU, BOTH)  # ten CPUs are left
    assert ledger.delays(CPU, (("CPU", 15),))

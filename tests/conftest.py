"""Fixtures that every test gets: nothing may be left behind.

Called by:  pytest.
Imports:    tests.support.
Never:      imports nbray, so that a test decides itself when that happens.

A module that shares one cluster between its tests sets ``LEAKS_CHECKED_PER = "module"``; workers that
a later test of it adds are then looked at once, when the module is done.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator

import pytest

from tests.support.leaks import MARK, Watch, report

_numbers = itertools.count(1)
_SHOWN = pytest.StashKey[list[str]]()
# A test with one of these starts processes that may detach, so the whole machine is searched for them.
_DEEP = ("integration", "chaos", "notebook", "browser", "gpu")


@pytest.fixture(autouse=True, scope="module")
def _module_leaves_nothing_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    if _scope(request) != "module":
        yield
        return
    yield from _watched(deep=True)


@pytest.fixture(autouse=True)
def _test_leaves_nothing_behind(
    request: pytest.FixtureRequest, _module_leaves_nothing_behind: None
) -> Iterator[None]:
    if _scope(request) == "module":
        yield
        return
    yield from _watched(deep=any(request.node.get_closest_marker(name) for name in _DEEP))


@pytest.fixture
def show(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Says a line at the end of the run, also when all is well: for figures that no test asserts."""
    return request.config.stash.setdefault(_SHOWN, []).append


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """What tests had to show."""
    lines = config.stash.get(_SHOWN, [])
    if lines:
        terminalreporter.section("measured")
        for line in lines:
            terminalreporter.line(line)


def _scope(request: pytest.FixtureRequest) -> str:
    return getattr(request.module, "LEAKS_CHECKED_PER", "test")


def _watched(*, deep: bool) -> Iterator[None]:
    before = os.environ.get(MARK)
    mark = f"{os.getpid()}-{next(_numbers)}"
    os.environ[MARK] = mark
    watch = Watch(mark, deep)
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(MARK, None)
        else:
            os.environ[MARK] = before
    leaks = watch.settled_leaks()
    if leaks:
        watch.end_processes()
        pytest.fail(report(leaks), pytrace=False)

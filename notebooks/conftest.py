"""After the lessons have run, nothing of them may be left on this machine.

Called by:  pytest, when nbval runs the notebooks.
Imports:    tests.support.
Never:      imports nbray: the lessons run in kernels of their own.
"""

from __future__ import annotations

import os

import pytest

from tests.support.leaks import MARK, Watch, report

_watch = pytest.StashKey[Watch]()


def pytest_sessionstart(session: pytest.Session) -> None:
    os.environ["NBRAY_RENDERER"] = "text"  # the outputs were stored that way: a card differs in each run
    os.environ[MARK] = f"{os.getpid()}-notebooks"
    session.config.stash[_watch] = Watch(os.environ[MARK], deep=True)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    watch = session.config.stash[_watch]
    # nbval keeps a few descriptors of its own in this process; what counts is what the kernels left.
    leaks = [leak for leak in watch.settled_leaks() if leak.startswith(("process", "left on disk"))]
    if leaks:
        watch.end_processes()
        print(f"\n{report(leaks)}")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED

"""The label of the running cell."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell

from nbray.jupyter.kernel.cells import CellStamp
from tests.unit.jupyter.conftest import FakeSession


def test_a_cell_carries_its_number_while_it_runs(shell: InteractiveShell, fake: FakeSession) -> None:
    number = shell.execution_count

    shell.run_cell("1 + 1;", store_history=True)
    shell.run_cell("2 + 2;", store_history=True)

    assert fake.cells == [f"In[{number}]", "", f"In[{number + 1}]", ""]


def test_a_cell_that_fails_ends_its_label_too(
    shell: InteractiveShell, fake: FakeSession, capsys: pytest.CaptureFixture[str]
) -> None:
    number = shell.execution_count

    shell.run_cell("1 / 0", store_history=True)
    shell.run_cell("1 +", store_history=True)

    assert "ZeroDivisionError" in capsys.readouterr().out
    assert fake.cells == [f"In[{number}]", "", f"In[{number + 1}]", ""]


def test_code_that_a_cell_runs_keeps_the_label_of_the_cell(
    shell: InteractiveShell, fake: FakeSession
) -> None:
    number = shell.execution_count

    shell.run_cell("get_ipython().run_cell('1;')", store_history=True)

    assert fake.cells == [f"In[{number}]", ""]


def test_code_of_a_front_end_has_no_label(shell: InteractiveShell, fake: FakeSession) -> None:
    shell.run_cell("1;", silent=True)
    shell.run_cell("1;", store_history=False)

    assert fake.cells == []


def test_an_interrupted_cell_without_result_ends_its_label(fake: FakeSession) -> None:
    any_shell: Any = SimpleNamespace(displayhook=SimpleNamespace(prompt_count=3))
    stamp = CellStamp(any_shell)
    info: Any = SimpleNamespace(store_history=True)
    stamp.before(info)

    stamp.after(None)

    assert fake.cells == ["In[3]", ""]

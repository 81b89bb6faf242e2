"""The house rules that no linter knows: layers as they are drawn, module heads, small files."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
import tomli

ROOT = Path(__file__).parents[2]
MODULES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "nbray").rglob("*.py"))
LONGEST_LINES = 500
HEADINGS = ("Called by:", "Imports:", "Never:")


def layers_of_the_contract() -> list[str]:
    config = tomli.loads((ROOT / "pyproject.toml").read_text())
    contracts = config["tool"]["importlinter"]["contracts"]
    (layers,) = (contract["layers"] for contract in contracts if contract["type"] == "layers")
    return [" | ".join(sorted(layer.split(" | "))) for layer in layers]


def lines_of_block(text: str, kind: str) -> Iterator[str]:
    inside = False
    for line in text.splitlines():
        if line.startswith("```"):
            inside = line.strip() == f"```{kind}"
        elif inside and line.strip():
            yield line.strip()


def test_the_layers_that_architecture_md_draws_are_the_ones_that_are_checked() -> None:
    page = ROOT / "ARCHITECTURE.md"
    assert page.exists(), "ARCHITECTURE.md is missing: it is the map of this project"

    drawn = [" | ".join(sorted(line.split(" | "))) for line in lines_of_block(page.read_text(), "layers")]

    assert drawn, "ARCHITECTURE.md has no block that begins with ```layers (a layer a line, from the top)"
    assert drawn == layers_of_the_contract()


@pytest.mark.parametrize("module", MODULES)
def test_a_module_says_who_calls_it_what_it_imports_and_what_it_never_does(module: str) -> None:
    docstring = ast.get_docstring(ast.parse((ROOT / module).read_text())) or ""

    assert docstring, f"{module} has no docstring"
    if not module.endswith("__init__.py"):
        missing = [heading for heading in HEADINGS if heading not in docstring]
        assert not missing, f"the docstring of {module} lacks {missing}"


@pytest.mark.parametrize("module", MODULES)
def test_a_module_is_small_enough_to_be_read_at_a_sitting(module: str) -> None:
    lines = len((ROOT / module).read_text().splitlines())

    assert lines <= LONGEST_LINES, f"{module} has {lines} lines; at most {LONGEST_LINES}, please"


def test_every_folder_with_modules_is_a_package_so_that_the_layers_see_it() -> None:
    folders = {(ROOT / module).parent for module in MODULES}

    assert [str(folder) for folder in folders if not (folder / "__init__.py").exists()] == []

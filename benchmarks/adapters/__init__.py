"""The contenders: one module each, which imports its library only when it is started."""

from __future__ import annotations

import importlib
import importlib.util

from benchmarks.adapters.base import Adapter

#: In the order of the table's columns.
NAMES = ("nbray", "ray", "dask", "ipyparallel", "loky", "futures")


def load(name: str) -> Adapter:
    """The adapter of this name; its library is not imported yet."""
    adapter: Adapter = importlib.import_module(f"benchmarks.adapters.{name}").ADAPTER()
    return adapter


def is_installed(name: str) -> bool:
    """Whether the library is there, found without importing it."""
    return importlib.util.find_spec(load(name).module) is not None

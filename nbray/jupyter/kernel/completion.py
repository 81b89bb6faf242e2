"""Completion of the magics' options, from the parsers that read them.

Called by:  jupyter.kernel (adds and removes it), IPython's completer.
Imports:    IPython.
Never:      lists an option a second time: what a parser accepts is what is offered.
"""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from IPython.core.interactiveshell import InteractiveShell

Completer = Callable[[InteractiveShell, SimpleNamespace], list[str]]


def completer(parser: ArgumentParser) -> Completer:
    """A hook for ``set_hook("complete_command", ...)`` that offers a parser's options and choices."""
    # argparse has no public list of its options; these two names have not changed since 2.7.
    by_option: dict[str, Any] = parser._option_string_actions  # noqa: SLF001

    def complete(_: InteractiveShell, event: SimpleNamespace) -> list[str]:
        words = event.text_until_cursor.split()
        before = words[:-1] if event.symbol else words
        last = by_option.get(before[-1]) if before else None
        if last is not None and last.nargs != 0:
            return list(last.choices or ())
        return sorted(option for option in by_option if option not in before)

    return complete


def add(shell: InteractiveShell, magic: str, hook: Completer) -> None:
    """Ask a hook whenever a line begins with that magic."""
    shell.set_hook("complete_command", hook, str_key=f"%{magic}")


def remove(shell: InteractiveShell, magic: str, hook: Completer) -> None:
    """Take a hook back out; IPython can only add them."""
    by_command = shell.strdispatchers["complete_command"].strs
    chain = by_command.get(f"%{magic}")
    if chain is not None:
        chain.chain = [entry for entry in chain.chain if getattr(entry[1], "__func__", None) is not hook]
        if not chain.chain:
            del by_command[f"%{magic}"]

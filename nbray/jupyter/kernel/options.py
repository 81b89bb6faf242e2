"""What users write after a magic's options, turned into values.

Called by:  jupyter.kernel.magics, as the ``type`` of its options.
Imports:    argparse, for the error that becomes IPython's UsageError.
Never:      guesses: what is not understood is named, with what would be.

IPython splits a line into words but leaves quotes on them; every reader here takes them off.
"""

from __future__ import annotations

import math
import re
from argparse import ArgumentTypeError

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)")
_BYTES_PER_UNIT: dict[str, int] = {
    "": 1,
    "b": 1,
    **{f"{prefix}b": 10 ** (3 * n) for n, prefix in enumerate("kmgt", start=1)},
    **{f"{prefix}ib": 1 << (10 * n) for n, prefix in enumerate("kmgt", start=1)},
}


def text(word: str) -> str:
    """A word, without the quotes around it."""
    if len(word) >= 2 and word[0] == word[-1] and word[0] in "'\"":
        return word[1:-1]
    return word


def count(word: str) -> int:
    """``4`` -> 4.

    Raises:
        ArgumentTypeError: not a whole number, or below zero.
    """
    word = text(word)
    if not word.isdecimal():
        raise ArgumentTypeError(f"{word!r} is not a whole number; write for example 4")
    return int(word)


def size_bytes(word: str) -> int:
    """``200MB`` -> 200_000_000, ``1GiB`` -> 1_073_741_824, ``1048576`` -> 1_048_576.

    Raises:
        ArgumentTypeError: not a number with one of these units.
    """
    word = text(word)
    match = _SIZE.fullmatch(word)
    scale = _BYTES_PER_UNIT.get(match[2].lower()) if match else None
    if match is None or scale is None:
        raise ArgumentTypeError(
            f"{word!r} is not a size; write for example 200MB (200,000,000 bytes) "
            "or 1GiB (1,073,741,824 bytes)"
        )
    return round(float(match[1]) * scale)


def quantities(word: str) -> dict[str, float]:
    """``'accelerator=2,licence=0.5'`` -> ``{"accelerator": 2, "licence": 0.5}``.

    Raises:
        ArgumentTypeError: an entry is no ``name=number``, or a name comes twice.
    """
    found: dict[str, float] = {}
    for entry in text(word).split(","):
        name, equals, amount = (part.strip() for part in entry.partition("="))
        if not (name and equals):
            raise ArgumentTypeError(
                f"{entry!r} is not NAME=NUMBER; write for example 'accelerator=2,licence=1'"
            )
        if name in found:
            raise ArgumentTypeError(f"{name!r} is named twice")
        found[name] = _number(name, amount)
    return found


def _number(name: str, amount: str) -> float:
    try:
        value = float(amount)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ArgumentTypeError(f"the quantity of {name!r} is not a number: {amount!r}")
    return int(value) if value.is_integer() else value

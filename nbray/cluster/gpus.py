"""How many GPUs this machine has, for a node that is started on it.

Called by:  api.settings.
Imports:    the standard library.
Never:      loads a driver: the kernel's list of devices is enough.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

VISIBLE = "CUDA_VISIBLE_DEVICES"
_DEVICES = Path("/proc/driver/nvidia/gpus")


def visible(environment: Mapping[str, str] = os.environ) -> list[str] | None:
    """The devices that ``CUDA_VISIBLE_DEVICES`` names; None when it is not set."""
    names = environment.get(VISIBLE)
    if names is None:
        return None
    return [name.strip() for name in names.split(",") if name.strip() and name.strip() != "NoDevFiles"]


def count(environment: Mapping[str, str] = os.environ, devices: Path = _DEVICES) -> int:
    """How many GPUs tasks may use: those of the machine, or as many as are visible."""
    try:
        present = len(list(devices.iterdir()))
    except OSError:
        present = 0
    allowed = visible(environment)
    return present if allowed is None else min(present, len(allowed))

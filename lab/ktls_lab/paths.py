# SPDX-License-Identifier: Apache-2.0
"""Where the lab keeps things. Standard library only: ``inventory/lab`` imports this module."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ktls_lab.errors import LabError

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,30}\Z")

PROJECT_ROOT = Path(__file__).resolve().parents[2]
IMAGE_DEFINITIONS = PROJECT_ROOT / "lab" / "images"
DEFAULT_LAB = "default"


def cache_dir() -> Path:
    """Image and snapshot cache: ``$KTLS_CACHE_DIR/lab``, else ``.cache/lab`` in the project."""
    base = os.environ.get("KTLS_CACHE_DIR")
    return (Path(base).resolve() if base else PROJECT_ROOT / ".cache") / "lab"


def labs_dir() -> Path:
    """State of the running labs: ``$KTLS_LAB_DIR``, else ``build/lab`` in the project."""
    base = os.environ.get("KTLS_LAB_DIR")
    return Path(base).resolve() if base else PROJECT_ROOT / "build" / "lab"


def check_lab_name(name: str) -> str:
    """Return ``name`` if it can be a lab's name.

    Raises:
        LabError: anything but 1 to 31 of a-z, 0-9 and '-', starting with a letter or digit.
    """
    if not _NAME.match(name):
        message = f"bad lab name {name!r}: use 1 to 31 of a-z, 0-9 and '-', starting with a letter or digit"
        raise LabError(message)
    return name


def lab_dir(name: str) -> Path:
    """Directory of one lab; raises LabError for an impossible name."""
    return labs_dir() / check_lab_name(name)

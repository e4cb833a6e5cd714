# SPDX-License-Identifier: Apache-2.0
"""Python packages of the control node, missed before a run begins and not in the middle of a wave."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable
from pathlib import Path

from .errors import ControlError

#: What judges a wave. Everything else that playbooks use comes with Ansible (``requirements.txt`` of the collection).
JUDGE = ("numpy", "scipy")


def check(packages: Iterable[str], what: str) -> None:
    """:param what: what they are for, as the end of a sentence.

    :raises ControlError: ``missing_packages``, with the command that installs them.
    """
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        lacks = f"this control node lacks {' and '.join(missing)}, {what}"
        raise ControlError("missing_packages", f"{lacks}: {sys.executable} -m pip install {_from(missing)}")


def _from(missing: list[str]) -> str:
    """What pip is given: the file of requirements of the collection that this is part of, else names."""
    requirements = Path(__file__).parents[3] / "requirements.txt"
    return f"-r {requirements}" if requirements.is_file() else " ".join(missing)

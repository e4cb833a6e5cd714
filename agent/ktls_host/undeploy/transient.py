# SPDX-License-Identifier: Apache-2.0
"""What systemd removes when a unit stops: RuntimeDirectory= (systemd.exec(5)), RemoveOnStop= (systemd.socket(5)).

Nobody else has to, so a prediction must not name it.
"""

from __future__ import annotations

from collections.abc import Iterable

from .. import textfile
from .found import UNIT_DIRECTORY, UnitState


def paths(units: Iterable[UnitState], root: str) -> frozenset[str]:
    """Return what goes when the running ones of ``units`` stop, by their files on the host."""
    running = [unit.name for unit in units if unit.running]
    texts = [textfile.read(root, f"{UNIT_DIRECTORY}/{name}") or "" for name in running]
    return frozenset(path for text in texts for path in named(text))


def named(text: str) -> list[str]:
    """Return what the text of a unit says that goes when it stops. Pure."""
    pairs = [(key, value.strip()) for key, _, value in (line.partition("=") for line in text.splitlines())]
    said = dict(pairs)
    found = []
    if said.get("RuntimeDirectoryPreserve", "no") in ("no", "restart"):
        found += [f"/run/{name}" for name in said.get("RuntimeDirectory", "").split()]
    if said.get("RemoveOnStop") == "yes":
        found += [value for key, value in pairs if key.startswith("Listen") and value.startswith("/")]
    return found

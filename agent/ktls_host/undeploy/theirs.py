# SPDX-License-Identifier: Apache-2.0
"""What is somebody else's inside of trees that we remove whole: what is served from there, what is mounted there."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from .. import textfile

_CONFIG = "/etc/ktls/sidecar.json"
_MOUNTS = "/proc/self/mountinfo"
_OCTAL = re.compile(r"\\([0-7]{3})")


def look(trees: Iterable[str], root: str = "/") -> dict[str, str]:
    """Return paths that are not ours, with the tree that each is in or is."""
    named = [*_served(textfile.read(root, _CONFIG) or ""), *mounts(textfile.read(root, _MOUNTS) or "")]
    return inside(trees, named)


def inside(trees: Iterable[str], paths: Iterable[str]) -> dict[str, str]:
    """Return those of ``paths`` that are one of ``trees`` or below it. Pure."""
    places = tuple(trees)
    found = ((path, tree) for path in paths for tree in places if path == tree or path.startswith(f"{tree}/"))
    return dict(found)


def mounts(text: str) -> Iterator[str]:
    """Yield the mount points in ``/proc/PID/mountinfo`` (proc_pid_mountinfo(5): the fifth field, octal escapes)."""
    for line in text.splitlines():
        fields = line.split()
        if len(fields) > 5:
            yield _OCTAL.sub(lambda match: chr(int(match[1], 8)), fields[4])


def _served(text: str) -> Iterator[str]:
    """Yield directories and files of the operator's that the sidecar's configuration names."""
    try:
        config: Any = json.loads(text)
    except ValueError:
        return
    if not isinstance(config, dict):
        return
    pairs = [config, *(one for one in config.get("certificates") or () if isinstance(one, dict))]
    named = [config.get("root"), *(pair.get(key) for pair in pairs for key in ("certificate", "key"))]
    yield from (path.rstrip("/") for path in named if isinstance(path, str) and path.startswith("/"))

# SPDX-License-Identifier: Apache-2.0
"""Ansible host patterns over groups that are known already: names, groups, globs, ``!`` and ``&``. Pure.

Ansible itself applies ``--limit`` whenever it can be asked. This is for the times when it cannot.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from .errors import ControlError


def members(data: Mapping[str, Any], group: str) -> list[str]:
    """Hosts of a group and of its children, in the order of ``ansible-inventory --list``."""
    found: dict[str, None] = {}
    entry = data.get(group) or {}
    for host in entry.get("hosts", []):
        found[host] = None
    for child in entry.get("children", []):
        for host in members(data, child):
            found[host] = None
    return list(found)


def limited(names: Iterable[str], data: Mapping[str, Any], limit: str) -> list[str]:
    """Those of ``names`` that the pattern ``limit`` means.

    :raises ControlError: ``bad_limit`` for what is not understood here: regular expressions, ranges, files.
    """
    names = list(names)
    if "[" in limit:
        raise _beyond(limit)
    parts = [part.strip() for part in limit.replace(",", ":").split(":") if part.strip()]
    for part in parts:
        if part.lstrip("!&").startswith(("~", "@")):
            raise _beyond(part)
    plain = [part for part in parts if part[0] not in "!&"] or ["all"]
    chosen: set[str] = set().union(*(_meant(part, names, data) for part in plain))
    for part in parts:
        if part[0] == "&":
            chosen &= _meant(part[1:], names, data)
    for part in parts:
        if part[0] == "!":
            chosen -= _meant(part[1:], names, data)
    return [name for name in names if name in chosen]


def _beyond(part: str) -> ControlError:
    return ControlError("bad_limit", f"--limit {part}: only Ansible understands that; name hosts with --host")


def _meant(part: str, names: list[str], data: Mapping[str, Any]) -> set[str]:
    if part in ("all", "*"):
        return set(names)
    groups = [group for group in data if group != "_meta" and fnmatchcase(group, part)]
    inside = {host for group in groups for host in members(data, group)}
    return {name for name in names if name in inside or fnmatchcase(name, part)}

# SPDX-License-Identifier: Apache-2.0
"""What ``ethtool -k``, ``-i`` and ``-S`` print (ethtool(8); its features.c, ethtool.c). Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

_FEATURE = re.compile(r"(?P<indent>\t*)(?P<name>[^\s:]+): (?P<state>on|off)(?P<rest>.*)\Z")


@dataclass(frozen=True)
class Feature:
    """One feature of one interface.

    ``fixed``: the driver does not let it be changed. ``requested`` is what the administrator or the driver asked
    for, while ``on`` is what the kernel made of it: a feature that lacks another it needs is off and requested.
    """

    on: bool
    fixed: bool = False
    requested: bool = False

    def as_dict(self) -> dict[str, bool]:
        """Return plain JSON types."""
        return {"on": self.on, "fixed": self.fixed, "requested": self.requested}

    @property
    def words(self) -> str:
        """Return it as ``ethtool -k`` prints it, for people."""
        text = "on" if self.on else "off"
        if self.fixed:
            return f"{text} [fixed]"
        return text if self.requested == self.on else f"{text} [requested {'on' if self.requested else 'off'}]"


def parse_features(text: str) -> dict[str, Feature]:
    """Return name to feature from ``ethtool -k``.

    Lines that only sum up the indented ones below them are left out: nothing can be recorded or restored there.
    """
    lines = [match for match in (_FEATURE.match(line) for line in text.splitlines()) if match]
    found: dict[str, Feature] = {}
    for line, following in zip(lines, [*lines[1:], None]):
        if not line["indent"] and following is not None and following["indent"]:
            continue
        on, rest = line["state"] == "on", line["rest"]
        requested = on if "[requested" not in rest else "[requested on]" in rest
        found[line["name"]] = Feature(on, "[fixed]" in rest, requested)
    return found


def parse_info(text: str) -> dict[str, str]:
    """Return key to value from ``ethtool -i``; keys without a value are left out, and so is ``N/A``."""
    pairs = (line.partition(":") for line in text.splitlines())
    values = {key.strip(): value.strip() for key, colon, value in pairs if colon}
    return {key: value for key, value in values.items() if value not in ("", "N/A")}


def parse_statistics(text: str) -> dict[str, int]:
    """Return name to counter from ``ethtool -S``; the first of a repeated name counts.

    Drivers choose the names: they may hold blanks and colons.
    """
    found: dict[str, int] = {}
    for line in text.splitlines():
        name, colon, value = line.rpartition(":")
        value = value.strip()
        if colon and value.isascii() and value.isdigit():
            found.setdefault(name.strip(), int(value))
    return found

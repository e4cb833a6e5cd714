# SPDX-License-Identifier: Apache-2.0
"""GnuTLS' system-wide configuration: read as GnuTLS reads it, and given ``ktls = true``. Pure.

Source: lib/priority.c and lib/inih/ini.c of GnuTLS 3.7 and 3.8. Sections and keys are compared without regard to
case. The copy of inih in GnuTLS reads a line of more than 199 bytes as two, so what is written here stays short.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..errors import KtlsError

MARK = "# ktls-fleet: the next line asks for kernel TLS (ktls_crypto_policy takes it out)"
ASK = "ktls = true"


@dataclass(frozen=True)
class Line:
    """One ``name = value``; ``number`` counts lines from 0."""

    number: int
    section: str
    name: str
    value: str


def parse(text: str, path: str) -> list[Line]:
    """Return the settings in order. Raises :class:`KtlsError` ``malformed_config`` with ``path`` and line."""
    return [found for found in _read(text, path) if found.name]


def asks(text: str, path: str) -> bool | None:
    """Return what ``ktls`` in ``[global]`` amounts to, the last one winning; ``None`` when nothing is said.

    Raises :class:`KtlsError` ``malformed_config``.
    """
    said = None
    for line in _ktls(parse(text, path)):
        word = (line.value.lower().split() or [""])[0]  # what follows a space does not count (clear_spaces)
        if word in ("true", "false"):
            said = word == "true"
    return said


def with_ktls(text: str, path: str, mark: bool = True) -> str:
    """Return ``text`` with kernel TLS asked for in ``[global]``, everything else as it was.

    A setting that says otherwise is replaced; ``mark`` puts our comment above ours. Raises
    :class:`KtlsError` ``malformed_config``.
    """
    ours = [MARK, ASK] if mark else [ASK]
    if asks(text, path):
        return text
    lines = text.split("\n")
    settings = _ktls(parse(text, path))
    if settings:
        last = settings[-1].number
        lines[last : last + 1] = ours
        return "\n".join(lines)
    place = _place(text, path)
    if place is not None:
        lines[place:place] = ours
        return "\n".join(lines)
    ended = text if not text or text.endswith("\n") else text + "\n"
    return ended + "\n".join([*([ours[0]] if mark else []), "[global]", ASK]) + "\n"


def without_ours(text: str) -> str:
    """Return ``text`` without our mark and the line below it; what that line replaced is not known here."""
    return text.replace(f"{MARK}\n{ASK}\n", "")


def ours(text: str) -> bool:
    """True when our mark is in ``text``."""
    return MARK in text.split("\n")


def _ktls(lines: list[Line]) -> list[Line]:
    return [line for line in lines if line.section.lower() == "global" and line.name.lower() == "ktls"]


def _place(text: str, path: str) -> int | None:
    """Return the line below the first ``[global]``, unless what follows is indented: it would continue our line."""
    found = list(_read(text, path))
    for at, header in enumerate(found):
        if not header.name and header.section.lower() == "global":
            following = found[at + 1].number if at + 1 < len(found) else None
            indented = following is not None and text.split("\n")[following][:1].isspace()
            return None if indented else header.number + 1
    return None


def _read(text: str, path: str) -> Iterator[Line]:
    """Yield settings, and section headers as lines without a name."""
    section, last_name = "", ""
    for number, physical in enumerate(text.split("\n")):
        bare = physical.removeprefix("\ufeff").strip() if number == 0 else physical.strip()
        if not bare or bare[0] in ";#":
            continue
        if last_name and physical[0].isspace():
            yield Line(number, section, last_name, bare)  # a further value of the same name
        elif bare[0] == "[":
            name, bracket, _ = bare[1:].partition("]")
            if not bracket:
                raise _malformed(path, number, "a section header without ']'")
            section, last_name = name, ""
            yield Line(number, section, "", "")
        else:
            cut = min((at for at in (bare.find("="), bare.find(":")) if at >= 0), default=-1)
            if cut < 0:
                raise _malformed(path, number, "neither a section, a setting nor a comment")
            last_name = bare[:cut].rstrip()
            yield Line(number, section, last_name, _without_comment(bare[cut + 1 :]).strip())


def _without_comment(value: str) -> str:
    for at in range(1, len(value)):
        if value[at] == ";" and value[at - 1].isspace():
            return value[:at]
    return value


def _malformed(path: str, number: int, what: str) -> KtlsError:
    message = f"{path} line {number + 1}: {what}; GnuTLS ignores the whole file; repair the line, then repeat"
    return KtlsError("malformed_config", message)

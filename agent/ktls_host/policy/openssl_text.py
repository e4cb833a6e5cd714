# SPDX-License-Identifier: Apache-2.0
"""Lines of openssl.cnf: comments, quotes, continuation, section headers and variables, by the rules of conf_def.c.

All functions are pure. Character classes: crypto/conf/conf_def.h, the table of the default method.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Iterator

SPACE = " \t\r\n"
_QUOTES = "\"'`"
_ALNUM = frozenset(string.ascii_letters + string.digits + "_")
_NAME = _ALNUM | frozenset("!%&*+,-./;?@^|~")
_ESCAPES = {"r": "\r", "n": "\n", "b": "\b", "t": "\t"}
_PLAIN = frozenset(string.ascii_letters + string.digits + "_-./:@+,")


class LineError(ValueError):
    """What is wrong with a line, in OpenSSL's words."""


def logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield the number of the last physical line and the text, with continued lines joined."""
    joined = ""
    physical = text.removeprefix("\ufeff").split("\n")
    for number, line in enumerate(physical, 1):
        joined += line.rstrip("\r")
        # An escaped backslash does not continue. Comments do: they are cut off later.
        if joined.endswith("\\") and not joined.endswith("\\\\"):
            joined = joined[:-1]
            if number < len(physical):
                continue
        yield number, joined
        joined = ""


def without_comment(line: str) -> str:
    """Cut off what follows a ``#`` that is neither quoted nor escaped."""
    at = 0
    while at < len(line):
        if line[at] == "#":
            return line[:at]
        if line[at] in _QUOTES:
            at = _after_quote(line, at)
        else:
            at += 2 if line[at] == "\\" else 1
    return line


def section_name(line: str, dollar: bool) -> str:
    """Return the unexpanded name in a ``[ name ]`` line. Raises :class:`LineError`."""
    start = at = _skip_space(line, 1)
    while True:
        end = _name_end(line, at, dollar)
        after = _skip_space(line, end)
        if line[after : after + 1] == "]":
            return line[start:end]
        if after >= len(line) or after == at:
            raise LineError("missing close square bracket")
        at = after


def split_name(line: str, dollar: bool) -> tuple[str | None, str, str]:
    """Return the section of a ``section::name = value`` line or ``None``, the name, and what follows the name."""
    end = _name_end(line, 0, dollar)
    if line[end : end + 2] != "::":
        return None, line[:end], line[end:]
    start = end + 2
    last = _name_end(line, start, dollar)
    return line[:end], line[start:last], line[last:]


def expand(text: str, variable: Callable[[str | None, str], str], dollar: bool) -> str:
    """Return a value with quotes, escapes and variables resolved.

    ``variable`` gets section (or ``None``) and name. Raises :class:`LineError`.
    """
    out: list[str] = []
    at = 0
    while at < len(text):
        char = text[at]
        if char in _QUOTES:
            end = _after_quote(text, at)
            inner = text[at + 1 : end - 1 if end > at + 1 and text[end - 1] == char else end]
            out.append(_unescaped(inner))
            at = end
        elif char == "\\":
            following = text[at + 1 : at + 2]
            out.append(_ESCAPES.get(following, following))
            at += 2
        elif char == "$" and (not dollar or text[at + 1 : at + 2] in ("{", "(")):
            at = _variable(text, at + 1, variable, out, dollar)
        else:
            out.append(char)
            at += 1
    return "".join(out)


def quoted(text: str) -> str:
    """Return ``text`` so that it reads back as it is, in a value, in ``.include`` and in a section header."""
    return "".join(char if char in _PLAIN else f"\\{char}" for char in text)


def switch(text: str) -> bool:
    """Return the value of a pragma that is on or off. Raises :class:`LineError`."""
    word = text.lower()
    if word not in ("on", "true", "off", "false"):
        raise LineError("invalid pragma")
    return word in ("on", "true")


def _variable(text: str, at: int, variable: Callable[[str | None, str], str], out: list[str], dollar: bool) -> int:
    close = {"{": "}", "(": ")"}.get(text[at : at + 1], "")
    start = at + len(close)
    end = _alnum_end(text, start, dollar)
    section = None
    if text[end : end + 2] == "::":
        section, start = text[start:end], end + 2
        end = _alnum_end(text, start, dollar)
    if close and text[end : end + 1] != close:
        raise LineError("no close brace")
    out.append(variable(section, text[start:end]))
    return end + len(close)


def _unescaped(text: str) -> str:
    out, at = [], 0
    while at < len(text):
        if text[at] == "\\":
            at += 1
        # A backslash at the very end is dropped (conf_def.c, str_copy).
        out.append(text[at : at + 1])
        at += 1
    return "".join(out)


def _after_quote(text: str, at: int) -> int:
    quote = text[at]
    at += 1
    while at < len(text) and text[at] != quote:
        at += 2 if text[at] == "\\" else 1
    return min(at + 1, len(text))


def _skip_space(text: str, at: int) -> int:
    while at < len(text) and text[at] in SPACE:
        at += 1
    return at


def _name_end(text: str, at: int, dollar: bool) -> int:
    while at < len(text) and (text[at] in _NAME or text[at] == "\\" or (dollar and text[at] == "$")):
        at += 2 if text[at] == "\\" else 1
    return min(at, len(text))


def _alnum_end(text: str, at: int, dollar: bool) -> int:
    while at < len(text) and (text[at] in _ALNUM or (dollar and text[at] == "$")):
        at += 1
    return at

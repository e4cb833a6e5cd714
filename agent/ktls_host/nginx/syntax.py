# SPDX-License-Identifier: Apache-2.0
"""The configuration as ``nginx -T`` prints it, as a tree with its includes in place. Pure.

Syntax: ngx_conf_read_token() in src/core/ngx_conf_file.c. What cannot be read ends the file that it is in: nginx itself
has tested all of it before, so that is code of another language (Lua) and no directive that we look for.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

_FILE = re.compile(r"^# configuration file (.+):$", re.MULTILINE)
_DEPTH = 20
_LUA = re.compile(r"""--[^\n]*|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|.""", re.DOTALL)


@dataclass(frozen=True)
class Directive:
    """One directive; ``block`` is None where it ends with a semicolon."""

    name: str
    args: tuple[str, ...]
    file: str
    line: int
    block: tuple[Directive, ...] | None = None

    @property
    def where(self) -> str:
        """Return file and line, as nginx names a place."""
        return f"{self.file}:{self.line}"


@dataclass(frozen=True)
class Dump:
    """All files by path, in the order of their first use; the first is the main one."""

    files: dict[str, str] = field(default_factory=dict)

    @property
    def main(self) -> str | None:
        """Return the path of the main file."""
        return next(iter(self.files), None)


def split(text: str) -> Dump:
    """Return the files of what ``nginx -T`` printed."""
    found = list(_FILE.finditer(text))
    ends = [match.start() for match in found[1:]] + [len(text)]
    return Dump({match[1]: text[match.end() + 1 : end] for match, end in zip(found, ends)})


def tree(dump: Dump) -> tuple[Directive, ...]:
    """Return the directives of the main file, each ``include`` followed by what it includes."""
    if dump.main is None:
        return ()
    parsed = {path: parse(text, path) for path, text in dump.files.items()}
    return tuple(_included(parsed[dump.main], parsed, os.path.dirname(dump.main), 0))


def walk(directives: tuple[Directive, ...]) -> Iterator[Directive]:
    """Return each directive, and all in its block after it."""
    for directive in directives:
        yield directive
        yield from walk(directive.block or ())


def included(pattern: str, path: str, prefix: str) -> bool:
    """Return whether ``include pattern`` takes ``path`` in: glob(3), relative to the directory of the main file."""
    whole = os.path.normpath(os.path.join(prefix, pattern))
    # glob(3) matches name by name: a star never crosses a slash, nor takes in a leading dot.
    parts, wanted = whole.split("/"), os.path.normpath(path).split("/")
    return len(parts) == len(wanted) and all(
        fnmatch.fnmatchcase(name, part) and (not name.startswith(".") or part.startswith("."))
        for part, name in zip(parts, wanted)
    )


def _included(
    directives: tuple[Directive, ...], parsed: dict[str, tuple[Directive, ...]], prefix: str, depth: int
) -> Iterator[Directive]:
    for directive in directives:
        if directive.block is not None:
            block = tuple(_included(directive.block, parsed, prefix, depth))
            yield Directive(directive.name, directive.args, directive.file, directive.line, block)
            continue
        yield directive
        if directive.name == "include" and directive.args and depth < _DEPTH:
            for path in sorted(parsed):
                if included(directive.args[0], path, prefix):
                    yield from _included(parsed[path], parsed, prefix, depth + 1)


def parse(text: str, path: str) -> tuple[Directive, ...]:
    """Return the directives of one file."""
    return _block(_Tokens(text, path))


@dataclass(frozen=True)
class _Token:
    text: str
    line: int
    quoted: bool = False

    def ends(self, sign: str) -> bool:
        return not self.quoted and self.text == sign


class _Tokens:
    """What is read, word by word."""

    def __init__(self, text: str, path: str) -> None:
        self.path = path
        self._text = text
        self._at = 0
        self._line = 1

    def next(self) -> _Token | None:
        self._skip()
        if self._at >= len(self._text):
            return None
        sign, line = self._text[self._at], self._line
        if sign in "{};":
            self._at += 1
            return _Token(sign, line)
        if sign in "\"'":
            return self._quoted(sign, line)
        begin = self._at
        while self._at < len(self._text):
            sign = self._text[self._at]
            if sign == "\\":
                self._at += 1
            elif sign == "$" and self._text[self._at + 1 : self._at + 2] == "{":
                self._at += 1  # of a variable, no block
            elif sign in "{;" or sign.isspace():
                break
            self._at += 1
        return _Token(self._text[begin : self._at], line)

    def skip_code(self) -> None:
        """Go to the end of a block of Lua, whose strings and comments may hold braces of their own."""
        depth = 1
        for part in _LUA.finditer(self._text, self._at):
            depth += {"{": 1, "}": -1}.get(part[0], 0)
            self._line += part[0].count("\n")
            self._at = part.end()
            if not depth:
                return

    def _skip(self) -> None:
        while self._at < len(self._text):
            sign = self._text[self._at]
            if sign == "#":
                end = self._text.find("\n", self._at)
                self._at = len(self._text) if end < 0 else end
            elif sign.isspace():
                self._line += sign == "\n"
                self._at += 1
            else:
                return

    def _quoted(self, quote: str, line: int) -> _Token:
        begin = self._at = self._at + 1
        while self._at < len(self._text) and self._text[self._at] != quote:
            if self._text[self._at] == "\\":
                self._at += 1
            self._line += self._text[self._at : self._at + 1] == "\n"
            self._at += 1
        text = self._text[begin : self._at]
        self._at += 1
        return _Token(text.replace("\\" + quote, quote), line, quoted=True)


def _block(tokens: _Tokens) -> tuple[Directive, ...]:
    found: list[Directive] = []
    words: list[_Token] = []
    while (token := tokens.next()) is not None:
        if token.ends(";"):
            if words:
                found.append(_directive(words, tokens.path, None))
            words = []
        elif token.ends("{"):
            if words and words[0].text.endswith("_by_lua_block"):
                tokens.skip_code()
                block: tuple[Directive, ...] = ()
            else:
                block = _block(tokens)
            if words:
                found.append(_directive(words, tokens.path, block))
            words = []
        elif token.ends("}"):
            break
        else:
            words.append(token)
    return tuple(found)


def _directive(words: list[_Token], path: str, block: tuple[Directive, ...] | None) -> Directive:
    return Directive(words[0].text, tuple(word.text for word in words[1:]), path, words[0].line, block)

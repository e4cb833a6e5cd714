# SPDX-License-Identifier: Apache-2.0
"""Command lines in blocks: what a reader would type, word by word."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .pages import Block

#: Programs of this project and of Ansible: wherever a line begins with one, it is checked.
OURS = (
    "ktls", "ktls-agent", "ktls-off", "ktls-publish", "ktls-sidecar", "ktls-sentinel", "fab", "make",
    "ansible-playbook", "ansible-doc", "ansible-galaxy", "ansible", "bench/run",
)  # fmt: skip
_OURS = "|".join(re.escape(name) for name in OURS)
#: A command at the start of a line, or in another column of it.
_BEGINS = re.compile(rf"(?:^|\s{{4,}})(?:\$ |# )?(?:sudo )?(?=(?:\.venv/bin/)?(?:{_OURS})(?:\s|$))")
_COMMENT = re.compile(r"(^|\s)#(\s.*|$)")
_HERE = re.compile(r"<<-?\s*'?(\w+)'?")
_ENVIRONMENT = re.compile(r"^[A-Za-z_]\w*=")
#: Of a form: brackets around what may be left out, bars between what excludes each other, dots where more may come.
_BRACKETS = re.compile(r"\[[^\]]*\]|\((?:[^()]* \| [^()]*)\)")
_CHOICE = re.compile(r"\b([\w-]+)(?:\|[\w-]+)+\b")
_PLACEHOLDER = re.compile(r"(?<![\w/=.$-])[A-Z][A-Z_]{2,}(?![\w./=-])|(?<=\s)[A-Z](?=\s|$)|…|\s\.\.\.")


@dataclass(frozen=True)
class Command:
    """One command; ``form``: with brackets or placeholders, so that not every word is one that can be typed."""

    block: Block
    words: tuple[str, ...]
    form: bool

    @property
    def program(self) -> str:
        """Its name without the place that it is in, if that is the virtual environment's."""
        return self.words[0].removeprefix(".venv/bin/")

    def __str__(self) -> str:
        return f"{self.block.where}: {shlex.join(self.words)}"


def typed(block: Block) -> list[str]:
    """Lines of a shell block that are typed: of ``console`` those after a prompt; none of a here-document's."""
    lines: list[str] = []
    here: str | None = None
    went_on = False
    for whole in block.text.splitlines():
        if here is not None:
            here = None if whole.strip() == here else here
            continue
        if block.info == "console" and not went_on and not whole.startswith("$ "):
            continue
        line = whole[2:] if block.info == "console" and not went_on else whole
        if found := _HERE.search(line):
            here = found[1]
        if went_on:
            lines[-1] = lines[-1][:-1] + line.strip()
        else:
            lines.append(line)
        went_on = line.endswith("\\")
    return [line for line in lines if line.strip()]


def commands(block: Block) -> list[Command]:
    """Command lines of a block that begin with one of our programs; of a shell block all, whatever they begin with."""
    if block.mark.not_run == "output":
        return []
    if block.shell:
        return [command for line in typed(block) for command in _of(line, block)]
    text = block.text.replace("\\\n", " ") if block.kind != "inline" else block.text
    found: list[Command] = []
    lines = text.splitlines()
    # Where there are prompts, the other lines are what was said.
    lines = [line for line in lines if line.lstrip().startswith("$ ")] or lines
    for line in lines:
        begins = list(_BEGINS.finditer(line))
        if block.kind == "inline" and (" " not in line.strip() or not begins or begins[0].end() != 0):
            continue
        ends = [match.start() for match in begins[1:]] + [len(line)]
        for match, end in zip(begins, ends, strict=False):
            # Outside of a fence for the shell a column further right, or what follows a semicolon, is a sentence.
            typed_part = re.split(r"\s{4,}", line[match.end() : end])[0]
            found += (command for command in _of(typed_part, block) if command.program in OURS)
    return found


def _of(line: str, block: Block) -> Iterator[Command]:
    line = _COMMENT.sub("", line)
    plain = _BRACKETS.sub(lambda part: re.sub(r"[][()|]", " ", part[0]), line)
    plain = _CHOICE.sub(r"\1", plain)
    form = plain != line or bool(_PLACEHOLDER.search(line)) or block.mark.not_run == "form"
    plain = re.sub(r"(?<=\s)(\.\.\.|…)(?=\s|$)", " ", plain)
    try:
        reader = shlex.shlex(plain, posix=True, punctuation_chars="|&;<>")
        reader.whitespace_split = True
        reader.commenters = ""
        words = list(reader)
    except ValueError as error:
        raise ValueError(f"{block.where}: {line.strip()}: {error}") from error
    yield from (Command(block, tuple(part), form) for part in _split(words) if part)


def _split(words: Sequence[str]) -> Iterator[list[str]]:
    """Commands of a pipeline or list, without redirections, variables before them, and sudo."""
    part: list[str] = []
    skip = False
    for word in words:
        if word and set(word) <= set("|&;"):
            yield _bare(part)
            part = []
        elif word and set(word) <= set("<>&"):
            skip = True
        elif skip:
            skip = False
        else:
            part.append(word)
    yield _bare(part)


def _bare(words: list[str]) -> list[str]:
    while words and (_ENVIRONMENT.match(words[0]) or words[0] in ("sudo", "exec", "!")):
        words = words[1:]
    return words

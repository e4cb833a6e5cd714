# SPDX-License-Identifier: Apache-2.0
"""Whether a command line says something: verbs and options exist, files and variables are there, modules have names."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import io
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from unittest.mock import patch

from .lines import Command
from .pages import ROOT

Parser = argparse.ArgumentParser

#: Programs of hosts and of any shell that pages may name. What they do is not checked.
KNOWN = frozenset((
    ".", "ansible-builder", "ansible-inventory", "ansible-test", "apt-get", "awk", "cat", "cd", "chmod",
    "coredumpctl", "cp", "curl", "cut", "dmesg", "echo", "ethtool", "export", "false", "git", "grep", "head", "ip",
    "journalctl", "jq", "kill", "ls", "lsmod", "mkdir", "modinfo", "modprobe", "mv", "nginx", "openssl",
    "page-somebody", "pip", "printf", "promtool", "python3", "rm", "rmmod", "ruff", "sed", "sh", "socat", "sort", "ss",
    "ssh", "ssh-copy-id", "ssh-keygen", "strace", "sysctl", "systemctl", "systemd-analyze", "tail", "tar", "tee",
    "test", "touch", "true", "udevadm", "unzip", "wc", "xargs",
))  # fmt: skip


def faults(command: Command) -> list[str]:
    """What is wrong with a command; empty when a reader can type it."""
    program = command.program
    if checker := _CHECKERS.get(program):
        return list(checker(command))
    if program == "bench/run":
        from bench.cli import main as bench

        return list(_argparse(lambda _words: _of_main(bench))(command))
    if program == "python" or re.fullmatch(r"python3?(\.\d+)?", program):
        return list(_python(command))
    if "/" in program and not program.startswith("/"):
        path = ROOT / program
        return [] if path.is_file() and path.stat().st_mode & 0o100 else [f"{program} is no program of this tree"]
    if program.startswith("/usr/local/"):
        return [] if Path(program).name in _CHECKERS else [f"{program} is not what deploy installs"]
    return [] if program in KNOWN or program.startswith("/") else [f"{program} is no program that tests/docs knows"]


# ---------------------------------------------------------------------------------------------------------- argparse


def _argparse(find: Callable[[Sequence[str]], Parser]) -> Callable[[Command], Iterator[str]]:
    def check(command: Command) -> Iterator[str]:
        words = list(command.words[1:])
        if words[:1] == ["="] or words == ["on"]:
            return  # lines of GnuTLS's and HAProxy's configuration
        parser = find(words)
        found = list(_words(parser, words, whole=command.block.kind != "inline"))
        yield from found
        # An inline mention may break off; a form has words in place of numbers.
        if not found and not command.form and command.block.kind != "inline":
            yield from _strictly(parser, words)

    return check


def _words(parser: Parser, words: Sequence[str], *, whole: bool = True) -> Iterator[str]:
    """Every verb and option exists and every option has its value; how many arguments there are is not looked at.

    :param whole: the line does not break off after the last word.
    """
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word == "--":
            return
        if word.startswith("-") and len(word) > 1 and not re.fullmatch(r"-\d+", word):
            name, equals, _value = word.partition("=")
            action = parser._option_string_actions.get(name)
            if action is None:
                yield f"{parser.prog} has no option {name}"
                return
            if action.nargs == 0 or equals:
                continue
            if (not rest and whole) or (rest and rest[0].startswith("--")):
                yield f"{parser.prog}: {name} wants a value"
                return
            rest = rest[1:]
        elif verbs := _verbs(parser):
            if word not in verbs:
                # A form may leave the verb open: ktls VERB.
                if not word.isupper():
                    yield f"{parser.prog} has no verb {word}"
                return
            parser = verbs[word]


def _verbs(parser: Parser) -> dict[str, Parser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def _strictly(parser: Parser, words: Sequence[str]) -> Iterator[str]:
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            parser.parse_args(list(words))
    except SystemExit as end:
        if end.code:
            yield said.getvalue().strip().splitlines()[-1]


def ktls(words: Sequence[str]) -> Parser:
    """The real parser of ``ktls``, with every option of the verb that is wanted."""
    return _ktls(next((word for word in words if not word.startswith("-")), None))


@cache
def _ktls(verb: str | None) -> Parser:
    from ktls_control import cli

    return cli._parser(verb)


@cache
def agent() -> Parser:
    """That of ``ktls-agent``."""
    from ktls_agent import cli

    return cli._parser()


@cache
def sentinel() -> Parser:
    """That of ``ktls-sentinel``."""
    from ktls_sentinel import cli

    return cli._parser()


class _Made(Exception):  # noqa: N818 - no error: the parser is there
    """Thrown where a program would begin to parse."""

    def __init__(self, parser: Parser) -> None:
        super().__init__()
        self.parser = parser


def _of_main(main: Callable[[list[str]], object]) -> Parser:
    """The parser of a program that makes it in its main function."""

    def stop(self: Parser, *_arguments: object, **_keys: object) -> None:
        raise _Made(self)

    with patch.object(Parser, "parse_args", stop), patch.object(Parser, "parse_intermixed_args", stop):
        try:
            main([])
        except _Made as made:
            return made.parser
    raise AssertionError("this program parses nothing")


@cache
def sidecar() -> Parser:
    """That of ``ktls-sidecar``."""
    from ktls_sidecar import cli

    return _of_main(cli.main)


@cache
def publish() -> Parser:
    """That of ``ktls-publish``."""
    from ktls_sidecar import publish

    return _of_main(publish.main)


# ------------------------------------------------------------------------------------------------------------- other


def _ktls_off(command: Command) -> Iterator[str]:
    script = (ROOT / "agent/units/ktls-off").read_text(encoding="utf-8")
    # Its own usage, in the comment at its head.
    known = set(re.findall(r"--[a-z-]+", script.partition("\nset -u")[0]))
    for word in command.words[1:]:
        if word.startswith("--") and word not in known:
            yield f"ktls-off has no option {word}"


def _fab(command: Command) -> Iterator[str]:
    from inspect import signature

    fabfile = importlib.import_module("fabfile")
    tasks = {name: signature(getattr(fabfile, name).body) for name in ("off", "status")}
    name, rest = (command.words[1:] or ("",))[0], command.words[2:]
    if name not in tasks:
        yield f"fab has no task {name}"
        return
    for word in rest:
        option = word.removeprefix("--").partition("=")[0].replace("-", "_")
        if word.startswith("--") and option not in tasks[name].parameters:
            yield f"fab {name} has no option {word}"


def _make(command: Command) -> Iterator[str]:
    targets = re.findall(r"^([a-z][a-z -]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    known = {name for line in targets for name in line.split()}
    for word in command.words[1:]:
        if "=" not in word and not word.startswith("-") and word not in known:
            yield f"there is no target {word}"


def _python(command: Command) -> Iterator[str]:
    words = command.words[1:]
    if words[:1] != ("-m",):
        return
    module = words[1]
    if module.split(".")[0] in ("venv", "pip", "pytest"):
        return
    with patch("sys.path", [str(ROOT), *(str(ROOT / part) for part in ("agent", "control", "lab")), *sys.path]):
        try:
            found = importlib.util.find_spec(module)
        except ModuleNotFoundError:
            found = None
    if found is None:
        yield f"there is no module {module}"


# ----------------------------------------------------------------------------------------------------------- Ansible


@cache
def variables() -> frozenset[str]:
    """Every name that begins with ``ktls_`` in what hosts and control node run: variables, modules, metrics."""
    found: set[str] = set()
    for place in ("playbooks", "roles", "plugins", "library", "agent", "control", "inventory", "dashboards", "lab"):
        for path in (ROOT / place).rglob("*"):
            if path.suffix in (".py", ".yml", ".yaml", ".json", ".j2", "") and path.is_file():
                found |= set(re.findall(r"ktls_[a-z0-9_]+", path.read_text(encoding="utf-8", errors="ignore")))
                found.add(path.stem)
    return frozenset(found)


def modules() -> frozenset[str]:
    """Names of the modules."""
    return frozenset(path.stem for path in (ROOT / "library").glob("ktls_*.py"))


@cache
def playbook() -> Parser:
    """That of ``ansible-playbook``."""
    from ansible.cli.playbook import PlaybookCLI

    line = PlaybookCLI(["ansible-playbook"])
    line.init_parser()
    parser: Parser = line.parser
    return parser


def _playbook(command: Command) -> Iterator[str]:
    words = list(command.words[1:])
    found = list(_words(playbook(), words))
    yield from found
    if found:
        return
    books = [word for word in words if re.search(r"\.ya?ml$", word) and "/" in word and not word.startswith(("@", "/"))]
    names = [word for word in words if word.startswith("ktls.fleet.")]
    for book in books:
        if book.startswith("playbooks/") and not (ROOT / book).is_file():
            yield f"{book} is not there"
    for name in names:
        if not (ROOT / "playbooks" / f"{name.rpartition('.')[2]}.yml").is_file():
            yield f"there is no playbook {name}"
    if not books and not names:
        yield "no playbook is named"
    for at, word in enumerate(words[:-1]):
        if word in ("-e", "--extra-vars"):
            yield from _extra(words[at + 1])


def _extra(text: str) -> Iterator[str]:
    for part in text.split():
        name, equals, _value = part.partition("=")
        if equals and name.startswith("ktls_") and name not in variables():
            yield f"no playbook or role knows {name}"
        if not equals and not part.startswith(("@", "{", "ktls_")):
            yield f"-e {part} is neither NAME=VALUE nor @FILE"


def _ansible(command: Command) -> Iterator[str]:
    words = command.words[1:]
    for at, word in enumerate(words[:-1]):
        if word == "-m":
            module = words[at + 1]
            if module.startswith("ktls.fleet.") and module.rpartition(".")[2] not in modules():
                yield f"there is no module {module}"


def _doc(command: Command) -> Iterator[str]:
    words = list(command.words[1:])
    kind = words[words.index("-t") + 1] if "-t" in words[:-1] else "module"
    for word in words:
        name = word.removeprefix("ktls.fleet.")
        if not name.startswith("ktls_"):
            continue
        if kind == "role" and not (ROOT / "roles" / name).is_dir():
            yield f"there is no role {name}"
        if kind == "module" and name not in modules():
            yield f"there is no module {name}"


def _anything(_command: Command) -> Iterator[str]:
    return iter(())


_CHECKERS: dict[str, Callable[[Command], Iterator[str]]] = {
    "ktls": _argparse(ktls),
    "ktls-agent": _argparse(lambda _words: agent()),
    "ktls-sentinel": _argparse(lambda _words: sentinel()),
    "ktls-sidecar": _argparse(lambda _words: sidecar()),
    "ktls-publish": _argparse(lambda _words: publish()),
    "ktls-off": _ktls_off,
    "fab": _fab,
    "make": _make,
    "ansible-playbook": _playbook,
    "ansible": _ansible,
    "ansible-doc": _doc,
    "ansible-galaxy": _anything,
}

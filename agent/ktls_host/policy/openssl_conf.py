# SPDX-License-Identifier: Apache-2.0
"""openssl.cnf as OpenSSL reads it, as far as it takes to follow ``openssl_conf`` to the section of ``system_default``.

Source: config(5) and crypto/conf/{conf_def,conf_mod,conf_ssl}.c of OpenSSL 3.0 to 3.5. The decision about what is
missing is pure; whether it was right is for the library to say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ..errors import KtlsError
from . import openssl_text as text_of

#: Return the content of a file, or the names in a directory, or ``None`` when there is no such thing.
ReadFile = Callable[[str], "bytes | None"]
ListDirectory = Callable[[str], "list[str] | None"]

BEGIN = "# BEGIN ktls-fleet: kernel TLS (ktls_crypto_policy with state: absent takes this out)"
END = "# END ktls-fleet"
_BEGIN_PREFIX = "# BEGIN ktls-fleet"
_DEPTH = 20
_EXTENSIONS = (".conf", ".cnf")


@dataclass(frozen=True)
class Config:
    """``sections`` in the order of their keys, the last of equal keys winning; ``files`` are those read, in order."""

    sections: Mapping[str, Mapping[str, str]]
    files: tuple[str, ...] = ()

    def get(self, section: str, name: str) -> str | None:
        """Return a value; a section that lacks it falls back to ``default``, as OpenSSL does."""
        found = self.sections.get(section, {}).get(name)
        return self.sections.get("default", {}).get(name) if found is None else found


@dataclass(frozen=True)
class Chain:
    """The sections that lead to the defaults of every SSL_CTX; ``None`` from the first link that is missing."""

    init: str | None = None
    ssl: str | None = None
    default: str | None = None


@dataclass
class _Reader:
    read: ReadFile
    listed: ListDirectory
    environment: Mapping[str, str]
    sections: dict[str, dict[str, str]] = field(default_factory=lambda: {"default": {}})
    files: list[str] = field(default_factory=list)
    section: str = "default"
    dollar_in_names: bool = False
    absolute_only: bool = False
    include_directory: str | None = None

    def file(self, path: str, depth: int) -> None:
        content = self.read(path)
        if content is None:
            return  # OpenSSL goes on without it, too
        self.files.append(path)
        if depth > _DEPTH:
            raise _malformed(path, 1, f"more than {_DEPTH} files include each other")
        if b"\0" in content:
            raise _malformed(path, content[: content.index(b"\0")].count(b"\n") + 1, "a NUL byte")
        lines = text_of.logical_lines(content.decode("utf-8", "surrogateescape"))
        try:
            for at, line in lines:
                number = at
                self.line(line, depth)
        except text_of.LineError as error:
            raise _malformed(path, number, str(error)) from error

    def line(self, line: str, depth: int) -> None:
        bare = text_of.without_comment(line).lstrip(text_of.SPACE)
        if not bare:
            return
        if bare.startswith("["):
            name = text_of.section_name(bare, self.dollar_in_names)
            self.section = self.value("default", name)
            self.sections.setdefault(self.section, {})
            return
        section, name, rest = text_of.split_name(bare, self.dollar_in_names)
        section = self.section if section is None else section
        after, rest = rest, rest.lstrip(text_of.SPACE)
        for directive, act in ((".pragma", self.pragma), (".include", self.include)):
            # A longer word that starts like this counts, too, with an equal sign or a space behind it.
            if name.startswith(directive) and (name != directive or rest != after or rest.startswith("=")):
                act(section, rest.removeprefix("=").strip(text_of.SPACE), depth)
                return
        if not rest.startswith("="):
            raise text_of.LineError("missing equal sign")
        found = self.sections.setdefault(section, {})
        value = self.value(section, rest[1:].strip(text_of.SPACE))
        found.pop(name, None)  # a repeated key moves to the end
        found[name] = value

    def pragma(self, section: str, text: str, depth: int) -> None:
        name, colon, value = text.partition(":")
        value = value.lstrip(text_of.SPACE)
        if not colon or not name or not value:
            raise text_of.LineError("invalid pragma")
        name = name.strip(text_of.SPACE)
        if name == "dollarid":
            self.dollar_in_names = text_of.switch(value)
        elif name == "abspath":
            self.absolute_only = text_of.switch(value)
        elif name == "includedir":
            self.include_directory = value

    def include(self, section: str, text: str, depth: int) -> None:
        path = self.value(section, text)
        if not path.startswith("/"):
            if self.include_directory is not None:
                path = f"{self.include_directory.rstrip('/')}/{path}"
            if not path.startswith("/"):
                if self.absolute_only:
                    raise text_of.LineError("relative path in .include")
                return  # relative to wherever a program was started: not known here
        names = self.listed(path)
        if names is None:
            self.file(path, depth + 1)
            return
        for name in sorted(names):
            if name.lower().endswith(_EXTENSIONS):
                self.file(f"{path.rstrip('/')}/{name}", depth + 1)

    def value(self, section: str, text: str) -> str:
        def variable(where: str | None, name: str) -> str:
            found = self.sections.get(where or section, {}).get(name)
            if found is None and where == "ENV":
                # The process that will read this may have it, unlike this one: its library tells.
                return self.environment.get(name, self.sections["default"].get(name, ""))
            if found is None:
                found = self.sections["default"].get(name)
            if found is None:
                raise text_of.LineError(f"variable {name} has no value")
            return found

        return text_of.expand(text, variable, self.dollar_in_names)


def parse(path: str, read: ReadFile, listed: ListDirectory, environment: Mapping[str, str] | None = None) -> Config:
    """Return what OpenSSL gets from the file at ``path`` and those it includes; nothing from a missing one.

    ``environment`` is for ``$ENV::NAME``. Raises :class:`KtlsError` ``malformed_config``.
    """
    reader = _Reader(read, listed, environment or {})
    reader.file(path, 0)
    return Config(reader.sections, tuple(reader.files))


def chain(config: Config) -> Chain:
    """Follow the links. Pure. A link that names a section which is not there counts: the section is what is missing."""
    init = config.get("default", "openssl_conf")
    if not init:
        return Chain()
    ssl = _module(config.sections.get(init, {}), "ssl_conf")
    if not ssl:
        return Chain(init)
    return Chain(init, ssl, config.sections.get(ssl, {}).get("system_default") or None)


def addition(config: Config) -> str:
    """Return the lines that, read after ``config``, add the missing links and ask for kernel TLS. Pure.

    ``Options`` has a dotted prefix: OpenSSL drops it, and without it the line would replace another one
    (SSL_CONF_cmd(3), conf_ssl.c).
    """
    found = chain(config)
    lines: list[str] = []
    init = found.init or _fresh(config, "ktls_fleet_init")
    ssl = found.ssl or _fresh(config, "ktls_fleet_ssl")
    default = found.default or _fresh(config, "ktls_fleet_defaults")
    if not found.init:
        # Whatever section the text before ended in.
        lines += ["[default]", f"openssl_conf = {text_of.quoted(init)}"]
    if not found.ssl:
        lines += [f"[{text_of.quoted(init)}]", f"ssl_conf = {text_of.quoted(ssl)}"]
    if not found.default:
        lines += [f"[{text_of.quoted(ssl)}]", f"system_default = {text_of.quoted(default)}"]
    prefix, known = "ktls", config.sections.get(default, {})
    while f"{prefix}.Options" in known:
        prefix += "_"
    lines += [f"[{text_of.quoted(default)}]", f"{prefix}.Options = KTLS"]
    return "\n".join(lines) + "\n"


def block(added: str) -> str:
    """Return ``added`` between the marks."""
    return f"{BEGIN}\n{added}{END}\n"


def marked(text: str, path: str) -> tuple[int, int] | None:
    """Return where our block starts and ends in ``text``, ``None`` when there is none.

    Raises :class:`KtlsError` ``malformed_config`` when it has no end, or when there are two.
    """
    starts = [start for start, line in _lines(text) if line.startswith(_BEGIN_PREFIX)]
    if not starts:
        return None
    ends = [start + len(line) for start, line in _lines(text) if line.startswith(END) and start > starts[0]]
    if len(starts) > 1 or len(ends) != 1:
        message = (
            f"{path} line {text.count(chr(10), 0, starts[0]) + 1}: the lines from '{_BEGIN_PREFIX}' to '{END}' are "
            "damaged; take them out by hand, or put the file back from your backup"
        )
        raise KtlsError("malformed_config", message)
    return starts[0], ends[0]


def without_block(text: str, path: str) -> str:
    """Return ``text`` without our block; the blank line before it stays."""
    place = marked(text, path)
    return text if place is None else text[: place[0]] + text[place[1] :]


def with_block(text: str, added: str, path: str) -> str:
    """Return ``text`` with our block: where it is already, else at the end."""
    place = marked(text, path)
    if place is not None:
        return text[: place[0]] + block(added) + text[place[1] :]
    # The blank line ends a last line that a backslash would continue.
    ended = text if not text or text.endswith("\n") else text + "\n"
    return f"{ended}\n{block(added)}" if ended else block(added)


def _module(section: Mapping[str, str], module: str) -> str | None:
    """The part of a key after its last dot only makes it different from others (conf_mod.c, module_find)."""
    values = [value for name, value in section.items() if (name.rpartition(".")[0] or name) == module]
    return values[-1] if values else None


def _fresh(config: Config, name: str) -> str:
    number, found = 1, name
    while found in config.sections:
        number += 1
        found = f"{name}_{number}"
    return found


def _lines(text: str) -> list[tuple[int, str]]:
    found, start = [], 0
    for line in text.split("\n"):
        found.append((start, text[start : start + len(line) + 1]))
        start += len(line) + 1
    return found


def _malformed(path: str, line: int, what: str) -> KtlsError:
    message = f"{path} line {line}: {what}; repair the line, check with 'openssl version', then repeat"
    return KtlsError("malformed_config", message)

# SPDX-License-Identifier: Apache-2.0
"""Image definitions: YAML files in ``lab/images``, one image each.

Keys: ``description``; ``suite`` (the Debian suite to bootstrap); ``sources`` (list of url, suite, components);
``extra_sources`` (appended to the inherited ones); ``kernel_package``; ``kernel_from`` (suite that the kernel is
taken from, for backports); ``packages``; ``extra_packages``; ``memory_mib``; ``disk_mib``; ``expect`` (prefixes
of the kernel, OpenSSL and Python versions, for tests); ``extends`` (name of the image whose keys are inherited);
``opt_in`` (true: only built when it is named); ``rebuild`` (list of Debian source packages of these sources that are
built again with other configure arguments and installed in place of Debian's: ``source`` its name; ``configure`` one
variable of its debian/rules, and what is added to it; ``packages`` the binary packages that are installed);
``masked`` (units of its packages that shall not run by themselves);
``rig`` (true: with the kernel module of ``lab/tlssim``, which plays a card with TLS offload).
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from ktls_lab.errors import LabError
from ktls_lab.paths import IMAGE_DEFINITIONS

_REQUIRED = ("description", "suite", "sources", "kernel_package", "packages", "memory_mib", "disk_mib", "expect")
_OPTIONAL = ("extends", "extra_sources", "extra_packages", "kernel_from", "masked", "opt_in", "rebuild", "rig")
_EXPECT = ("kernel", "openssl", "python")
_REBUILD = ("source", "configure", "packages")
# These go into shell commands and a makefile of the build.
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+\Z")  # Debian Policy 5.6.1
_UNIT = re.compile(r"[A-Za-z0-9_.@-]+\.service\Z")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_FLAG = re.compile(r"--[A-Za-z0-9][A-Za-z0-9_./=+-]*\Z")


@dataclass(frozen=True)
class Source:
    """One apt source."""

    url: str
    suite: str
    components: tuple[str, ...]

    def line(self) -> str:
        """Return the one-line format of sources.list(5)."""
        return f"deb {self.url} {self.suite} {' '.join(self.components)}"

    def source_line(self, keyring: str) -> str:
        """Return the line for the source packages, believed when signed by a key in the file ``keyring``."""
        return f"deb-src [signed-by={keyring}] {self.url} {self.suite} {' '.join(self.components)}"


@dataclass(frozen=True)
class Expect:
    """Version prefixes that a booted image must show."""

    kernel: str
    openssl: str
    python: str


@dataclass(frozen=True)
class Rebuild:
    """A source package to build with ``flags`` added to ``variable`` of its debian/rules, and what is taken of it."""

    source: str
    variable: str
    flags: tuple[str, ...]
    packages: tuple[str, ...]


@dataclass(frozen=True)
class Image:
    """A checked image definition. Sizes are in MiB."""

    name: str
    description: str
    suite: str
    sources: tuple[Source, ...]
    kernel_package: str
    kernel_from: str | None
    packages: tuple[str, ...]
    memory_mib: int
    disk_mib: int
    expect: Expect
    opt_in: bool = False
    rebuild: tuple[Rebuild, ...] = ()
    rig: bool = False
    masked: tuple[str, ...] = ()

    def digest(self, *ingredients: bytes) -> str:
        """16 hex digits over what decides the image's content: the definition and the builder's ingredients."""
        words = {"description", "expect", "opt_in"}
        words |= {key for key in ("masked", "rebuild", "rig") if not getattr(self, key)}
        definition = {key: value for key, value in asdict(self).items() if key not in words}
        sha = hashlib.sha256(json.dumps(definition, sort_keys=True).encode())
        for part in ingredients:
            sha.update(hashlib.sha256(part).digest())
        return sha.hexdigest()[:16]


def names(directory: Path = IMAGE_DEFINITIONS, *, opt_in: bool = False) -> list[str]:
    """Names of the defined images, sorted: without those that are only built when named, unless ``opt_in``."""
    return [name for name in _all_names(directory) if opt_in or not _is_opt_in(name, directory)]


def _all_names(directory: Path) -> list[str]:
    return sorted(path.stem for path in directory.glob("*.yml"))


def _is_opt_in(name: str, directory: Path) -> bool:
    try:
        return _resolve(name, directory, ()).get("opt_in") is True
    except LabError:  # said when the image is loaded
        return False


def load(name: str, directory: Path = IMAGE_DEFINITIONS) -> Image:
    """Read and check the definition of image ``name``.

    Raises:
        LabError: no such image, or a definition that is malformed (the message names file and key).
    """
    raw = _resolve(name, directory, ())
    where = directory / f"{name}.yml"
    missing = [key for key in _REQUIRED if key not in raw]
    if missing:
        message = f"{where}: missing {', '.join(missing)}"
        raise LabError(message)
    sources = tuple(_source(where, entry) for entry in [*raw["sources"], *raw.get("extra_sources", [])])
    if not sources:
        message = f"{where}: sources must name at least one apt source"
        raise LabError(message)
    kernel_from = raw.get("kernel_from")
    if kernel_from is not None and kernel_from not in {source.suite for source in sources}:
        message = f"{where}: kernel_from {kernel_from!r} is not the suite of any source"
        raise LabError(message)
    packages = (*_words(where, raw, "packages"), *_words(where, raw, "extra_packages"))
    return Image(
        name=name,
        description=_text(where, raw, "description"),
        suite=_text(where, raw, "suite"),
        sources=sources,
        kernel_package=_text(where, raw, "kernel_package"),
        kernel_from=kernel_from,
        packages=packages,
        memory_mib=_size(where, raw, "memory_mib", 256),
        disk_mib=_size(where, raw, "disk_mib", 1024),
        expect=_expect(where, raw["expect"]),
        opt_in=_flag(where, raw, "opt_in"),
        rebuild=_rebuilds(where, raw.get("rebuild", [])),
        rig=_flag(where, raw, "rig"),
        masked=_units(where, raw),
    )


def _units(where: Path, raw: dict[str, Any]) -> tuple[str, ...]:
    found = _words(where, raw, "masked")
    for unit in found:
        if not _UNIT.match(unit):
            message = f"{where}: masked: {unit!r} is not the name of a service"
            raise LabError(message)
    return found


def _resolve(name: str, directory: Path, seen: tuple[str, ...]) -> dict[str, Any]:
    path = directory / f"{name}.yml"
    if name in seen:
        message = f"{path}: extends goes in a circle: {' -> '.join((*seen, name))}"
        raise LabError(message)
    if "/" in name or not path.is_file():
        message = f"no image {name!r}: choose one of {', '.join(_all_names(directory)) or '(none defined)'}"
        raise LabError(message)
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        message = f"{path}: not YAML: {' '.join(str(error).split())}"
        raise LabError(message) from error
    if not isinstance(raw, dict):
        message = f"{path}: must be a mapping of keys"
        raise LabError(message)
    unknown = sorted(str(key) for key in raw if key not in (*_REQUIRED, *_OPTIONAL))
    if unknown:
        message = f"{path}: unknown key {', '.join(unknown)}"
        raise LabError(message)
    parent = raw.pop("extends", None)
    for key in ("sources", "extra_sources"):
        if key in raw and not isinstance(raw[key], list):
            message = f"{path}: {key} must be a list"
            raise LabError(message)
    if parent is None:
        return raw
    return {**_resolve(str(parent), directory, (*seen, name)), **raw}


def _text(where: Path, raw: dict[str, Any], key: str) -> str:
    value = raw[key]
    if not isinstance(value, str) or not value or "\n" in value:
        message = f"{where}: {key} must be a line of text"
        raise LabError(message)
    return value


def _size(where: Path, raw: dict[str, Any], key: str, least: int) -> int:
    value = raw[key]
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        message = f"{where}: {key} must be a number of MiB, at least {least}"
        raise LabError(message)
    return value


def _words(where: Path, raw: dict[str, Any], key: str) -> tuple[str, ...]:
    value = raw.get(key, [])
    if not isinstance(value, list) or not all(isinstance(word, str) and word.split() == [word] for word in value):
        message = f"{where}: {key} must be a list of package names"
        raise LabError(message)
    return tuple(value)


def _flag(where: Path, raw: dict[str, Any], key: str) -> bool:
    value = raw.get(key, False)
    if not isinstance(value, bool):
        message = f"{where}: {key} must be true or false"
        raise LabError(message)
    return value


def _rebuilds(where: Path, entries: object) -> tuple[Rebuild, ...]:
    if not isinstance(entries, list):
        message = f"{where}: rebuild must be a list"
        raise LabError(message)
    return tuple(_rebuild(where, entry) for entry in entries)


def _rebuild(where: Path, entry: object) -> Rebuild:
    if isinstance(entry, dict) and set(entry) == set(_REBUILD):
        source, configure, packages = entry["source"], entry["configure"], entry["packages"]
        if isinstance(configure, dict) and len(configure) == 1:
            ((variable, flags),) = configure.items()
            if (
                _all_match(_PACKAGE, [source])
                and _all_match(_VARIABLE, [variable])
                and _all_match(_FLAG, flags)
                and _all_match(_PACKAGE, packages)
            ):
                return Rebuild(source, variable, tuple(flags), tuple(packages))
    message = (
        f"{where}: each rebuild needs exactly source (a package name), configure (one variable of debian/rules with a "
        f"list of --arguments) and packages (a list of names), got {entry!r}"
    )
    raise LabError(message)


def _all_match(pattern: re.Pattern[str], words: object) -> bool:
    return (
        isinstance(words, list)
        and bool(words)
        and all(isinstance(word, str) and pattern.match(word) is not None for word in words)
    )


def _source(where: Path, entry: object) -> Source:
    if isinstance(entry, dict) and set(entry) == {"url", "suite", "components"}:
        url, suite, components = entry["url"], entry["suite"], entry["components"]
        if isinstance(url, str) and isinstance(suite, str) and isinstance(components, list) and components:
            return Source(url, suite, tuple(str(component) for component in components))
    message = f"{where}: each source needs exactly url, suite and a list of components, got {entry!r}"
    raise LabError(message)


def _expect(where: Path, entry: object) -> Expect:
    if isinstance(entry, dict) and set(entry) == set(_EXPECT) and all(isinstance(word, str) for word in entry.values()):
        return Expect(**entry)
    message = f"{where}: expect needs exactly {', '.join(_EXPECT)}, each a quoted version prefix"
    raise LabError(message)

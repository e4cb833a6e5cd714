# SPDX-License-Identifier: Apache-2.0
"""systemd services: their names, what systemd knows of them, and what their unit files say of an environment variable.

Source: systemd.unit(5), systemd.exec(5), systemd.syntax(7), systemctl(1).
"""

from __future__ import annotations

import glob
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from .. import textfile
from ..commands import Runner
from ..errors import KtlsError

# unit-name.c of systemd: VALID_CHARS_WITH_AT, and 255 characters at most.
_NAME = re.compile(r"[A-Za-z0-9:_.\\-]+(@[A-Za-z0-9:_.\\@-]*)?\.service\Z", re.ASCII)
_OTHER_TYPES = (
    *(".socket", ".device", ".mount", ".automount", ".swap", ".target", ".path", ".timer", ".slice", ".scope"),
)
_LONGEST = 255
_PROPERTIES = ("Id", "LoadState", "ActiveState", "MainPID", "FragmentPath", "DropInPaths", "Environment")
#: An instance that nobody uses, to see what a template is made of.
_EXAMPLE = "ktls-fleet"


@dataclass(frozen=True)
class Unit:
    """A service as systemd has loaded it. ``name`` is its own name, not an alias; ``main_pid`` is 0 when it has none.

    ``files`` are the unit file and its drop-ins, in the order in which they count. ``environment`` is what
    ``Environment=`` amounts to.
    """

    name: str
    load_state: str = "not-found"
    active_state: str = "inactive"
    main_pid: int = 0
    files: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()

    @property
    def running(self) -> bool:
        """True while it has or may have processes."""
        return self.active_state not in ("inactive", "failed")


@dataclass(frozen=True)
class Assignment:
    """What the unit files make of one variable. ``value`` is ``None`` when nothing sets it.

    ``obstacle`` says why a drop-in with ``Environment=`` could not set it, ``None`` when it can.
    """

    value: str | None = None
    obstacle: str | None = None


@dataclass
class _Seen:
    value: str | None
    files: list[str] = field(default_factory=list)
    unset: list[str] = field(default_factory=list)
    root: str = ""


def full_name(text: str) -> str:
    """Return the name of a service with its suffix. Raises :class:`KtlsError` ``bad_service_name``."""
    name = text if text.endswith((".service", *_OTHER_TYPES)) else f"{text}.service"
    if len(name) > _LONGEST or not _NAME.match(name):
        message = f"{text!r} is no name of a systemd service; write it like 'nginx', 'nginx.service' or 'app@one'"
        raise KtlsError("bad_service_name", message)
    return name


def is_template(name: str) -> bool:
    """``app@.service`` stands for all its instances."""
    return name.endswith("@.service")


def probe(names: Sequence[str], runner: Runner) -> list[Unit]:
    """Return what systemd knows of each name, in order. Raises :class:`KtlsError` ``no_systemd``."""
    if not names:
        return []
    asked = [name.replace("@.service", f"@{_EXAMPLE}.service") for name in names]
    argv = ("systemctl", "show", f"--property={','.join(_PROPERTIES)}", "--", *asked)
    try:
        result = runner.run(argv)
    except KtlsError as error:
        raise _no_systemd(error.message) from error
    if result.rc:
        raise _no_systemd(result.reason)
    found = parse_show(result.stdout)
    if len(found) != len(names):
        raise _no_systemd(f"systemctl told of {len(found)} units instead of {len(names)}")
    return [_renamed(unit, name) for unit, name in zip(found, names)]


def instances(template: str, runner: Runner) -> list[str]:
    """Return the loaded instances of a template, sorted. Raises :class:`KtlsError` ``no_systemd``."""
    pattern = template.replace("@.service", "@*.service")
    argv = ("systemctl", "list-units", "--all", "--plain", "--no-legend", "--no-pager", "--", pattern)
    result = runner.run(argv)
    if result.rc:
        raise _no_systemd(result.reason)
    return sorted(line.split()[0] for line in result.stdout.splitlines() if line.strip())


def parse_show(text: str) -> list[Unit]:
    """Return the units in the output of ``systemctl show``, one a paragraph."""
    units = []
    for paragraph in text.strip("\n").split("\n\n"):
        found = dict(line.partition("=")[::2] for line in paragraph.splitlines() if "=" in line)
        if "LoadState" not in found:
            continue
        pid = found.get("MainPID", "0")
        files = (found.get("FragmentPath", ""), *_words(found.get("DropInPaths", "")))
        units.append(
            Unit(
                name=found.get("Id", ""),
                load_state=found["LoadState"],
                active_state=found.get("ActiveState", ""),
                main_pid=int(pid) if pid.isdigit() else 0,
                files=tuple(path for path in files if path),
                environment=tuple(_words(found.get("Environment", ""))),
            )
        )
    return units


def assignment(unit: Unit, variable: str, own: str, manager: Mapping[str, str], root: str = "/") -> Assignment:
    """Return what the files of ``unit`` without ``own``, our drop-in, make of ``variable``.

    ``manager`` is the environment that every service gets.
    """
    texts = [(path, textfile.read(root, path) or "") for path in unit.files if path != own]
    seen = _seen(texts, variable, manager.get(variable))
    if variable in seen.unset:
        return Assignment(seen.value, f"UnsetEnvironment= takes {variable} away; remove it there")
    if seen.root not in ("", "/"):
        obstacle = f"it runs in a root directory of its own ({seen.root}), where our file is not; configure it there"
        return Assignment(seen.value, obstacle)
    for pattern in seen.files:
        for path in sorted(glob.glob(textfile.under(root, pattern.lstrip("-")))):
            text = textfile.read("/", path) or ""
            if re.search(rf"^[ \t]*{variable}[ \t]*=", text, re.MULTILINE):
                shown = pattern.lstrip("-")
                return Assignment(seen.value, f"EnvironmentFile={shown} sets {variable}, which wins; remove it there")
    if seen.value is not None and "%" in seen.value.replace("%%", ""):
        return Assignment(seen.value, f"{variable}={seen.value} names a file by a specifier; write the path out there")
    return Assignment(None if seen.value is None else seen.value.replace("%%", "%"))


def manager_environment(runner: Runner) -> dict[str, str]:
    """Return what ``systemctl show-environment`` tells; empty when it does not."""
    result = runner.run(("systemctl", "show-environment"))
    lines = result.stdout.splitlines() if result.rc == 0 else []
    found = {}
    for line in lines:
        name, equals, value = line.partition("=")
        if equals:
            found[name] = (_words(value) or [""])[0]
    return found


def drop_in_path(unit: str, backend: str) -> str:
    """Return our drop-in. Drop-ins count in the order of their names, whatever directory they are in."""
    return f"/etc/systemd/system/{unit}.d/zz-ktls-fleet-{backend}.conf"


def drop_in_text(variable: str, value: str) -> str:
    """Return a drop-in that sets ``variable``, quoted as systemd wants it."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'[Service]\nEnvironment="{variable}={escaped}"\n'


def _seen(texts: Iterable[tuple[str, str]], variable: str, inherited: str | None) -> _Seen:
    seen = _Seen(inherited)
    for _, text in texts:
        section = ""
        for line in _logical(text):
            if line.startswith("["):
                section = line.strip("[]")
                continue
            name, equals, value = (part.strip() for part in line.partition("="))
            if section != "Service" or not equals:
                continue
            if name == "Environment":
                if not value:
                    seen.value = inherited
                for word in _words(value):
                    key, _, assigned = word.partition("=")
                    if key == variable:
                        seen.value = assigned
            elif name == "EnvironmentFile":
                seen.files = [*seen.files, value] if value else []
            elif name == "UnsetEnvironment":
                seen.unset = [*seen.unset, *(word.partition("=")[0] for word in _words(value))] if value else []
            elif name in ("RootDirectory", "RootImage"):
                seen.root = value
    return seen


def _logical(text: str) -> list[str]:
    """Join continued lines; a comment among them is left out (systemd.syntax(7))."""
    lines, joined = [], ""
    for line in text.splitlines():
        bare = line.strip()
        if bare.startswith(("#", ";")) or (not bare and joined):
            continue
        joined += bare
        if joined.endswith("\\"):
            joined = joined[:-1] + " "
            continue
        lines.append(joined.strip())
        joined = ""
    return [line for line in (*lines, joined.strip()) if line]


def _words(text: str) -> list[str]:
    """Split as systemd does, near enough; what cannot be split is returned by blanks."""
    try:
        return shlex.split(text)
    except ValueError:
        return text.split()


def _renamed(unit: Unit, asked: str) -> Unit:
    name = asked if is_template(asked) or unit.load_state == "not-found" else unit.name or asked
    return Unit(name, unit.load_state, unit.active_state, unit.main_pid, unit.files, unit.environment)


def _no_systemd(why: str) -> KtlsError:
    message = f"systemd does not tell about services ({why}); scope: service needs it, use scope: system on this host"
    return KtlsError("no_systemd", message)

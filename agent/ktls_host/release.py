# SPDX-License-Identifier: Apache-2.0
"""Install a release zipapp on this host: probe, plan, apply.

Each version has its own directory; one symbolic link chooses. Nothing is switched before the staged artefact has run
on this very host. What a service was last started with is recorded, so an interrupted run is finished by the next
one, and a service is restarted only for a reason. Layout: ``/usr/local/lib/ktls/<version>/{ktls.pyz,manifest.json}``.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import stat
import time
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from . import release_record
from .commands import CommandResult, Runner
from .errors import KtlsError
from .files import FileSpec, atomic_write, plan_files
from .files import apply as apply_files
from .nginx import settings as nginx_settings
from .probe_object import probe_bytes
from .service import settings as service_settings

LIB = "/usr/local/lib/ktls"
CURRENT = f"{LIB}/current"
STARTED = f"{LIB}/started.json"
COMPONENTS = ("agent", "sidecar", "nginx", "service", "sentinel")
SERVING = ("agent", "sidecar")
"""What a host that serves has; the sentinel is for a machine beside it."""
PYTHON = "/usr/bin/python3"
DATAPATH = "/etc/ktls/datapath"
"""What `ktls-off` takes away from which program, for a shell: lines of name=value."""
SENTINEL_CA = "/etc/ktls/sentinel-ca.pem"
PROBE_NAME = "ktls-probe.bin"
KEEP_VERSIONS = 2  # the one in force and the one before it

_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+_-]{0,100}\Z")
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
_SHARED = {
    "share/ktls.sysusers.conf": ("/etc/sysusers.d/ktls.conf", 0o644),
    "share/ktls.tmpfiles.conf": ("/etc/tmpfiles.d/ktls.conf", 0o644),
    "share/ktls-off": ("/usr/local/sbin/ktls-off", 0o755),
}
_HELPERS = ("lease", "module", "nic")
_UNITS = {
    "agent": (
        "ktls-diag.socket",
        "ktls-diag.service",
        *(f"ktls-{name}-helper.socket" for name in _HELPERS),
        *(f"ktls-{name}-helper@.service" for name in _HELPERS),
        "ktls-lease.timer",
        "ktls-lease.service",
        "ktls-boot.service",
        "ktls-agent.service",
        "ktls-pull.service",
    ),
    "sidecar": ("ktls-sidecar.service", "ktls-sidecar.socket"),
    "nginx": (
        "ktls-nginx-helper.socket",
        "ktls-nginx-helper@.service",
        "ktls-nginx-log.socket",
        "ktls-datapath.path",
        "ktls-datapath.service",
        "ktls-nginx-watch.service",
    ),
    "service": (
        "ktls-datapath.path",
        "ktls-datapath.service",
        "ktls-service-helper@.service",
        "ktls-service-helper.socket",
    ),
    "sentinel": ("ktls-sentinel.service",),
}
# Installed, but for the operator to enable; what is enabled is kept running.
_OPTIONAL = frozenset({"ktls-sidecar.socket", "ktls-pull.service"})
# Started by their socket; those with @ once for each request.
_BY_SOCKET = frozenset(
    {"ktls-diag.service", *(f"ktls-{name}-helper@.service" for name in (*_HELPERS, "nginx", "service"))}
)
# Started by a helper for the agent, by the timer, and by a flag.
_BY_AGENT = frozenset({"ktls-lease.timer", "ktls-lease.service", "ktls-datapath.service"})
# Enabled, and left to the next boot.
_AT_BOOT = frozenset({"ktls-boot.service"})
_COMMANDS = {
    "agent": ("ktls-agent",),
    "sidecar": ("ktls-sidecar", "ktls-publish"),
    "nginx": (),
    "service": (),
    "sentinel": ("ktls-sentinel",),
}
_USERS = ("ktls-agent", "ktls-sidecar", "ktls-pull")
_LEVERS = "/var/lib/ktls-levers"
USERS = _USERS
"""The users of ours; each has a group of its name."""
GROUPS = ("ktls", *USERS)
# What share/ktls.tmpfiles.conf makes.
_MADE = ("/run/ktls", "/run/ktls-agent", _LEVERS, "/run/ktls-levers.lock")
_MEMBER_MAX = 8 * 1024 * 1024


@dataclass(frozen=True)
class ReleaseInfo:
    """What a zipapp says of itself, checked: ``files`` maps its members to their SHA-256."""

    version: str
    sha256: str
    commit: str | None
    files: dict[str, str]


@dataclass(frozen=True)
class DesiredRelease:
    """What shall be installed. ``src``: a staged zipapp on this host; may be missing in check mode."""

    state: str = "present"
    src: str | None = None
    version: str | None = None
    sha256: str | None = None
    components: tuple[str, ...] = SERVING
    agent_config: dict[str, Any] | None = None
    sidecar_config: dict[str, Any] | None = None
    nginx_config: dict[str, Any] | None = None
    service_config: dict[str, Any] | None = None
    sentinel_config: dict[str, Any] | None = None
    purge: bool = False
    remove_users: bool = False
    wait_s: float = 150.0


@dataclass(frozen=True)
class Service:
    """A unit as systemd knows it."""

    active: bool = False
    enabled: bool = False
    loaded: bool = False
    needs_reload: bool = False


@dataclass(frozen=True)
class Installed:
    """What is on the host, as far as it matters to one :class:`DesiredRelease`.

    ``source`` is where the members in ``share`` were read from: the installed zipapp, the staged one, or ``None``.
    """

    current: str | None = None
    versions: dict[str, str] = field(default_factory=dict)  # version -> SHA-256 of its zipapp
    ages: dict[str, float] = field(default_factory=dict)  # version -> time of its installation
    source: str | None = None
    share: dict[str, bytes] = field(default_factory=dict)
    differs: dict[str, str] = field(default_factory=dict)  # path -> create | replace | attributes | remove
    diffs: list[dict[str, str]] = field(default_factory=list)
    links: dict[str, str | None] = field(default_factory=dict)
    services: dict[str, Service] = field(default_factory=dict)
    started: dict[str, str] = field(default_factory=dict)
    certificate: str = ""
    users: tuple[str, ...] = ()  # of ours, those that exist
    made_missing: bool = True
    foreign: tuple[str, ...] = ()  # units of ours that the wanted release does not have
    leftovers: tuple[str, ...] = ()  # state absent: what there is to remove


@dataclass(frozen=True)
class Step:
    """One thing to do. ``args`` are for :func:`apply`; ``detail`` is for people."""

    kind: str
    target: str
    detail: str
    args: tuple[Any, ...] = ()


@dataclass
class Result:
    """What was done, or in check mode what would be."""

    changed: bool = False
    version: str | None = None
    previous_version: str | None = None
    steps: list[str] = field(default_factory=list)
    diff: list[dict[str, str]] = field(default_factory=list)
    started: list[str] = field(default_factory=list)
    restarted: list[str] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class System:
    """What release needs of a running host beside files; tests put a recording in its place."""

    def __init__(self, runner: Runner | None = None) -> None:
        """Run programs through ``runner``."""
        self._runner = runner or Runner()

    def run(self, *argv: str) -> CommandResult:
        """Run a program and wait. Raises :class:`KtlsError` if it cannot be run."""
        return self._runner.run(argv)

    def call(self, socket_path: str, request: dict[str, Any]) -> dict[str, Any]:
        """Ask a service on its socket. Raises :class:`KtlsError`."""
        from . import jsonsock

        return jsonsock.call(socket_path, request, 5.0)

    def has_user(self, name: str) -> bool:
        """Return whether the user exists."""
        import pwd

        with contextlib.suppress(KeyError):
            pwd.getpwnam(name)
            return True
        return False

    def has_group(self, name: str) -> bool:
        """Return whether the group exists."""
        import grp

        with contextlib.suppress(KeyError):
            grp.getgrnam(name)
            return True
        return False

    def now(self) -> float:
        """Return the wall clock in seconds, as the journal counts."""
        return time.time()

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)


def units(component: str) -> tuple[str, ...]:
    """Return the units of a component, in the order in which they are started."""
    return _UNITS[component]


def links(component: str) -> tuple[tuple[str, str], ...]:
    """Return the commands of a component: the link, and where it leads."""
    return tuple((f"/usr/local/bin/{name}", "../lib/ktls/current/ktls.pyz") for name in _COMMANDS[component])


def shared_paths() -> tuple[str, ...]:
    """Return the files that agent and sidecar share."""
    return tuple(path for path, _ in _SHARED.values())


# Inspect


def inspect(src: str) -> ReleaseInfo:
    """Read and check the zipapp at ``src``. Raises :class:`KtlsError`: not_found, bad_release."""
    return _open(src)[0]


def _open(src: str) -> tuple[ReleaseInfo, dict[str, bytes]]:
    try:
        with open(src, "rb") as stream:
            sha256 = hashlib.sha256()
            for block in iter(lambda: stream.read(1 << 20), b""):
                sha256.update(block)
            stream.seek(0)
            info, share = _members(src, stream, sha256.hexdigest())
    except FileNotFoundError as error:
        raise KtlsError("not_found", f"there is no release at {src}; copy the built ktls.pyz there first") from error
    except OSError as error:
        raise KtlsError("not_found", f"cannot read {src} ({error.strerror}); run as root") from error
    except (zipfile.BadZipFile, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _bad(src, "is not a whole ktls release") from error
    return info, share


def _members(src: str, stream: Any, sha256: str) -> tuple[ReleaseInfo, dict[str, bytes]]:
    with zipfile.ZipFile(stream) as archive:
        names = archive.namelist()
        if any(entry.file_size > _MEMBER_MAX for entry in archive.infolist()):
            raise _bad(src, "has an oversize member")
        meta = json.loads(archive.read("meta.json"))
        version, files = str(meta["version"]), dict(meta["files"])
        if not _VERSION.match(version):
            raise _bad(src, "has a version that cannot name a directory")
        if sorted(names) != sorted([*files, "meta.json"]):
            raise _bad(src, "has other members than it lists")
        share = {}
        for name, digest in files.items():
            content = archive.read(name)
            if hashlib.sha256(content).hexdigest() != digest:
                raise _bad(src, f"is damaged: {name}")
            if name.startswith("share/"):
                share[name] = content
    commit = meta.get("commit")
    return ReleaseInfo(version, sha256, None if commit is None else str(commit), files), share


def _bad(src: str, what: str) -> KtlsError:
    return KtlsError("bad_release", f"{src} {what}; build it anew and copy it again")


# Probe


def probe(desired: DesiredRelease, root: str = "/", system: System | None = None) -> Installed:
    """Read the host. Raises :class:`KtlsError`: bad_request, bad_release, no_systemd, and those of ``files``."""
    _check(desired)
    system = system or System()
    versions, ages = _versions(root)
    services = _services(system, _units(desired))
    users = tuple(name for name in _USERS if system.has_user(name))
    if desired.state == "absent":
        found = _leftovers(desired, root)
        return Installed(_current(root), versions, ages, services=services, leftovers=found, users=users)
    source, share = _source(desired, versions, root)
    expected = (*_shared(desired), *(f"share/{_main_unit(component)}" for component in desired.components))
    missing = [name for name in expected if source and name not in share]
    if missing:
        raise _bad(str(source), f"has no {missing[0]}")
    installed = Installed(
        current=_current(root),
        versions=versions,
        ages=ages,
        source=source,
        share=share,
        links={link: _readlink(root, link) for link, _ in _links(desired)},
        services=services,
        started=_started(root),
        certificate=_certificate(desired, root),
        users=users,
        made_missing=not all(os.path.lexists(_under(root, path)) for path in _MADE),
        # An older release has fewer. What came after it would ask it for verbs that it does not know.
        foreign=tuple(unit for unit in _units(desired) if source and f"share/{unit}" not in share),
    )
    changes = plan_files(_specs(desired, share), root)
    diffs = [change.diff() for change in changes if change.spec.path != _probe_path(desired)]
    return replace(installed, differs={change.spec.path: change.action for change in changes}, diffs=diffs)


def _check(desired: DesiredRelease) -> None:
    if desired.state not in ("present", "absent"):
        raise KtlsError("bad_request", f"state {desired.state!r}: use present or absent")
    odd = set(desired.components) - set(COMPONENTS)
    if odd or not desired.components:
        raise KtlsError("bad_request", f"components: use some of {', '.join(COMPONENTS)}")
    if desired.state == "absent":
        return
    if not _VERSION.match(desired.version or "") or not _SHA256.match(desired.sha256 or ""):
        raise KtlsError("bad_request", "give the version and the sha256 of the release, as agent/build.py prints them")
    for name, config in _configs(desired).items():
        if name in desired.components and not isinstance(config, dict):
            raise KtlsError("bad_request", f"component {name} needs {name}_config")
    if "sidecar" in desired.components and not str((desired.sidecar_config or {}).get("root", "")).startswith("/"):
        raise KtlsError("bad_request", "sidecar_config.root: give the absolute path of the served directory")


def _source(desired: DesiredRelease, versions: dict[str, str], root: str) -> tuple[str | None, dict[str, bytes]]:
    """Return where the wanted release can be read, and its shared files."""
    version = str(desired.version)
    if versions.get(version) == desired.sha256:
        path = _under(root, f"{LIB}/{version}/ktls.pyz")
        return path, _open(path)[1]
    if desired.src is None or not os.path.exists(desired.src):
        return None, {}
    info, share = _open(desired.src)
    if (info.version, info.sha256) != (version, desired.sha256):
        raise _bad(desired.src, f"is version {info.version} ({info.sha256[:12]}…), not the wanted {version}")
    return desired.src, share


def _versions(root: str) -> tuple[dict[str, str], dict[str, float]]:
    """Return the whole installed versions: the recorded SHA-256 must be that of the file."""
    versions, ages = {}, {}
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        for name in os.listdir(_under(root, LIB)):
            directory = _under(root, f"{LIB}/{name}")
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                with open(f"{directory}/manifest.json", encoding="utf-8") as stream:
                    recorded = json.load(stream)["sha256"]
                if not os.path.islink(directory) and _digest(f"{directory}/ktls.pyz") == recorded:
                    versions[name] = recorded
                    ages[name] = os.stat(f"{directory}/manifest.json").st_mtime
    return versions, ages


def _services(system: System, units: list[str]) -> dict[str, Service]:
    """Return what systemd says of ``units``, in one question; templates it knows only by their instances."""
    asked = [unit for unit in units if "@." not in unit]
    properties = "Id,ActiveState,UnitFileState,LoadState,NeedDaemonReload"
    done = system.run("systemctl", "show", "--property", properties, *asked)
    if done.rc != 0:
        raise KtlsError("no_systemd", f"systemd does not answer on this host ({done.reason}); it is needed")
    services = {}
    for block in done.stdout.split("\n\n"):
        found = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        services[found.get("Id", "")] = Service(
            active=found.get("ActiveState") == "active",
            enabled=found.get("UnitFileState") == "enabled",
            loaded=found.get("LoadState") == "loaded",
            needs_reload=found.get("NeedDaemonReload") == "yes",
        )
    return {unit: services.get(unit, Service()) for unit in asked}


def _leftovers(desired: DesiredRelease, root: str) -> tuple[str, ...]:
    paths = [f"/etc/systemd/system/{unit}" for unit in _units(desired)]
    paths += [f"/etc/ktls/{component}.json" for component in desired.components]
    paths += [link for link, _ in _links(desired)]
    others = [name for name in COMPONENTS if name not in desired.components]
    alone = not any(os.path.lexists(_under(root, f"/etc/systemd/system/{_UNITS[name][-1]}")) for name in others)
    if {"nginx", "service"} & set(desired.components):
        paths += [DATAPATH]
    if "sentinel" in desired.components:
        paths += [SENTINEL_CA]
        if desired.purge:
            paths += ["/var/lib/ktls-sentinel", "/var/lib/private/ktls-sentinel"]
    if alone:
        paths += [LIB]
    if set(SERVING) <= set(desired.components):
        paths += [path for path, _ in _SHARED.values()]
        paths += ["/run/ktls-agent", "/run/ktls-levers.lock"]
        with contextlib.suppress(OSError):
            if not os.listdir(_under(root, _LEVERS)):  # the levers' records go with the levers
                paths += [_LEVERS]
        if desired.purge:
            paths += ["/etc/ktls" if alone else "/etc/ktls/tls", "/var/lib/ktls", "/var/lib/ktls-pull", "/run/ktls"]
    if desired.purge and "sidecar" in desired.components:
        paths += [path for path in [_probe_path(desired)] if path]
    return tuple(path for path in paths if os.path.lexists(_under(root, path)))


# Plan


def plan(installed: Installed, desired: DesiredRelease) -> list[Step]:
    """Return what is to do, in order; empty when the host is as desired. Pure."""
    if desired.state == "absent":
        return _plan_absent(installed, desired)
    version = str(desired.version)
    steps: list[Step] = []
    new = installed.versions.get(version) != desired.sha256
    if new:
        args = (installed.source, version)
        # By its version: where it was staged is another place each time, and nobody's business afterwards.
        steps.append(Step("check", version, "run the staged release once, before anything is switched", args))
        steps.append(Step("store", f"{LIB}/{version}", f"install {version}", (desired.src, version, desired.sha256)))
    elif installed.current != version:
        target = f"{LIB}/{version}/ktls.pyz"
        steps.append(Step("check", target, "run the release once before the switch", (installed.source, version)))
    for unit in reversed(installed.foreign):
        service = installed.services.get(unit, Service())
        if service.active:
            steps.append(Step("stop", unit, "stop: this release has none"))
        if service.enabled:
            steps.append(Step("run", unit, "disable", ("systemctl", "--no-reload", "disable", unit)))
    changed = {spec.path for spec in _specs(desired, installed.share) if spec.path in installed.differs}
    steps += [
        Step("file", spec.path, installed.differs[spec.path], (spec,))
        for spec in _specs(desired, installed.share)
        if spec.path in changed
    ]
    # Without the artefact (check mode before the copy) its own files are not known: assume the usual.
    unknown = installed.source is None
    serving = bool(_shared(desired))
    if serving and (unknown or installed.users != _USERS or "/etc/sysusers.d/ktls.conf" in changed):
        steps.append(Step("run", "systemd-sysusers", "make users", ("systemd-sysusers", "/etc/sysusers.d/ktls.conf")))
    if serving and (unknown or installed.made_missing or "/etc/tmpfiles.d/ktls.conf" in changed):
        argv = ("systemd-tmpfiles", "--create", "/etc/tmpfiles.d/ktls.conf")
        steps.append(Step("run", "systemd-tmpfiles", "make directories", argv))
    if installed.current != version:
        steps.append(Step("link", CURRENT, f"switch {installed.current or 'nothing'} to {version}", (version,)))
    steps += [
        Step("link", link, f"link to {target}", (target,))
        for link, target in _links(desired)
        if installed.links.get(link) != target
    ]
    units = [unit for unit in _units(desired) if unit not in installed.foreign]
    ours_to_enable = [u for u in units if u not in _OPTIONAL | _BY_SOCKET | _BY_AGENT]
    enable = [u for u in ours_to_enable if not installed.services[u].enabled]
    if enable:
        # One reload for all of it, below: each costs seconds on a slow host.
        enabling = ("systemctl", "--no-reload", "enable", *enable)
        steps.append(Step("run", "systemd", f"enable {', '.join(enable)}", enabling))
    if (
        unknown
        or enable
        or any(f"/etc/systemd/system/{unit}" in changed for unit in _units(desired))
        or any(
            service.needs_reload or not service.loaded for name, service in installed.services.items() if name in units
        )
    ):
        steps.append(Step("run", "systemd", "read the units anew", ("systemctl", "daemon-reload")))
    steps += _plan_services(installed, desired)
    old = sorted((name for name in installed.versions if name != version), key=lambda name: -installed.ages[name])
    # The version that was in force until now is the one to go back to.
    old.sort(key=lambda name: name != installed.current)
    steps += [Step("remove", f"{LIB}/{name}", "remove an old version") for name in old[KEEP_VERSIONS - 1 :]]
    return steps


def _plan_services(installed: Installed, desired: DesiredRelease) -> list[Step]:
    steps: list[Step] = []
    for component in COMPONENTS:
        if component not in desired.components:
            continue
        stamp = _stamp(installed, desired, component)
        # Also what was changed by hand: a service may have been started with it since.
        changed = set(installed.differs)
        ours = {f"/etc/systemd/system/{unit}" for unit in _UNITS[component]} | {f"/etc/ktls/{component}.json"}
        moved = (
            installed.started.get(component) != stamp or installed.current != desired.version or bool(ours & changed)
        )
        wait: tuple[Any, ...] = (component, _socket(desired, component), str(desired.version), desired.wait_s, stamp)
        units = [unit for unit in _units(replace(desired, components=(component,))) if unit not in installed.foreign]
        for unit in units:
            optional = unit in _OPTIONAL and unit.endswith(".socket") and installed.services[unit].active
            if optional and f"/etc/systemd/system/{unit}" in changed:
                # A socket cannot be started while its service runs.
                stop, start = ("systemctl", "stop", unit, *_UNITS[component][:1]), ("systemctl", "start", unit)
                steps += [Step("run", unit, "stop it and its service", stop), Step("run", unit, "start", start)]
        for unit in units:
            service = installed.services.get(unit, Service())
            if unit in _OPTIONAL and unit.endswith(".service") and service.active and moved:
                steps.append(Step("restart", unit, "restart: version or unit"))
            if unit in _OPTIONAL | _BY_AGENT | _AT_BOOT:
                continue
            if unit in _BY_SOCKET:
                if moved and service.active:
                    steps.append(Step("run", unit, "stop; its socket starts it", ("systemctl", "stop", unit)))
                continue
            args = wait if unit.endswith(".service") else ()
            if not service.active:
                steps.append(Step("start", unit, "start", args))
            elif moved and unit.endswith(".service"):
                steps.append(Step("restart", unit, "restart: version, unit, configuration or certificate", args))
            elif f"/etc/systemd/system/{unit}" in changed:
                steps.append(Step("restart", unit, "restart: unit changed", args))
    return steps


def _plan_absent(installed: Installed, desired: DesiredRelease) -> list[Step]:
    steps = []
    for unit in reversed(_units(desired)):
        service = installed.services.get(unit, Service())
        if service.active:
            steps.append(Step("stop", unit, "stop"))
        if service.enabled:
            steps.append(Step("run", unit, "disable", ("systemctl", "disable", unit)))
    steps += [Step("remove", path, "remove") for path in installed.leftovers]
    if any(path.startswith("/etc/systemd/system/") for path in installed.leftovers):
        steps.append(Step("run", "systemd", "read the units anew", ("systemctl", "daemon-reload")))
    if desired.remove_users and installed.users:
        steps += [Step("run", user, "remove user", ("userdel", user)) for user in installed.users]
        steps.append(Step("run", "ktls", "remove group", ("groupdel", "ktls")))
    return steps


def _stamp(installed: Installed, desired: DesiredRelease, component: str) -> str:
    """Return a digest of everything that a service reads only when it starts."""
    digest = hashlib.sha256(f"{desired.version}\0{desired.sha256}\0{component}".encode())
    if component == "sidecar":
        digest.update(installed.certificate.encode())
    for spec in _specs(replace(desired, components=(component,)), installed.share):
        if spec.path.startswith("/etc/systemd/") or spec.path == f"/etc/ktls/{component}.json":
            digest.update(b"\0" + (spec.content or b""))
    return digest.hexdigest()


def _units(desired: DesiredRelease) -> list[str]:
    found = [unit for component in COMPONENTS if component in desired.components for unit in _UNITS[component]]
    return list(dict.fromkeys(found))


def _main_unit(component: str) -> str:
    """Return the unit without which a release does not have the component."""
    own = f"ktls-{component}.service"
    return own if own in _UNITS[component] else _UNITS[component][0]


def _links(desired: DesiredRelease) -> list[tuple[str, str]]:
    return [link for component in desired.components for link in links(component)]


def _socket(desired: DesiredRelease, component: str) -> str:
    if component == "agent":
        return str((desired.agent_config or {}).get("socket", "/run/ktls-agent/agent.sock"))
    if component == "nginx":
        return "/run/ktls-nginx/watch.sock"
    if component == "sentinel":
        return str((desired.sentinel_config or {}).get("socket", "/run/ktls-sentinel/sentinel.sock"))
    return str((desired.sidecar_config or {}).get("control_socket", "/run/ktls-sidecar/control.sock"))


def _shared(desired: DesiredRelease) -> dict[str, tuple[str, int]]:
    """Return what agent and sidecar share: users, directories, the off switch. A sentinel has no use for them."""
    return _SHARED if set(desired.components) & set(SERVING) else {}


def _configs(desired: DesiredRelease) -> dict[str, dict[str, Any] | None]:
    return {
        "agent": desired.agent_config,
        "sidecar": desired.sidecar_config,
        "nginx": desired.nginx_config,
        "service": desired.service_config,
        "sentinel": desired.sentinel_config,
    }


def _probe_path(desired: DesiredRelease) -> str | None:
    served = (desired.sidecar_config or {}).get("root") if "sidecar" in desired.components else None
    return os.path.join(str(served), PROBE_NAME) if served else None


def _specs(desired: DesiredRelease, share: dict[str, bytes]) -> list[FileSpec]:
    """Return the files that we own under the names on the host, in the order in which they are written."""
    specs = [FileSpec(path, share[name], mode) for name, (path, mode) in _shared(desired).items() if name in share]
    specs += [
        FileSpec(path, share[f"share/{unit}"]) if f"share/{unit}" in share else FileSpec.absent(path)
        for unit, path in ((unit, f"/etc/systemd/system/{unit}") for unit in _units(desired))
        if share
    ]
    configs = _configs(desired)
    specs += [
        FileSpec(f"/etc/ktls/{name}.json", (json.dumps(configs[name], indent=2, sort_keys=True) + "\n").encode())
        for name in COMPONENTS
        if name in desired.components
    ]
    if "nginx" in desired.components:
        specs.append(FileSpec(DATAPATH, nginx_settings.for_shell(desired.nginx_config or {})))
    if "service" in desired.components:
        specs.append(FileSpec(DATAPATH, service_settings.for_shell(desired.service_config or {})))
    probe_path = _probe_path(desired)
    if probe_path:
        specs.append(FileSpec(probe_path, probe_bytes()))
    return specs


# Apply


def ensure(desired: DesiredRelease, *, root: str = "/", check: bool = False, system: System | None = None) -> Result:
    """Bring the host to ``desired``; with ``check``, only say what that takes.

    Raises :class:`KtlsError`: bad_request, not_found, bad_release, no_systemd, artefact_broken, command_failed,
    service_failed, disk_full, and those of ``files``.
    """
    system = system or System()
    installed = probe(desired, root, system)
    steps = plan(installed, desired)
    if not check:
        if desired.state == "present" and installed.source is None:
            raise KtlsError("not_found", f"there is no release at {desired.src}; copy the built ktls.pyz there first")
        if desired.state == "present":
            release_record.adopt(_specs(desired, installed.share), root, system)
        result = apply(steps, root, system)
        if desired.state == "absent":
            release_record.forget(installed.leftovers, root, system)
    else:
        result = _predict(steps)
        if desired.state == "present" and installed.source is None:
            result.notes.append("the release is not on this host yet: the differences of its own files are not known")
    result.version = desired.version if desired.state == "present" else None
    result.previous_version = installed.current
    result.diff = _diffs(installed, steps)
    return result


def apply(steps: Iterable[Step], root: str = "/", system: System | None = None) -> Result:
    """Carry out ``steps``. Raises :class:`KtlsError`; what was done before stays, and the next run goes on there."""
    system = system or System()
    done = _predict([])
    for step in steps:
        try:
            _HANDLERS[step.kind](step, root, system)
        except (OSError, KtlsError) as error:
            # Files are written by others, who say what failed in words of their own.
            cause = error if isinstance(error, OSError) else error.__cause__
            full = isinstance(cause, OSError) and cause.errno in (28, 122)  # ENOSPC, EDQUOT
            if not isinstance(cause, OSError) or (isinstance(error, KtlsError) and not full):
                raise
            cure = "free space" if full else "run as root and look at the file system"
            message = f"{step.detail}: {step.target} ({cause.strerror}); {cure}, and repeat"
            raise KtlsError("disk_full" if full else "write_failed", message) from error
        _note(done, step)
    return done


def _predict(steps: Iterable[Step]) -> Result:
    result = Result()
    for step in steps:
        _note(result, step)
    return result


def _note(result: Result, step: Step) -> None:
    result.changed = True
    result.steps.append(f"{step.target}: {step.detail}")
    lists = {"start": result.started, "restart": result.restarted, "stop": result.stopped}
    if step.kind in lists:
        lists[step.kind].append(step.target)


def _diffs(installed: Installed, steps: list[Step]) -> list[dict[str, str]]:
    planned = [step for step in steps if step.kind != "file"]
    text = "".join(f"{step.target}: {step.detail}\n" for step in planned)
    header = {"before_header": "release", "after_header": "release", "before": "", "after": text}
    return [*installed.diffs, *([header] if text else [])]


def _do_check(step: Step, root: str, system: System) -> None:
    path, version = step.args
    done = system.run(PYTHON, "-IS", path, "version")
    problem = done.reason
    if done.rc == 0:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            if json.loads(done.stdout)["version"] == version:
                return
        problem = f"it does not answer as version {version}"
    message = f"the release {step.target} does not run here ({problem}); it needs {PYTHON} 3.9 or later"
    raise KtlsError("artefact_broken", message)


def _do_store(step: Step, root: str, system: System) -> None:
    src, version, sha256 = step.args
    directory = _under(root, step.target)
    temporary = _under(root, f"{LIB}/.{version}.new")
    shutil.rmtree(temporary, ignore_errors=True)
    os.makedirs(temporary, mode=0o755)
    os.chmod(temporary, 0o755)
    try:
        with open(src, "rb") as stream:
            content = stream.read()
        if hashlib.sha256(content).hexdigest() != sha256:
            raise _bad(src, "changed while it was being installed")
        atomic_write(f"{temporary}/ktls.pyz", content, 0o755)
        manifest = {"schema": 1, "version": version, "sha256": sha256}
        atomic_write(f"{temporary}/manifest.json", (json.dumps(manifest, sort_keys=True) + "\n").encode())
        # Present, but not whole (or other content under the same version): it cannot stay.
        shutil.rmtree(directory, ignore_errors=True)
        os.rename(temporary, directory)
        _sync(os.path.dirname(directory))
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _do_file(step: Step, root: str, system: System) -> None:
    apply_files(plan_files(step.args, root))


def _do_run(step: Step, root: str, system: System) -> None:
    done = system.run(*step.args)
    if done.rc != 0:
        command = " ".join(step.args)
        raise KtlsError("command_failed", f"`{command}` failed: {done.reason}; run it by hand to see more")


def _do_link(step: Step, root: str, system: System) -> None:
    path = _under(root, step.target)
    temporary = f"{path}.{os.getpid()}.new"
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)
    os.symlink(step.args[0], temporary)
    try:
        os.rename(temporary, path)
    except OSError:
        os.unlink(temporary)
        raise
    _sync(os.path.dirname(path))


def _do_remove(step: Step, root: str, system: System) -> None:
    path = _under(root, step.target)
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISDIR(os.lstat(path).st_mode):
            shutil.rmtree(path)
        else:
            os.unlink(path)


def _do_stop(step: Step, root: str, system: System) -> None:
    _do_run(replace(step, args=("systemctl", "stop", step.target)), root, system)


def _do_start(step: Step, root: str, system: System) -> None:
    since = system.now()
    # A unit that failed too often refuses to start until that is forgotten.
    system.run("systemctl", "reset-failed", step.target)
    done = system.run("systemctl", step.kind, step.target)
    if done.rc != 0:
        raise _service_failed(system, step.target, since, done.reason)
    if not step.args:
        return
    component, socket_path, version, wait_s, stamp = step.args
    _wait(system, step.target, socket_path, version, wait_s, since)
    started = _started(root)
    started[component] = stamp
    content = (json.dumps(started, indent=1, sort_keys=True) + "\n").encode()
    atomic_write(_under(root, STARTED), content)


def _wait(system: System, unit: str, socket_path: str, version: str, wait_s: float, since: float) -> None:
    """Wait until the service answers as ``version``."""
    problem = "it has not answered"
    pause = 0.1
    while True:
        try:
            found = system.call(socket_path, {"verb": "status"}).get("version")
            if found == version:
                return
            problem = f"version {found} answers on {socket_path}, not {version}"
        except KtlsError as error:
            problem = error.message
        shown = system.run("systemctl", "show", "--property", "ActiveState,SubState,Result,NRestarts", unit).stdout
        state = dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)
        # Waiting is for a service that is coming up. One that has already died twice is not.
        dead = state.get("ActiveState") == "failed" or int(state.get("NRestarts") or 0) >= 2
        if dead or system.now() - since >= wait_s:
            raise _service_failed(system, unit, since, problem)
        system.sleep(pause)
        pause = min(1.0, pause * 1.5)


def _service_failed(system: System, unit: str, since: float, problem: str) -> KtlsError:
    """Return the error with what the service itself said last, which names the cause."""
    said: list[str] = []
    with contextlib.suppress(KtlsError):
        match = f"_SYSTEMD_UNIT={unit}"
        # One second earlier: the journal is asked in whole seconds.
        shown = system.run(
            "journalctl", "--no-pager", "-q", "-o", "cat", "-n", "3", f"--since=@{int(since) - 1}", match
        )
        said = [line.strip() for line in shown.stdout.splitlines() if line.strip()]
    reason = " | ".join(list(dict.fromkeys(said))) or problem
    return KtlsError("service_failed", f"{unit} does not run: {reason} (see `journalctl -u {unit}`)")


_HANDLERS: dict[str, Callable[[Step, str, System], None]] = {
    "check": _do_check,
    "store": _do_store,
    "file": _do_file,
    "run": _do_run,
    "link": _do_link,
    "remove": _do_remove,
    "start": _do_start,
    "restart": _do_start,
    "stop": _do_stop,
}


# Small things


def _under(root: str, path: str) -> str:
    return os.path.join(root, path.lstrip("/"))


def _current(root: str) -> str | None:
    return _readlink(root, CURRENT)


def _readlink(root: str, path: str) -> str | None:
    try:
        return os.readlink(_under(root, path))
    except OSError:
        return None


def _started(root: str) -> dict[str, str]:
    with contextlib.suppress(OSError, ValueError):
        with open(_under(root, STARTED), encoding="utf-8") as stream:
            found = json.load(stream)
        if isinstance(found, dict):
            return {str(key): str(value) for key, value in found.items()}
    return {}


def _certificate(desired: DesiredRelease, root: str) -> str:
    """Return a digest of the certificates that the sidecar is to serve."""
    config = (desired.sidecar_config or {}) if "sidecar" in desired.components else {}
    others = config.get("certificates")
    entries = [config, *(others if isinstance(others, list) else [])]
    found = ""
    for entry in entries:
        path = entry.get("certificate") if isinstance(entry, dict) else None
        with contextlib.suppress(OSError):
            found += _digest(_under(root, str(path))) if path else ""
    return found


def _digest(path: str) -> str:
    with open(path, "rb") as stream:
        return hashlib.sha256(stream.read()).hexdigest()


def _sync(directory: str) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

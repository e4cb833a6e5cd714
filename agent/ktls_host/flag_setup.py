# SPDX-License-Identifier: Apache-2.0
"""Set a host up to pull the signed off flag, or take that away: probe, plan, apply, and read back what it finds."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from dataclasses import dataclass, field
from typing import Any

from . import release_record
from .errors import KtlsError
from .files import FileSpec, plan_files
from .files import apply as apply_files
from .release import Service, System

UNIT = "ktls-pull.service"
UNIT_PATH = f"/etc/systemd/system/{UNIT}"
CONFIG = "/etc/ktls/pull.json"
SIGNERS = "/etc/ktls/allowed_signers"
CA = "/etc/ktls/pull-ca.pem"
STATE_DIR = "/var/lib/ktls-pull"
STATUS = "/run/ktls-pull/status.json"

_FLEET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
_KEY = re.compile(r"(?:ssh|ecdsa|sk)-[a-z0-9@.-]+ [A-Za-z0-9+/=]+(?: [^\n\r]*)?\Z")
_TIME = re.compile(r"[0-9]{8}(?:[0-9]{4}(?:[0-9]{2})?)?Z?\Z")
_STATUS_MAX = 64 * 1024
#: In a row without reaching a server, until an endpoint counts as one that nobody can reach.
_POLLS = 3


@dataclass(frozen=True)
class Signer:
    """A public key that may sign; the times as ssh-keygen(1) has them."""

    key: str
    valid_after: str | None = None
    valid_before: str | None = None


@dataclass(frozen=True)
class DesiredPull:
    """What shall be. ``ca``: PEM text, empty for the system's authorities. Times in seconds."""

    state: str = "present"
    fleet: str = ""
    endpoints: tuple[str, ...] = ()
    signers: tuple[Signer, ...] = ()
    ca: str = ""
    interval_s: float = 2.0
    timeout_s: float = 3.0
    require_valid: bool = True
    wait_s: float = 60.0


@dataclass
class Result:
    """What was done, or in check mode what would be; ``status`` is what the fetcher found, if it was asked."""

    changed: bool = False
    steps: list[str] = field(default_factory=list)
    diff: list[dict[str, str]] = field(default_factory=list)
    status: dict[str, Any] | None = None


def ensure(desired: DesiredPull, *, root: str = "/", check: bool = False, system: System | None = None) -> Result:
    """Bring the host to ``desired``; with ``check``, only say what that takes.

    Raises :class:`KtlsError`: bad_request, no_release, no_systemd, command_failed, no_flag, and those of ``files``.
    """
    system = system or System()
    _check(desired)
    service = _service(system)
    # In check mode the release may be one of the things that are not there yet.
    if desired.state == "present" and not check and not (service.loaded or os.path.exists(_under(root, UNIT_PATH))):
        raise KtlsError("no_release", f"there is no {UNIT} on this host: run deploy.yml first")
    changes = plan_files(specs(desired), root)
    commands = plan_commands(desired, service, {change.spec.path for change in changes})
    litter = desired.state == "absent" and os.path.lexists(_under(root, STATE_DIR))
    result = Result(
        changed=bool(changes or commands or litter),
        steps=[f"{change.spec.path}: {change.action}" for change in changes] + [" ".join(argv) for argv in commands],
        diff=[change.diff() for change in changes],
    )
    if check:
        return result
    if desired.state == "absent":
        # The process first: it must not see half a configuration.
        _run(system, commands)
        apply_files(changes)
        shutil.rmtree(_under(root, STATE_DIR), ignore_errors=True)
        release_record.forget((CONFIG, CA, SIGNERS), root, system)
        return result
    release_record.adopt(specs(desired), root, system)
    apply_files(changes)
    _run(system, commands)
    result.status = _wait(desired, root, system)
    if desired.require_valid and result.status["state"] == "unknown":
        found = "; ".join(str(problem) for problem in result.status.get("problems", []))
        cure = "publish one that says none (ktls flag sign --none --publish DIR), and repeat"
        raise KtlsError("no_flag", f"no endpoint has a valid flag: {found}; {cure}")
    return result


def specs(desired: DesiredPull) -> list[FileSpec]:
    """Return the files that belong to ``desired``. Pure."""
    if desired.state == "absent":
        return [FileSpec.absent(path) for path in (CONFIG, CA, SIGNERS)]
    config = {
        "fleet": desired.fleet,
        "endpoints": list(desired.endpoints),
        "ca": CA if desired.ca else None,
        "interval_s": desired.interval_s,
        "timeout_s": desired.timeout_s,
    }
    ca = FileSpec(CA, f"{desired.ca.strip()}\n".encode()) if desired.ca else FileSpec.absent(CA)
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    return [FileSpec(SIGNERS, allowed_signers(desired).encode()), ca, FileSpec(CONFIG, text.encode())]


def allowed_signers(desired: DesiredPull) -> str:
    """Return the file for ssh-keygen. The principal is the fleet: a key signs for it, and nothing but flags."""
    lines = []
    for signer in desired.signers:
        options = ['namespaces="ktls-flag"']
        options += [f'valid-after="{signer.valid_after}"'] if signer.valid_after else []
        options += [f'valid-before="{signer.valid_before}"'] if signer.valid_before else []
        lines.append(f"{desired.fleet} {','.join(options)} {signer.key.strip()}\n")
    return "".join(lines)


def plan_commands(desired: DesiredPull, service: Service, changed: set[str]) -> list[tuple[str, ...]]:
    """Return what to tell systemd. Pure. Signers are read anew by the fetcher itself."""
    commands: list[tuple[str, ...]] = []
    if desired.state == "absent":
        if service.active:
            commands.append(("systemctl", "stop", UNIT))
        if service.enabled:
            commands.append(("systemctl", "disable", UNIT))
        return commands
    if not service.enabled:
        commands.append(("systemctl", "enable", UNIT))
    if not service.active:
        commands.append(("systemctl", "start", UNIT))
    elif changed & {CONFIG, CA}:
        commands.append(("systemctl", "restart", UNIT))
    return commands


def _check(desired: DesiredPull) -> None:
    if desired.state not in ("present", "absent"):
        raise _bad(f"state {desired.state!r}: use present or absent")
    if desired.state == "absent":
        return
    if not _FLEET.match(desired.fleet):
        raise _bad("fleet: give a name of up to 64 letters, digits and . _ -")
    if not desired.endpoints or len(set(desired.endpoints)) < len(desired.endpoints):
        raise _bad("endpoints: give one or more different URLs of the flag")
    for url in desired.endpoints:
        if not url.startswith(("https://", "http://127.", "http://[::1]")):
            raise _bad(f"endpoint {url}: use https")
    if not desired.signers:
        raise _bad("signers: give the public key of one signer at least")
    for signer in desired.signers:
        if not _KEY.match(signer.key.strip()):
            raise _bad("signers: a key is not one line as in a .pub file of ssh-keygen")
        if any(time and not _TIME.match(time) for time in (signer.valid_after, signer.valid_before)):
            raise _bad("signers: give times as YYYYMMDD or YYYYMMDDHHMM[SS][Z]")
    if desired.ca and "-----BEGIN CERTIFICATE-----" not in desired.ca:
        raise _bad("ca: this is no certificate in PEM")


def _service(system: System) -> Service:
    done = system.run("systemctl", "show", "--property", "ActiveState,UnitFileState,LoadState", UNIT)
    if done.rc != 0:
        raise KtlsError("no_systemd", f"systemd does not answer on this host ({done.reason}); it is needed")
    found = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    return Service(
        # One that is restarting again and again is not stopped either.
        active=found.get("ActiveState") in ("active", "activating", "reloading"),
        enabled=found.get("UnitFileState") == "enabled",
        loaded=found.get("LoadState") == "loaded",
    )


def _run(system: System, commands: list[tuple[str, ...]]) -> None:
    for argv in commands:
        done = system.run(*argv)
        if done.rc != 0:
            raise KtlsError("command_failed", f"`{' '.join(argv)}` failed: {done.reason}; see `journalctl -u {UNIT}`")


def _wait(desired: DesiredPull, root: str, system: System) -> dict[str, Any]:
    """Wait until the fetcher has asked every endpoint, and again where a poll reached no server.

    One lost poll refuses no host; it is asked again within seconds, as :mod:`ktls_agent.pull.pace` has it.
    """
    started = system.now()
    asked_all: dict[str, Any] | None = None
    while True:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            with open(_under(root, STATUS), encoding="utf-8") as stream:
                status: dict[str, Any] = json.loads(stream.read(_STATUS_MAX))
            asked = {entry["url"]: entry["result"] for entry in status["endpoints"]}
            ours = status["fleet"] == desired.fleet and set(asked) == set(desired.endpoints)
            if ours and "not_polled" not in asked.values():
                asked_all = status
                again = any(0 < int(entry.get("failures", 0)) < _POLLS for entry in status["endpoints"])
                if status["state"] != "unknown" or not again or not desired.require_valid:
                    return status
        if system.now() - started >= desired.wait_s:
            if asked_all is not None:
                return asked_all
            raise KtlsError("no_flag", f"{UNIT} has not asked its endpoints; see `journalctl -u {UNIT}`")
        system.sleep(0.5)


def _under(root: str, path: str) -> str:
    return os.path.join(root, path.lstrip("/"))


def _bad(what: str) -> KtlsError:
    return KtlsError("bad_request", f"{what}; see docs/pull.md")

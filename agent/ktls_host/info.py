# SPDX-License-Identifier: Apache-2.0
"""Everything that decides whether this host can take a phase, and the verdict with reason and cure."""

from __future__ import annotations

import os
import platform
import re
from dataclasses import asdict
from typing import Any

from . import module_lever, openssl_lib, tls_stat
from .commands import Runner
from .errors import KtlsError

PHASES = ("userspace", "tx", "rx", "hw")
_REKEY_SINCE = (6, 14)
_ULP_FOR_ALL_SINCE = (6, 15)


def collect(root: str = "/", runner: Runner | None = None) -> dict[str, Any]:
    """Read the host and judge it; plain JSON types.

    Reads files under ``root``, loads libcrypto, and starts one program (``openssl version``). Raises
    :class:`KtlsError` only when our own files are not safe to read; what a host lacks is part of the answer.
    """
    module = module_lever.probe(root)
    openssl = openssl_lib.probe()
    facts: dict[str, Any] = {
        "kernel": module.kernel,
        "machine": platform.machine(),
        "python": platform.python_version(),
        "distribution": distribution(_read(root, "/etc/os-release") or _read(root, "/usr/lib/os-release")),
        "tls_module": module.as_dict(),
        "tcp_available_ulp": _read(root, "/proc/sys/net/ipv4/tcp_available_ulp").split(),
        "tls_stat": tls_stat.read(os.path.join(root, tls_stat.PATH.lstrip("/"))),
        "openssl": {**asdict(openssl), "program": _openssl_program(runner or Runner())},
    }
    facts["phases"] = phases(module, openssl)
    return facts


def phases(module: module_lever.ModuleState, openssl: openssl_lib.OpensslState) -> dict[str, dict[str, Any]]:
    """Return for each phase ``{"verdict", "reasons", "notes"}``. Pure.

    ``verdict`` is ``ready``, ``refused`` (a reason says why) or ``unknown`` (a reason says what could not be
    read). Reasons and notes are ``{"code", "message", "cure"}``; a note is no obstacle, but a thing to know.
    """
    library = _openssl_reasons(openssl)
    unknown = [_reason("openssl_ktls_unknown", "libcrypto does not say whether kTLS is built in", "update OpenSSL")]
    undecided = not library and openssl.ktls_built is None
    refusals = [*library, *_ktls_build_reasons(openssl), *_module_reasons(module)]
    if refusals:
        tx = _verdict("refused", refusals)
    elif undecided:
        tx = _verdict("unknown", unknown)
    else:
        tx = _verdict("ready", [], _tx_notes(module))
    return {
        "userspace": _verdict("refused" if library else "ready", library),
        "tx": tx,
        "rx": _verdict("refused", [_not_yet("rx")]),
        "hw": _verdict("refused", [_not_yet("hw")]),
    }


def distribution(text: str) -> dict[str, str | None]:
    """Return ``id`` and ``version_id`` from an os-release(5) file."""
    found: dict[str, str | None] = {"id": None, "version_id": None}
    for line in text.splitlines():
        name, equals, value = line.partition("=")
        if equals and name in ("ID", "VERSION_ID"):
            found[name.lower()] = value.strip().strip("\"'")
    return found


def kernel_version(release: str) -> tuple[int, int]:
    """Return (major, minor) of a kernel release, (0, 0) when it has no such form."""
    found = re.match(r"(\d{1,6})\.(\d{1,6})", release, re.ASCII)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _openssl_program(runner: Runner) -> str | None:
    try:
        result = runner.run(("openssl", "version"))
    except KtlsError:
        return None
    return result.stdout.strip() if result.rc == 0 else None


def _openssl_reasons(openssl: openssl_lib.OpensslState) -> list[dict[str, str]]:
    if openssl.number is None:
        cure = "install package libssl3 or libssl3t64 (Debian, Ubuntu) or openssl-libs (RHEL, Fedora)"
        return [_reason("openssl_missing", "there is no libcrypto.so.3 on this host", cure)]
    if openssl.release < (3, 0):
        message = f"{openssl.version} is older than 3.0"
        return [_reason("openssl_too_old", message, "install OpenSSL 3.0 or later, or update the distribution")]
    return []


def _ktls_build_reasons(openssl: openssl_lib.OpensslState) -> list[dict[str, str]]:
    if openssl.ktls_built is not False:
        return []
    cure = "install a build made with enable-ktls, as Debian, Ubuntu, Fedora and RHEL have it"
    return [_reason("openssl_without_ktls", f"{openssl.version} was built without kTLS", cure)]


def _module_reasons(module: module_lever.ModuleState) -> list[dict[str, str]]:
    if module.present or module.loadable:
        return []
    if module.blocked_by:
        where = ", ".join(module.blocked_by)
        return [_reason("module_blocked", f"loading module tls is blocked by {where}", "remove it there")]
    message, _, cure = module_lever.missing_message(module.kernel).partition(": ")
    return [_reason("tls_module_missing", message, cure)]


def _tx_notes(module: module_lever.ModuleState) -> list[dict[str, str]]:
    """Return what an operator must know before tx, from the kernel's side (net/tls/tls_main.c rekey, 6.14)."""
    notes = []
    if not module.present:
        notes.append(_reason("module_not_loaded", "module tls is not loaded yet", "deploy loads it"))
    if module.blacklisted_by:
        where = ", ".join(module.blacklisted_by)
        message = f"module tls is blacklisted in {where}, so it will not load at boot"
        notes.append(_reason("module_blacklisted", message, "remove that line"))
    if kernel_version(module.kernel) < _REKEY_SINCE:
        message = f"on kernel {module.kernel} a TLS 1.3 KeyUpdate that asks for an answer ends a kTLS connection"
        cure = "limit the age and bytes of connections, or use kernel 6.14 or later"
        notes.append(_reason("no_rekey", message, cure))
    if kernel_version(module.kernel) < _ULP_FOR_ALL_SINCE:
        message = f"kernel {module.kernel} shows kTLS on connections only to CAP_NET_ADMIN"
        notes.append(_reason("evidence_needs_net_admin", message, "keep ktls-diag.socket enabled"))
    return notes


def _not_yet(phase: str) -> dict[str, str]:
    message = f"phase {phase} is not part of this release"
    return _reason("phase_not_in_this_release", message, "stay at tx, or update ktls-fleet when it has it")


def _reason(code: str, message: str, cure: str) -> dict[str, str]:
    return {"code": code, "message": message, "cure": cure}


def _verdict(verdict: str, reasons: list[dict[str, str]], notes: list[dict[str, str]] | None = None) -> dict[str, Any]:
    return {"verdict": verdict, "reasons": reasons, "notes": notes or []}


def _read(root: str, path: str) -> str:
    try:
        with open(os.path.join(root, path.lstrip("/")), encoding="utf-8", errors="replace") as stream:
            return stream.read()
    except OSError:
        return ""

# SPDX-License-Identifier: Apache-2.0
"""Everything that decides whether this host can take a phase, and the verdict with reason and cure."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import time
from collections.abc import Collection
from dataclasses import asdict
from typing import Any, NamedTuple

from . import (
    cpu,
    datapaths,
    gnutls,
    kernel_config,
    module_lever,
    openssl_lib,
    originals,
    policy_state,
    textfile,
    tls_stat,
    ulp_probe,
    verdict,
)
from .commands import Runner
from .errors import KtlsError
from .files import FileSpec
from .module_lever import ModuleState
from .nginx import preflight as nginx_preflight
from .nginx.preflight import Served
from .nginx.settings import Settings
from .nic import probe as nic_probe
from .nic import verdict as nic_verdict
from .proof import openssl as proof
from .service import preflight as service_preflight
from .service.switch import Asked

PHASES = verdict.PHASES
FACT_FILE = "/etc/ansible/facts.d/ktls.fact"
_UNLOAD_WAIT_S = 3.0
_POLL_S = 0.1
# What the crypto API loads on demand (crypto/api.c), in modules.dep(5): never a driver of a device.
_CIPHERS = re.compile(r"kernel/(arch/[^/]+/)?(lib/)?crypto/")
_LAYERS = 4  # a template over a cipher over a library


def collect(
    root: str = "/",
    runner: Runner | None = None,
    *,
    load_module: bool = False,
    nginx: Settings | None = None,
    service: Asked | None = None,
    tx_rx_consent: bool = False,
) -> dict[str, Any]:
    """Read the host, try what can be tried, and judge it; plain JSON types.

    Reads files under ``root``, asks libcrypto, libssl, libgnutls and the kernel in child processes, and starts
    ``openssl version``, ``nginx -V`` and ``ethtool`` where they are. With ``load_module`` a module that is not loaded
    is loaded for the time of the trial and unloaded again; ``trial`` in the answer says so. ``nginx`` or
    ``service``: that is what serves here, and ``tx_rx_consent`` what was agreed to for it. Raises :class:`KtlsError`
    only when our own files are not safe to read; what a host lacks is part of the answer.
    """
    runner = runner or Runner()
    # First: the trial is work too.
    load = cpu.probe(root)
    module = module_lever.probe(root)
    counters = tls_stat.read(textfile.under(root, tls_stat.PATH))
    ulps = (textfile.read(root, "/proc/sys/net/ipv4/tcp_available_ulp") or "").split()
    openssl = openssl_lib.probe()
    trial, ulp, proved = _try(module, root, runner, load_module and openssl.ktls_built is not False)
    config = kernel_config.probe(module.kernel, root)
    nics = nic_probe.probe(root, runner)
    evidence = verdict.Evidence(
        module=module,
        openssl=openssl,
        proof=proved,
        config=config,
        gnutls=gnutls.probe(root),
        datapaths=datapaths.probe(root, runner),
        hardware=nic_verdict.hw_reasons(nics, config.options if config.source else None),
        served=_served(nginx, service, tx_rx_consent, runner),
    )
    return {
        "kernel": module.kernel,
        "kernel_config": asdict(config),
        "machine": platform.machine(),
        "cpu": load,
        "python": platform.python_version(),
        "distribution": distribution(_os_release(root)),
        "tls_module": module.as_dict(),
        "tcp_available_ulp": ulps,
        "tls_stat": counters,
        "ulp": ulp.as_dict(),
        "trial": trial,
        "openssl": {**asdict(openssl), "program": _openssl_program(runner), "proof": proved.as_dict()},
        "gnutls": evidence.gnutls.as_dict(),
        "policy": policy_state.probe(root).as_dict(),
        "nics": [found.as_dict() for found in nics],
        "datapaths": [path.as_dict() for path in evidence.datapaths],
        "phases": {phase: found.as_dict() for phase, found in verdict.judge(evidence).items()},
    }


def _served(nginx: Settings | None, service: Asked | None, tx_rx_consent: bool, runner: Runner) -> Served:
    if nginx is not None:
        return nginx_preflight.probe(nginx, tx_rx_consent, runner)
    return service_preflight.probe(service, tx_rx_consent, runner) if service is not None else Served()


class Trial(NamedTuple):
    """What the kernel and the library do together on this host; ``how``: what had to be done to the module for it."""

    how: dict[str, Any]
    outcome: proof.Proof


def trial(root: str = "/", runner: Runner | None = None) -> Trial:
    """Try it, loading the module for it where it is not loaded. Raises nothing; what stopped it is in the answer."""
    how, _, proved = _try(module_lever.probe(root), root, runner or Runner(), True)
    return Trial(how, proved)


def distribution(text: str) -> dict[str, str | None]:
    """Return ``id`` and ``version_id`` from an os-release(5) file."""
    found: dict[str, str | None] = {"id": None, "version_id": None}
    for line in text.splitlines():
        name, equals, value = line.partition("=")
        if equals and name in ("ID", "VERSION_ID"):
            found[name.lower()] = value.strip().strip("\"'")
    return found


def cached_facts(collected: dict[str, Any]) -> dict[str, Any]:
    """Return the part that stays the same until a package, the kernel or our levers change: no counters, no times."""
    proved = collected["openssl"]["proof"]
    return {
        "kernel": collected["kernel"],
        "kernel_config": collected["kernel_config"]["options"],
        "distribution": collected["distribution"],
        "tls_module": {
            name: collected["tls_module"][name] for name in ("builtin", "loadable", "blacklisted_by", "blocked_by")
        },
        "ulp": {name: collected["ulp"][name] for name in ("asked", "ciphers", "rekey")},
        "openssl": {
            "version": collected["openssl"]["version"],
            "done": proved["done"],
            "cells": [_kinds(cell) for cell in proved["cells"]],
        },
        "gnutls": {name: collected["gnutls"][name] for name in ("version", "ktls_built", "effective")},
        "phases": {
            phase: {
                "verdict": found["verdict"],
                "reasons": [reason["code"] for reason in found["reasons"]],
            }
            for phase, found in collected["phases"].items()
        },
    }


def _kinds(cell: dict[str, Any]) -> dict[str, Any]:
    """Return a cell without words that may differ from one time to the next."""
    updates = {
        mode: None if said is None else {kind: text.partition(":")[0] for kind, text in said.items()}
        for mode, said in cell["key_update"].items()
    }
    return {**{name: value for name, value in cell.items() if name != "reason"}, "key_update": updates}


def fact_spec(collected: dict[str, Any], root: str = "/") -> FileSpec:
    """Return the local facts file of Ansible, which reads it as ``ansible_local.ktls`` (playbook guide, facts.d).

    Where nothing was tried this time, what an earlier trial of the same kernel and library found still holds.
    """
    facts = cached_facts(collected)
    with contextlib.suppress(ValueError, KeyError, TypeError):
        known = json.loads(textfile.read(root, FACT_FILE) or "{}")
        if not facts["openssl"]["done"] and known["openssl"]["done"] and _host_of(known) == _host_of(facts):
            facts.update(ulp=known["ulp"], openssl=known["openssl"])
            for phase, found in facts["phases"].items():
                if found["verdict"] == "unknown":
                    facts["phases"][phase] = known["phases"][phase]
    return FileSpec(FACT_FILE, (json.dumps(facts, indent=1, sort_keys=True) + "\n").encode())


def _host_of(facts: dict[str, Any]) -> list[Any]:
    """Return what a trial's outcome hangs on."""
    return [facts["kernel"], facts["kernel_config"], facts["tls_module"], facts["openssl"]["version"]]


def _try(
    module: ModuleState, root: str, runner: Runner, load_module: bool
) -> tuple[dict[str, Any], ulp_probe.UlpState, proof.Proof]:
    """Ask kernel and library, loading the module for it when that is wanted and possible."""
    trial: dict[str, Any] = {"loaded_module": False, "left_loaded": False, "why": None}
    before = _loaded(root)
    if module.present:
        found = trial, ulp_probe.probe(True), proof.probe(True)
        _unload_ciphers(before, root, runner)
        return found
    if not load_module or not module.loadable:
        return trial, ulp_probe.probe(False), proof.probe(False)
    try:
        with originals.lock(root):
            # Whoever had the lock before us may have loaded it, and then it is not ours to unload.
            if not module_lever.probe(root).present:
                result = runner.run(("modprobe", module_lever.MODULE))
                if result.rc != 0:
                    trial["why"] = f"modprobe tls: {result.reason}"
                    return trial, ulp_probe.probe(False), proof.probe(False)
                trial["loaded_module"] = True
            try:
                return trial, ulp_probe.probe(True), proof.probe(True)
            finally:
                if trial["loaded_module"]:
                    trial["left_loaded"] = not _unloaded(root, runner)
                _unload_ciphers(before, root, runner)
    except KtlsError as error:  # not root, no modprobe, or levers at work: the rest of the host is read all the same
        trial["why"] = error.message
        return trial, ulp_probe.probe(False), proof.probe(False)


def _unloaded(root: str, runner: Runner) -> bool:
    """Unload again, unless somebody has begun to use it; sockets of the trial need a moment to go.

    Raises :class:`KtlsError` of :meth:`Runner.run`.
    """
    deadline = time.monotonic() + _UNLOAD_WAIT_S
    while runner.run(("modprobe", "-r", module_lever.MODULE)).rc != 0:
        if time.monotonic() > deadline or not module_lever.probe(root).loaded:
            break
        time.sleep(_POLL_S)
    return not module_lever.probe(root).loaded


def _loaded(root: str) -> dict[str, tuple[int, tuple[str, ...]]]:
    return module_lever.parse_proc_modules(textfile.read(root, "/proc/modules") or "")


def _unload_ciphers(before: Collection[str], root: str, runner: Runner) -> None:
    """The kernel loads a module for each cipher that is asked for: take away those that came and that nobody uses."""
    kernel = os.uname().release
    index = textfile.read(root, f"/lib/modules/{kernel}/modules.dep") or ""
    ciphers = module_lever.parse_module_paths("\n".join(line for line in index.splitlines() if _CIPHERS.match(line)))
    for _ in range(_LAYERS):
        came = [
            name for name, (users, _) in _loaded(root).items() if not users and name in ciphers and name not in before
        ]
        if not came or runner.run(("modprobe", "-r", *came)).rc != 0:
            return


def _openssl_program(runner: Runner) -> str | None:
    try:
        result = runner.run(("openssl", "version"))
    except KtlsError:
        return None
    return result.stdout.strip() if result.rc == 0 else None


def _os_release(root: str) -> str:
    return textfile.read(root, "/etc/os-release") or textfile.read(root, "/usr/lib/os-release") or ""

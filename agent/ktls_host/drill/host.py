# SPDX-License-Identifier: Apache-2.0
"""The host, as a drill uses it."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Sequence
from typing import Any

from .. import info, jsonsock, module_lever, openssl_lib, tls_stat
from ..errors import KtlsError
from ..order import AGENT_SOCKET
from ..proof.openssl import Proof
from . import snapshot

SIDECAR_SOCKET = "/run/ktls-sidecar/control.sock"
NIC_SOCKET = "/run/ktls-nic.sock"
OFF = "/usr/local/sbin/ktls-off"


class Host:
    """Real sockets, programs and files. Every method raises :class:`KtlsError` with what cannot be had."""

    def __init__(self, agent: str = AGENT_SOCKET, sidecar: str = SIDECAR_SOCKET, off: str = OFF) -> None:
        """Name the sockets, and the program that switches off."""
        self._agent = agent
        self._sidecar = sidecar
        self._off = off

    def agent(self, timeout_s: float = 20.0, **request: Any) -> dict[str, Any]:
        """Ask the agent."""
        return jsonsock.call(self._agent, request, timeout_s)

    def sidecar(self) -> dict[str, Any]:
        """Return the sidecar's status."""
        return jsonsock.call(self._sidecar, {"verb": "status"}, 5.0)

    def restore_cards(self) -> None:
        """Give network cards their first state back."""
        jsonsock.call(NIC_SOCKET, {"verb": "restore"}, 30.0)

    def start_off(self, reason: str, unload: bool) -> subprocess.Popen[bytes]:
        """Start ``ktls-off`` as a human would; it switches while we look."""
        words = [self._off, *(["--unload-module"] if unload else []), reason]
        try:
            return subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
        except OSError as error:
            raise KtlsError("command_missing", f"{self._off}: {error.strerror}; deploy the agent again") from error

    def tls_stat(self) -> dict[str, int]:
        """Return the kernel's counters; none without the module."""
        return tls_stat.read() or {}

    def snapshot(self, places: Sequence[str] = ()) -> snapshot.Snapshot:
        """Look at everything that kTLS may touch, and at ``places`` of the datapath."""
        try:
            return snapshot.take(places=places)
        except OSError as error:
            raise KtlsError("unreadable", f"{error.filename}: {error.strerror}; a drill needs root") from error

    def there(self, paths: Sequence[str]) -> list[str]:
        """Return those of ``paths`` that exist."""
        return [path for path in paths if os.path.lexists(path)]

    def prove(self) -> Proof:
        """Try every cipher and every kind of new keys; a module that is loaded for it is unloaded again."""
        return info.trial().outcome

    def stack(self) -> dict[str, str]:
        """Return the versions that a drill is good for."""
        return {"kernel": module_lever.probe().kernel, "openssl": openssl_lib.probe().version or ""}

    def time(self) -> float:
        """Return Unix time."""
        return time.time()

    def monotonic(self) -> float:
        """Return seconds that only go on."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)

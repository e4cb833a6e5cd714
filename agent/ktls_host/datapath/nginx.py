# SPDX-License-Identifier: Apache-2.0
"""nginx: switched for new connections by a drop-in and a graceful reload, counted by its log and by the kernel.

The switch is root's (``ktls-nginx-helper``). What nginx logs, and its processes, ``ktls-nginx-watch`` knows.
Connections and bytes are the kernel's (:mod:`.outside`). nginx does not say whether a connection got kernel TLS: that
follows from what the kernel shows of its connections by protocol and cipher, and where it shows none, is not known.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .. import textfile
from ..errors import KtlsError
from ..known_bad import version_of
from ..nginx import dropin
from . import outside
from .model import (
    RX,
    TX,
    TX_RX,
    USERSPACE,
    About,
    Consent,
    Draining,
    Flow,
    Status,
    Tools,
    Wish,
    flag,
    only,
    text,
    tx_means_rx,
)

UNIT = "nginx.service"
HELPER = "/run/ktls-nginx.sock"
WATCH = "/run/ktls-nginx/watch.sock"
SWITCH_TIMEOUT_S = 60.0
CHECK_TIMEOUT_S = 30.0
WATCH_TIMEOUT_S = 5.0
AGAIN_S = 5.0
"""After a switch that failed, the same is not tried again for so long: each try tests nginx's whole configuration."""


@dataclass(frozen=True)
class Settings:
    """``directory`` holds the drop-ins; ``helper`` and ``watch`` are sockets."""

    unit: str = UNIT
    directory: str = dropin.DIRECTORY
    helper: str = HELPER
    watch: str = WATCH
    tx_rx_consent: bool = False


def parse(raw: Mapping[str, Any], source: str) -> Settings:
    """Check the settings. Raises KtlsError: bad_config."""
    left = dict(raw)
    defaults = Settings()
    names = ("unit", "directory", "helper", "watch")
    texts = {name: text(left, name, source, getattr(defaults, name)) for name in names}
    consent = flag(left, "tx_rx_consent", source)
    only(left, source)
    return Settings(tx_rx_consent=consent, **texts)


def make(settings: Settings, tools: Tools) -> Nginx:
    """Return the datapath."""
    return Nginx(settings, tools)


class Nginx:
    """nginx of one host, through its helper, its watch and the kernel's view."""

    def __init__(self, settings: Settings, tools: Tools) -> None:
        """Nothing is asked yet."""
        self._settings = settings
        self._tools = tools
        self._places = dropin.Places(settings.directory)
        self._process = settings.unit.removesuffix(".service")
        self._lock = threading.Lock()
        self._watched: dict[str, Any] | None = None
        self._watch_error: str | None = None
        self._failed: tuple[str, float, KtlsError] | None = None
        self._seen_paths: dict[tuple[str, str], str] = {}

    # The switch

    def switch(self, wish: Wish) -> Status:
        """Have the helper switch nginx. Raises KtlsError: what the helper says; nothing is changed then.

        Userspace is asked for also while the drop-in is away: nginx may not have been told.
        """
        if wish.mode not in (USERSPACE, TX, RX):
            raise _no_mode(wish.mode)
        failed = self._failed
        if failed is not None and failed[0] == wish.mode and time.monotonic() - failed[1] < AGAIN_S:
            raise failed[2]
        if self._needs(wish.mode):
            try:
                self._tools.call(self._settings.helper, {"verb": wish.mode}, SWITCH_TIMEOUT_S)
            except KtlsError as error:
                self._failed = (wish.mode, time.monotonic(), error)
                raise
        self._failed = None
        return self.observe()

    def _needs(self, mode: str) -> bool:
        ordered = self._ordered()
        return ordered != mode or self._owed() or (mode == USERSPACE and self._there())

    def refusal(self, mode: str) -> KtlsError | None:
        """Return why ``mode`` cannot be ordered: what nginx and its library can, consent, its configuration now."""
        self._failed = None
        if mode not in (TX, RX):
            return _no_mode(mode)
        try:
            found = self._tools.call(self._settings.helper, {"verb": "check"}, CHECK_TIMEOUT_S)
        except KtlsError as error:
            return error
        openssl = version_of(str(found.get("openssl") or ""))
        if mode == TX:
            return tx_means_rx(Consent(self._settings.tx_rx_consent), "nginx", openssl)
        if openssl[:2] < (3, 2):
            message = f"nginx runs with OpenSSL {found.get('openssl')}, which never lets the kernel decrypt TLS 1.3"
            return KtlsError("nginx_no_ktls_receive", f"{message}; stay at tx, or update to OpenSSL 3.2 or later")
        return None

    # Looking

    def observe(self) -> Status:
        """Return the status. Raises KtlsError while nginx does not run, or its watch does not answer."""
        watched = self._ask_watch()
        ordered = self._ordered()
        if watched.get("master") is None:
            raise KtlsError("nginx_not_running", f"{self._settings.unit} does not run; see its journal")
        seen = self._tools.seen()
        flows = outside.flows_of(seen, self._process)
        self._learn(flows)
        counted = outside.counted(seen, self._process)
        ktls = outside.ktls_open(seen, self._process, watched.get("ktls_tx_open"))
        if ktls is not None:
            counted["connections"] = {**counted.get("connections", {}), "ktls_tx": ktls}
        effective = self._effective(ordered, watched)
        rows = self._rows(watched)
        return {
            "version": watched.get("nginx"),
            "pid": watched.get("master"),
            "mode": ordered,
            "share": 1.0,
            "tls12": False,
            "effective_mode": effective,
            "openssl": watched.get("library"),
            "health": "ok" if watched.get("workers") else "no_worker",
            "workers": [{"pid": pid} for pid in watched.get("workers") or ()],
            "drain": {"left": self._left(effective, counted), "deadline_left_s": None},
            **counted,
            "connections_total": _by_path(rows, "connections_total"),
            "errors": watched.get("errors") or {},
            "errors_by_mode": watched.get("errors_by_mode") or {},
            "client_aborts": watched.get("client_aborts") or {},
            "requests": watched.get("requests") or {},
            "fallbacks": {},
            "limited": {},
            "by": rows,
            "last_ktls_tx_established_age_s": watched.get("last_ktls_tx_established_age_s"),
            "ktls_tx_zero_age_s": watched.get("ktls_tx_zero_age_s"),
        }

    def drain(self) -> Draining | None:
        """Return the workers that shut down; of their connections those that have kernel TLS while it is off."""
        watched = self._watched or {}
        leaving = len(watched.get("leaving") or ())
        if not leaving:
            return None
        left: int | None = None
        if self._ordered() == USERSPACE:
            left = outside.ktls_open(self._tools.seen(), self._process, watched.get("ktls_tx_open"))
        return Draining(leaving, left)

    def reload_needed(self) -> bool:
        """Return whether the switch was taken away, and nginx has not been told yet."""
        return self._owed()

    def restart_needed(self) -> bool:
        """Never: a reload is enough."""
        return False

    def about(self) -> About:
        """Return what it is. Phase tx is named tx+rx where the library cannot do one without the other."""
        watched = self._watched or {}
        openssl = version_of(str(watched.get("openssl") or ""))
        modes: tuple[str, ...] = (USERSPACE, TX)
        if openssl[:2] >= (3, 2):
            modes = (USERSPACE, TX_RX, RX)
        problem = self._watch_error
        if self._failed is not None:
            problem = f"nginx was not switched to {self._failed[0]}: {self._failed[2].message}"
        elif problem is None and not self._readable():
            problem = f"{self._settings.directory} cannot be read by the agent: chmod o+rx, it holds no secret of ours"
        elif problem is None and self._owed():
            problem = f"{self._places.owed}: kernel TLS was taken away, and nginx has not been reloaded yet"
        return About(
            "nginx",
            self._settings.unit,
            watched.get("program"),
            watched.get("nginx"),
            experiments=False,
            modes=modes if openssl else (USERSPACE,),
            consent=Consent(tx_rx=self._settings.tx_rx_consent),
            draining=self.drain(),
            switch="reload",
            problem=problem,
        )

    # Parts of it

    def _ask_watch(self) -> dict[str, Any]:
        try:
            found = self._tools.call(self._settings.watch, {"verb": "status"}, WATCH_TIMEOUT_S)
        except KtlsError as error:
            self._watch_error = f"what nginx does is not known: {error.message}"
            raise
        with self._lock:
            self._watched, self._watch_error = found, None
        return found

    def _ordered(self) -> str:
        return dropin.phase_of(textfile.read(self._tools.root, self._places.on)) or USERSPACE

    def _readable(self) -> bool:
        return os.access(textfile.under(self._tools.root, self._settings.directory), os.R_OK | os.X_OK)

    def _there(self) -> bool:
        return textfile.present(self._tools.root, self._places.on)

    def _owed(self) -> bool:
        return textfile.present(self._tools.root, self._places.owed)

    def _effective(self, ordered: str, watched: Mapping[str, Any]) -> str:
        """Return what new connections get. While nginx has not been told of a removal, they get what they got."""
        phase = ordered
        if self._owed() and ordered == USERSPACE:
            phase = dropin.phase_of(textfile.read(self._tools.root, self._places.owed)) or TX
        both = version_of(str(watched.get("openssl") or ""))[:2] >= (3, 2)
        return TX_RX if phase == TX and both else phase

    def _learn(self, flows: tuple[Flow, ...]) -> None:
        """Remember what the kernel does with a protocol and a cipher; one that was seen both ways is not known."""
        for flow in flows:
            if not flow.version or flow.tx not in outside.IN_KERNEL:
                continue
            path = "ktls_tx_rx" if flow.rx in outside.IN_KERNEL else "ktls_tx"
            key = (flow.version, flow.cipher)
            # The direction that a handshake takes last is missing for a moment: more is the truth.
            if self._seen_paths.get(key) != "ktls_tx_rx":
                self._seen_paths[key] = path

    def _rows(self, watched: Mapping[str, Any]) -> list[dict[str, Any]]:
        rows = []
        for row in watched.get("rows") or ():
            path = "userspace"
            if row["assigned"] != USERSPACE:
                path = self._seen_paths.get((row["protocol"], kernel_cipher(row["cipher"])), "unknown")
            rows.append({**row, "path": path})
        return rows

    def _left(self, effective: str, counted: Mapping[str, Any]) -> int:
        return int(counted.get("connections", {}).get("ktls_tx", 0)) if effective == USERSPACE else 0


def kernel_cipher(suite: str) -> str:
    """Return the kernel's cipher of a suite by OpenSSL's name, in the words of :mod:`ktls_host.sock_diag`."""
    name = suite.replace("_", "-").upper()
    if "CHACHA20" in name:
        return "CHACHA20-POLY1305"
    for bits in ("128", "256"):
        for mode in ("GCM", "CCM"):
            if f"AES{bits}-{mode}" in name or f"AES-{bits}-{mode}" in name:
                return f"AES-{bits}-{mode}"
    return name


def _by_path(rows: list[dict[str, Any]], key: str) -> dict[str, int]:
    """Return the sum of ``key`` by how was sent; what is not known is in neither."""
    totals = {"ktls_tx": 0, "userspace": 0}
    for row in rows:
        if row["path"] != "unknown":
            totals["ktls_tx" if row["path"].startswith("ktls_tx") else "userspace"] += row[key]
    return totals


def _no_mode(mode: str) -> KtlsError:
    message = f"phase {mode} is not for nginx: it has userspace, tx and rx; serve with the sidecar for it"
    return KtlsError("phase_not_for_datapath", message)

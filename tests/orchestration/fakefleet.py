# SPDX-License-Identifier: Apache-2.0
"""Many fake agents in one process: each a Unix socket that speaks the agent's protocol.

What is fake: there is no kernel TLS behind them, their byte counters grow by themselves. What is real: the protocol,
the playbooks, the modules and the gate that talk to them.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ktls_host.jsonsock import Peer, RequestError, serve_unix

#: The machine that watches the wire.
EYE = "eye1"


@dataclass
class FakeAgent:
    """One host. Faults are files in its directory, so that tests switch them while it runs.

    ``cut-on-order``: cut the link as soon as an order has taken
    effect; so for every other verb. A host that is cut off has ``cut`` in its directory, and its socket out of the way.
    ``hash``: the probe sees a wrong hash.
    ``errors``: sidecar errors rise. ``leak``: two per cent of the bytes go by userspace. ``idle``: no traffic.
    ``refuse``: orders are refused. ``lease``: orders expire at once. ``upgraded``: the kernel is another one.
    ``frozen``: its network card counts no byte any more. ``full``: the card takes no session. ``tls13``: nothing
    consents to TLS 1.2, and nobody negotiates it.

    ``datapath.json``: it is served by that (key ``datapath`` of the status), and says no more than such an agent knows.
    Old processes drain for a few questions after each switch. ``stale``: they keep kTLS, whatever comes.
    """

    directory: Path
    phase: str = "userspace"
    order: str = "none"
    order_id: str | None = None
    ordered_phase: str | None = None
    epoch: int = 0
    bytes: dict[str, int] = field(default_factory=lambda: {"ktls_tx": 0, "userspace": 5_000_000})
    errors: int = 0
    sessions: int = 0
    connection: int = 0
    flag: bool = False
    reason: str | None = None
    deadline: float = 0.0
    ordered_at: float | None = None
    experiment: dict[str, Any] | None = None
    samples: list[tuple[float, str, int]] = field(default_factory=list)
    draining: int = 0
    card: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("encrypted", "hw", "eligible", "installed", "software"), 0)
    )

    def fault(self, name: str) -> bool:
        """A fault is on while its file exists."""
        return (self.directory / name).exists()

    def handle(self, request: dict[str, Any], peer: Peer) -> dict[str, Any]:
        """One request of the agent's protocol."""
        verb = request.get("verb")
        self._expire()
        if verb == "peek":
            return self._status()
        with open(self.directory / "requests.jsonl", "a") as log:
            log.write(json.dumps({"at": time.time(), **request}) + "\n")
        if verb == "order":
            self._order(request["order"])
            self.connection = peer.connection
        elif verb in ("confirm", "extend", "cancel"):
            if self.order != "pending" or (request["id"], request["epoch"]) != (self.order_id, self.epoch):
                raise RequestError("not_pending", "there is no such pending order")
            if verb == "confirm" and peer.connection <= self.connection:
                raise RequestError("same_connection", "a confirmation must come over a new connection")
            if verb == "extend":
                self.deadline = max(self.deadline, time.monotonic() + request["lease_s"])
            if verb == "confirm":
                self.order, self.experiment = "committed", None
            elif verb == "cancel":
                self._back("cancelled")
        elif verb == "revert":
            self._back(str(request.get("reason")))
        elif verb == "off":
            self.flag = True
            self._back("off")
        elif verb == "clear":
            self.flag = False
        if self.fault(f"cut-on-{verb}"):
            cut(self.directory)
        self._traffic()
        return self._series(request) if verb == "series" else self._status()

    def _expire(self) -> None:
        if self.order == "pending" and time.monotonic() >= self.deadline:
            self._back("lease_expired")

    def _order(self, order: dict[str, Any]) -> None:
        if self.fault("refuse"):
            raise RequestError("no_ktls", "the kernel offers no tls ULP; modprobe tls")
        if order["epoch"] < self.epoch:
            raise RequestError("stale_epoch", f"epoch {order['epoch']} is older than {self.epoch}")
        if self.flag and order["phase"] != "userspace":
            raise RequestError("off_latched", "the off flag is up; clear it first")
        about = self.about()
        if about and order.get("experiment"):
            raise RequestError("no_experiments", f"{about['unit']} cannot deal connections by chance")
        if about and order["phase"] == "tx" and not about["consent"]["tx_rx"] and "tx" not in about["modes"]:
            raise RequestError("tx_means_rx", f"phase tx would be tx+rx with {about['unit']}")
        self.draining = 3
        self.phase = self.ordered_phase = order["phase"]
        self.order, self.order_id, self.epoch = "pending", order["id"], order["epoch"]
        self.deadline, self.ordered_at = time.monotonic() + order["lease_s"], time.monotonic()
        self.experiment = order.get("experiment")
        self.reason = None
        if self.fault("lease"):
            self._back("lease_expired")

    def _back(self, reason: str) -> None:
        self.phase, self.reason, self.draining = "userspace", reason, 3
        self.order = "reverted" if self.order != "none" else "none"

    def _traffic(self) -> None:
        if self.fault("idle"):
            return
        path = "ktls_tx" if self.phase in ("tx", "hw") else "userspace"
        self._card()
        leaked = 20_000 if self.fault("leak") and path == "ktls_tx" else 0
        self.bytes[path] += 1_000_000 - leaked
        self.bytes["userspace"] += leaked
        self.sessions += path == "ktls_tx"
        self.errors += self.fault("errors")
        self.samples.append((time.monotonic(), "on" if path == "ktls_tx" else "off", 1_000_000))

    def _card(self) -> None:
        """A million bytes on one new connection."""
        card = self.card
        card["eligible"] += 0 if self.fault("tls13") else 1_000_000
        if self.phase != "hw":
            return
        if self.fault("full") or self.fault("tls13"):
            card["software"] += 1
            return
        card["installed"] += 1
        card["hw"] += 1_000_000
        card["encrypted"] += 0 if self.fault("frozen") else 1_010_000

    def _hw(self) -> dict[str, Any]:
        card = self.card
        nic = {"name": "eth1", "driver": "mlx5_core", "tx_on": self.phase == "hw", "rx_on": False, "up": True}
        return {
            "tls12_consent": not self.fault("tls13"), "interfaces": [{**nic, "counters": {}}],
            "encrypted_bytes": card["encrypted"], "installed": card["installed"], "software": card["software"],
            "open": {"hw": int(self.phase == "hw"), "stale": int(self.fault("frozen"))},
            "sent": {"hw": card["hw"], "tls12_gcm": card["eligible"], "total": sum(self.bytes.values())},
            "anomalies": {"resync": 0, "drops": 0, "ooo": 0, "decrypt": 0},
        }  # fmt: skip

    def _series(self, request: dict[str, Any]) -> dict[str, Any]:
        """What each request brought is one sample. A real agent's are of equal length."""
        if self.about().get("kind") == "service":
            self.samples.clear()
        rows = [row for row in self.samples if row[0] > request.get("since_s", -1.0)]
        times = [round(at * 1000) + index for index, (at, _arm, _sent) in enumerate(rows)]
        samples = {
            "at_ms": times,
            "ms": [1] * len(rows),
            "arm": [int(arm == "on") for _at, arm, _sent in rows],
            "washout": [0] * len(rows),
            "cpu_us": [400] * len(rows),
            "sent": [sent for _at, _arm, sent in rows],
            "ktls": [sent if arm == "on" else 0 for _at, arm, sent in rows],
            "connections": [1] * len(rows),
            "requests": [1] * len(rows),
            "errors": {},
            "probe_s": {},
        }
        series = {
            "boot_id": "fake", "now_s": time.monotonic() + 1, "wall_s": time.time(), "period_s": 5.0,
            "ordered_at_s": self.ordered_at, "samples": samples, "arms": {}, "more": False,
        }  # fmt: skip
        return {"ok": True, "series": series}

    def about(self) -> dict[str, Any]:
        """What serves, where it is not the sidecar."""
        path = self.directory / "datapath.json"
        return dict(json.loads(path.read_text())) if path.exists() else {}

    def _served(self, status: dict[str, Any]) -> dict[str, Any]:
        """The same, as far as an agent of that datapath knows it: bytes by the kernel, failures by nginx's log."""
        about = self.about()
        if not about:
            return status
        self.draining = max(0, self.draining - 1)
        stale = self.fault("stale")
        both = "tx" not in about["modes"]
        on = self.phase == "tx" or stale
        phase = ("tx+rx" if both else "tx") if on else self.phase
        sent, ktls = sum(self.bytes.values()), self.bytes["ktls_tx"]
        process = {"sent": sent, "ktls_sent": ktls, "received": sent // 100, "ktls_received": ktls // 100}
        total = {
            "sent": sent, "received": sent // 100, "ktls_sent_share": ktls / sent, "ktls_received_share": ktls / sent,
            "by_process": {about["unit"].removesuffix(".service"): process}, "unattributed": {"sent": 0, "received": 0},
        }  # fmt: skip
        served: dict[str, Any] = {
            "pid": 7, "effective_mode": phase, "share": 1.0, "bytes": dict(self.bytes),
            "connections": {"ktls_tx": int(on), "userspace": int(not on)},
        }  # fmt: skip
        status["probe"]["ktls_rx"] = both and on
        if about["kind"] == "nginx":
            served.update(errors={"5xx": self.errors}, connections_total=status["sidecar"]["connections_total"])
        else:
            status["series"] = {"samples": 0, "problem": "series: what serves does not count"}
            status["probe"]["sha256_ok"] = None if status["probe"]["sha256_ok"] else False
        # Of a service that are processes by another configuration than the one on disk: nobody has them otherwise.
        processes = 2 if stale else self.draining * (about["kind"] == "nginx")
        draining = {"processes": processes, "connections": None} if processes else None
        problem = "it runs on with kernel TLS until it is restarted" if stale else None
        return {
            **status,
            "phase": phase,
            "connections": served["connections"],
            "sockets": {**status["sockets"], "ktls_rx": int(both and on)},
            "evidence": {"known": True, "age_s": 0.0, "since_s": 1.0, "total": total, "interval": None},
            "datapath": {**about, "draining": draining, "problem": problem},
            "sidecar": served,
        }

    def _kernel(self) -> str:
        return "6.13.0-fake" if self.fault("upgraded") else "6.12.0-fake"

    def _status(self) -> dict[str, Any]:
        return self._served(self._own_status())

    def _own_status(self) -> dict[str, Any]:
        tx = self.phase in ("tx", "hw")
        return {
            "ok": True,
            "schema": 1,
            "version": "fake",
            "host": {"name": self.directory.name, "kernel": self._kernel(), "openssl": "3.5.0", "python": "3.13"},
            "phase": self.phase,
            "order": self.order,
            "order_id": self.order_id,
            "ordered_phase": self.ordered_phase,
            "epoch": self.epoch,
            "lease_left_s": round(self.deadline - time.monotonic(), 3) if self.order == "pending" else None,
            "revert_reason": self.reason,
            "revert": [],
            "stuck": False,
            "lapsed": False,
            "off": {"flag": self.flag, "age_s": 1.0 if self.flag else None, "reason": None},
            "tls_stat": {
                "TlsTxSw": self.sessions,
                "TlsTxDevice": self.card["installed"],
                "TlsCurrTxSw": int(tx),
                "TlsDecryptError": 0,
            },
            "hw": self._hw(),
            "tls_stat_available": True,
            "connections": {"ktls_tx": int(tx), "userspace": int(not tx)},
            "bytes": dict(self.bytes),
            "sockets": {"ktls_tx": int(tx), "ktls_rx": 0, "userspace": int(not tx)},
            "sidecar": {
                "pid": 1,
                "version": "fake",
                "bytes": dict(self.bytes),
                "connections_total": {path: count // 1_000_000 for path, count in self.bytes.items()},
                "errors": {"sendfile_failed": self.errors},
            },
            "sidecar_error": None,
            "probe": {
                "ok": not self.fault("hash"),
                "sha256_ok": not self.fault("hash"),
                "ktls_tx": tx,
                "at_age_s": 0.0,
                "protocol": "TLSv1.3",
                "cipher": "TLS_AES_128_GCM_SHA256",
                "duration_s": 0.01,
                "error": "content hash differs" if self.fault("hash") else None,
            },
        }


@dataclass
class FakeSentinel:
    """A machine that watches the wire of ``names``. Faults: ``plaintext`` (it has seen some), ``unarmed``."""

    directory: Path
    names: list[str]

    def handle(self, request: dict[str, Any], _peer: Peer) -> dict[str, Any]:
        """One request of a sentinel's protocol."""
        if request.get("verb") != "status":
            raise RequestError("bad_verb", "it is asked for its status")
        now = time.time()
        armed = not (self.directory / "unarmed").exists()
        leak = {"at": now, "src": "192.0.2.1:8443", "dst": "192.0.2.9:40000", "block": 7}
        target = {"probes": 9, "last_ok": now, "error": None, "tls": "TLSv1.2", "packets": 90, "payload_bytes": 9000}
        return {
            "ok": True, "version": "fake", "armed": armed, "why": None if armed else "no target is watched",
            "interface": "eth1", "since": now - 60, "now": now, "interval_s": 1.0,
            "targets": dict.fromkeys(self.names, target),
            "leaks": [leak] if (self.directory / "plaintext").exists() else [],
        }  # fmt: skip


def cut(directory: Path) -> None:
    """Cut a host off: for Ansible by its connection, for everybody else by its socket."""
    (directory / "cut").touch()
    if (directory / "agent.sock").exists():
        (directory / "agent.sock").rename(directory / "cut.sock")


def heal(directory: Path) -> None:
    """Let a host be reached again."""
    if (directory / "cut.sock").exists():
        (directory / "cut.sock").rename(directory / "agent.sock")
    (directory / "cut").unlink(missing_ok=True)


async def serve(base: Path, names: list[str]) -> None:
    """Serve every host until standard input ends."""
    for name in names:
        directory = base / name
        directory.mkdir(parents=True, exist_ok=True)
        await serve_unix(str(directory / "agent.sock"), FakeAgent(directory).handle, mode=0o600)
    (base / EYE).mkdir(exist_ok=True)
    await serve_unix(str(base / EYE / "sentinel.sock"), FakeSentinel(base / EYE, names).handle, mode=0o600)
    print("ready", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), sys.argv[2:]))

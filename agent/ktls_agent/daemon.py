# SPDX-License-Identifier: Apache-2.0
"""The service around :class:`~ktls_agent.core.Agent`: a Unix socket, a quarter-second tick, the systemd watchdog."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING, Any, Callable, TypeVar

from ktls_host import jsonsock
from ktls_host.datapath import registry
from ktls_host.datapath.model import Tools
from ktls_host.jsonsock import Peer, RequestError

from . import probe, probe_known
from .audit_journal import Journal
from .audit_trail import AuditTrail
from .config import AgentConfig
from .core import Agent, boot_id
from .datapath import DatapathCall, seen
from .diag import DiagClient
from .doctor.digest import History
from .drills import DrillPart
from .evidence.part import EvidencePart
from .flags import OffFlags
from .guards.keep import Keep
from .guards.part import GuardPart
from .hw.part import HwPart
from .levers import Levers
from .metrics.collector import Collector
from .metrics.part import metrics_parts
from .notify import notify
from .observe import Observer
from .parts import Part, Parts
from .probe_log import ProbeLog
from .pull.part import PullPart
from .series import cpu
from .series.part import SeriesPart
from .store import Store

if TYPE_CHECKING:
    from ktls_host.nic.tls_features import TlsCard

_LOG = logging.getLogger(__name__)
TICK_S = 0.25
ALIVE_S = 5.0  # between two signs of life for systemd, which waits for WatchdogSec=30
_REASON_LIMIT = 300
P = TypeVar("P")


class Daemon:
    """The agent of one host, with its sockets."""

    def __init__(
        self,
        config: AgentConfig,
        agent: Agent,
        observer: Observer,
        parts: Sequence[Part] = (),
        history: History | None = None,
    ) -> None:
        """Join everything; :meth:`run` brings it to life."""
        self.config = config
        self.agent = agent
        self.parts = Parts(parts)
        self._history = history or History()
        self._observer = observer
        self._stop = asyncio.Event()

    def stop(self) -> None:
        """Ask :meth:`run` to end in good order."""
        self._stop.set()

    async def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Serve until :meth:`stop`. Raises :class:`~ktls_host.errors.KtlsError` if the socket cannot be had."""
        # The socket first: a second agent must fail before it touches the state of the first.
        server = await jsonsock.serve_unix(self.config.socket, self.handle, 0o660, self.config.group)
        ticker = None
        try:
            await self.agent.start()
            ticker = asyncio.ensure_future(self._ticks())
            self.parts.start()
            ready()
            stopped = asyncio.ensure_future(self._stop.wait())
            await asyncio.wait([ticker, stopped], return_when=asyncio.FIRST_COMPLETED)
            stopped.cancel()
            if ticker.done():
                ticker.result()  # a tick that raised ends the service: systemd starts it anew
        finally:
            if ticker is not None:
                ticker.cancel()
            notify("STOPPING=1")
            await self.parts.stop()
            await self.agent.stop()
            await server.close()

    async def _ticks(self) -> None:
        """Tick until cancelled; raises what a tick raised. A timer of the loop costs half of a task that sleeps."""
        loop = asyncio.get_running_loop()
        failed: asyncio.Future[None] = loop.create_future()
        timer: asyncio.TimerHandle | None = None
        alive_s = float("-inf")

        def once() -> None:
            nonlocal timer, alive_s
            try:
                self.agent.tick()
                if loop.time() - alive_s >= ALIVE_S:
                    alive_s = loop.time()
                    notify("WATCHDOG=1")
            except BaseException as error:
                if not failed.done():
                    failed.set_exception(error)
                return
            timer = loop.call_later(TICK_S, once)

        once()
        try:
            await failed
        finally:
            if timer is not None:
                timer.cancel()

    async def handle(self, request: dict[str, Any], peer: Peer) -> dict[str, Any]:
        """Answer one request. Raises :class:`RequestError`."""
        verb = request.get("verb")
        key = {"id", "epoch"}
        verbs: dict[str, tuple[set[str], Callable[[dict[str, Any]], Awaitable[Any]]]] = {
            "status": (set(), self._nothing),
            "doctor": (set(), self._nothing),
            "probe": (set(), self._probe),
            "series": ({"since_s"}, self._nothing),
            "drilled": ({"drill"}, lambda r: self._part(DrillPart).keep(r.get("drill"))),
            "order": ({"order"}, lambda r: self.agent.order(r.get("order"), peer)),
            "confirm": (key, lambda r: self.agent.confirm(r.get("id"), r.get("epoch"), peer)),
            "extend": (
                {*key, "lease_s", "experiment"},
                lambda r: self.agent.extend(r.get("id"), r.get("epoch"), r.get("lease_s"), peer, _ends(r)),
            ),
            "cancel": (key, lambda r: self.agent.cancel(r.get("id"), r.get("epoch"), peer)),
            "revert": ({"reason", "unload"}, lambda r: self.agent.revert(_reason(r), r.get("unload") is True, peer)),
            "off": ({"reason"}, lambda r: self.agent.off(_reason(r), peer)),
            "clear": (set(), lambda r: self.agent.clear(peer)),
        }
        if not isinstance(verb, str) or verb not in verbs:
            raise RequestError("bad_verb", f"unknown verb; use one of {', '.join(sorted(verbs))}")
        self._authorise(verb, peer)
        keys, action = verbs[verb]
        # OFF is never refused, not even for a malformed request.
        odd = set(request) - keys - {"verb"}
        if odd and verb not in ("off", "revert"):
            raise RequestError("bad_request", f"{verb} does not take {', '.join(sorted(odd))[:200]}")
        if verb == "series":
            return {"series": self._part(SeriesPart).page(request.get("since_s"))}
        await action(request)
        more = {"digest": self._history.as_dict()} if verb == "doctor" else {}
        return {**await self.status(), **more}

    async def status(self, sockets: bool = True) -> dict[str, Any]:
        """Return the status object, that of every part included; ``sockets`` as in :meth:`Observer.status`."""
        status, parts = await self._observer.status(sockets), self.parts.status()
        told = [str(part["problem"]) for part in parts.values() if part and part.get("problem")]
        return {**status, **parts, "problems": [*status["problems"], *self.parts.problems.values(), *told]}

    def _authorise(self, verb: str, peer: Peer) -> None:
        allowed = {0} if verb == "clear" else {0, os.geteuid()}
        # OFF is for everybody whom the socket lets in: who is in its group may write the off flag anyway.
        if verb not in ("status", "doctor", "probe", "series", "off") and peer.uid not in allowed:
            _LOG.warning("%s refused to uid %d (pid %d)", verb, peer.uid, peer.pid)
            self.agent.audit.record("refused", verb=verb, code="not_permitted", uid=peer.uid, pid=peer.pid)
            may = f"uid {peer.uid} may read the status, and switch off"
            raise RequestError("not_permitted", f"{verb} is for root; {may}")

    def _part(self, kind: type[P]) -> P:
        for part in self.parts.all:
            if isinstance(part, kind):
                return part
        raise RequestError("bad_verb", "this agent does not keep that")

    async def _nothing(self, _: dict[str, Any]) -> None:
        return

    async def _probe(self, _: dict[str, Any]) -> None:
        await self.agent.run_probe()


def _ends(request: dict[str, Any]) -> bool:
    """Whether an extension ends the experiment: it says ``"experiment": null``. It can begin none."""
    if request.get("experiment") is not None:
        raise RequestError("bad_order", "extend experiment: only null, which ends it; an order begins one")
    return "experiment" in request


def _reason(request: dict[str, Any]) -> str:
    reason = request.get("reason")
    text = reason if isinstance(reason, str) else ""
    printable = "".join(char if char.isprintable() else " " for char in text)
    return " ".join(printable.split())[:_REASON_LIMIT] or "no reason given"


def _switchable() -> Sequence[str]:
    from ktls_host.nic import tls_features  # only hosts that take orders need it

    return tls_features.switchable()


def _cards() -> Sequence[TlsCard]:
    from ktls_host.nic import tls_features

    return tls_features.cards()


def build(config: AgentConfig) -> Daemon:
    """Make the daemon of this host from its configuration. Needs a running event loop."""
    diag = DiagClient(config.diag_socket, config.probe.port)
    probes = ProbeLog()
    audit = AuditTrail(f"{config.state_dir}/audit", os.path.dirname(config.socket), Journal(), boot_id())
    evidence = EvidencePart(config.evidence, config.diag_socket)
    chosen = config.datapath or registry.parse({"socket": config.sidecar_socket}, "agent")
    datapath = registry.make(chosen, Tools(jsonsock.call, lambda: seen(evidence.latest)))
    agent: Agent

    async def in_thread(function: Callable[..., Any], *args: Any) -> Any:
        return await agent.in_thread(function, *args)

    async def in_switch_thread(function: Callable[..., Any], *args: Any) -> Any:
        return await agent.in_switch_thread(function, *args)

    sidecar = DatapathCall(datapath, in_thread, in_switch_thread)

    async def helper(path: str, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        answer: dict[str, Any] = await agent.in_helper_thread(jsonsock.call, path, request, timeout_s)
        return answer

    async def cards() -> Sequence[str]:
        found: Sequence[str] = await agent.in_helper_thread(_switchable)
        return found

    agent = Agent(
        Store(config.state_dir),
        OffFlags(config.run_flag, config.durable_flag),
        sidecar,
        lambda timeout_s: probes.note(
            probe.run(probe_known.current(config.probe), diag.ktls_tx, timeout_s, diag.ktls_rx)
        ),
        audit=audit,
        levers=Levers(helper, config.lease_socket, config.module_socket, config.nic_socket, cards),
        tls12_consent=config.tls12_consent,
        refusal=sidecar.refusal,
        by_marks=chosen.kind == registry.DEFAULT,
    )
    history = History()
    keep = Keep(f"{config.state_dir}/guards", config.guards.keep)
    guards = GuardPart(config.guards, agent, probes, keep, lambda: evidence.latest, history=history)
    evidence.on_news = guards.wake
    unit = datapath.about().unit
    series = SeriesPart(config.series, agent, probes, lambda status: cpu.read(status, cpu.group_of(unit)))
    drills = DrillPart(f"{config.state_dir}/drill.json", audit, agent.in_thread)
    hw = HwPart(agent, lambda: evidence.latest, _cards)
    parts: list[Part] = [evidence, hw, guards, audit, PullPart(), series, drills]
    service: Daemon
    collector = Collector(
        lambda: service.status(sockets=False), lambda: evidence.latest, lambda: service.parts, agent.clock
    )
    parts += metrics_parts(config.metrics, config.socket, config.group, collector, agent.in_thread)
    service = Daemon(config, agent, Observer(agent, diag, datapath.about), parts, history)
    return service


async def main(config: AgentConfig) -> None:
    """Run the service until SIGTERM or SIGINT."""
    daemon = build(config)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, daemon.stop)
    await daemon.run(lambda: notify("READY=1"))

# SPDX-License-Identifier: Apache-2.0
"""Makes directories of runs as the engine leaves them: plan, hash-chained journal, evidence. No engine is needed.

The numbers are invented, but hang together: what a verdict says of CPU is what the series beside it were made with.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ktls_control.judge.model import HostSeries, MetricVerdict, Outcome, Sample, WaveVerdict
from ktls_control.plan import file as plan_file
from ktls_control.plan.model import Freeze, Gates, Headroom, Plan, PlannedHost, Refusal, Soak, Wave

#: 2026-11-26 06:00:00 UTC
BEGIN = 1_795_672_800.0
PERIOD_S = 5.0
LEASE_S = 900.0
#: Where the judge ends a wave: 2 / alpha.
E_LIMIT = 40.0
FLEET = "ktls_hosts-0a1b2c3d"

REFUSALS = {
    "kernel_too_old": Refusal(
        "kernel_too_old", "kernel 4.18.0 has no TLS 1.3 transmit", "upgrade the kernel to 5.1 or later"
    ),
    "no_tls_module": Refusal(
        "no_tls_module", "this kernel was built without CONFIG_TLS", "use the distribution's kernel"
    ),
    "drill_stale": Refusal("drill_stale", "the last passed drill is 9 days old", "run `ktls drill`"),
}


@dataclass
class Journal:
    """Appends events to a journal, each chained to the one before it."""

    path: Path
    at: float = BEGIN
    seq: int = 0
    prev: str = ""
    lines: list[dict[str, Any]] = field(default_factory=list)

    def add(self, event: str, /, *, after: float = 0.0, **keys: Any) -> dict[str, Any]:
        """Write one event, ``after`` seconds after the one before."""
        self.at = round(self.at + after, 3)
        self.seq += 1
        body = {"seq": self.seq, "at": self.at, "event": event, **keys, "prev": self.prev}
        self.prev = hashlib.sha256(canonical(body)).hexdigest()
        line = {**body, "sha256": self.prev}
        self.lines.append(line)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "ab") as file:
            file.write(canonical(line) + b"\n")
        return line


def canonical(body: dict[str, Any]) -> bytes:
    """The bytes that are hashed."""
    return json.dumps(body, sort_keys=True, separators=(",", ":")).encode()


@dataclass
class Story:
    """A run being written.

    :param cpu: true change of CPU time per byte, -0.18 is 18 % less.
    :param minutes: of baseline, and of soak, in the series that are written as evidence.
    """

    run_dir: Path
    plan: Plan
    journal: Journal
    chance: random.Random
    cpu: float = -0.18
    epoch: int = 42
    minutes: float = 6.0

    def start(self) -> None:
        """``run_started``."""
        self.journal.add(
            "run_started",
            run=self.run_dir.name,
            fleet=self.plan.fleet,
            epoch=self.epoch,
            phase=self.plan.phase,
            plan_sha256=self.plan.sha256,
            operator="ada@control1",
            hosts=len(self.plan.hosts),
            waves=[{"number": w.number, "name": w.name, "hosts": list(w.hosts)} for w in self.plan.waves],
        )

    def open(self, number: int, *, attempt: int = 1, failing: dict[str, str] | None = None) -> Wave:
        """Order a wave; ``failing``: hosts that do not take it, with the code of the error."""
        wave = self.plan.waves[number - 1]
        self.journal.add(
            "wave_opened",
            after=2,
            wave=number,
            name=wave.name,
            hosts=list(wave.hosts),
            attempt=attempt,
            order_id=f"{self.run_dir.name}-{number}-{attempt}",
            epoch=self.epoch,
            lease_s=self.plan.lease_s,
        )
        for host in wave.hosts:
            code = (failing or {}).get(host)
            extra = {"error": f"{host}: {_ERRORS[code]}", "code": code} if code else {}
            self.journal.add(
                "host_ordered",
                after=3.0 / len(wave.hosts),
                wave=number,
                host=host,
                ok=not code,
                ordered_at_s=round(90_000 + self.chance.random() * 9_000, 3),
                boot_id=hashlib.md5(host.encode(), usedforsecurity=False).hexdigest(),
                **extra,
            )
        self.journal.add("soak_started", after=1, wave=number, min_s=wave.soak.min_s, max_s=wave.soak.max_s)
        return wave

    def observe(
        self,
        number: int,
        age_s: float,
        *,
        cut_off: Sequence[str] = (),
        drained: float = 0.0,
        failed: dict[str, str] | None = None,
    ) -> None:
        """``observed``, ``age_s`` seconds into the soak. ``drained``: share of kTLS connections gone again."""
        wave = self.plan.waves[number - 1]
        hosts: dict[str, Any] = {}
        for host in wave.hosts:
            if host in cut_off:
                hosts[host] = {"reachable": False, "error": f"{host} unreachable: no answer within 20 s"}
                continue
            connections = int(self.chance.gauss(11, 1.5) * age_s)
            share = min(1.0, max(0.0, self.chance.gauss(0.997, 0.001)))
            sent = int(connections * self.chance.gauss(6.5e6, 4e5))
            hosts[host] = {
                "reachable": True,
                "phase": self.plan.phase if not drained else "userspace",
                "lease_left_s": round(self.plan.lease_s - age_s % 300, 1),
                "connections": connections,
                "sent": sent,
                "ktls": int(sent * share * (1 - drained)),
                "share": round(share * (1 - drained), 5),
            }
        extra: dict[str, Any] = {"failed": failed} if failed else {}
        self.journal.add("observed", wave=number, hosts=hosts, **extra)

    def soak(self, number: int, seconds: float, looks: int = 6, *, cut_off: Sequence[str] = ()) -> None:
        """A soak with its looks; nothing else happens."""
        for look in range(1, looks + 1):
            self.journal.at += seconds / looks
            self.observe(number, seconds * look / looks, cut_off=cut_off if look > looks // 2 else ())

    def interim(self, number: int, e_value: float) -> None:
        """What the judge says in the middle of a soak."""
        metric = _metric("cpu", -0.012, 0.05, self.plan.gates.cpu_margin, "switchback, sign flips of pairs", 4)
        verdict = WaveVerdict("inconclusive", ("cpu: 4 pairs of blocks",), (metric,), e_value, (1.0, e_value))
        self.journal.add("observed", wave=number, hosts={}, interim=json.loads(json.dumps(asdict(verdict))))

    def judge(
        self,
        number: int,
        outcome: str = "pass",
        *,
        reasons: Sequence[str] = (),
        hosts: dict[str, tuple[str, ...]] | None = None,
        e_path: Sequence[float] | None = None,
        width: float = 0.03,
        recheck: dict[str, Any] | None = None,
    ) -> None:
        """``verdict``, and the evidence it was judged by."""
        gates, noise = self.plan.gates, self.chance.gauss
        latency = 0.006 if outcome == "pass" else (0.21 if outcome == "fail" else 0.031)
        path = tuple(e_path or [round(math.exp(noise(-0.3, 0.35)), 4) for _ in range(7)])
        metrics = (
            _metric("cpu", self.cpu + noise(0, 0.004), width, gates.cpu_margin, "switchback, sign flips of pairs", 20),
            _metric("latency", latency, width * 0.9, gates.latency_margin, "switchback, sign flips of pairs", 20),
            _errors(path),
            _metric("throughput", 0.004, width * 0.6, gates.throughput_margin, "switchback, sign flips of pairs", 20),
        )
        verdict = WaveVerdict(
            outcome=outcome,  # type: ignore[arg-type]
            reasons=tuple(reasons),
            metrics=metrics,
            e_value=path[-1],
            e_path=path,
            hosts=hosts or {},
        )
        # As JSON has it: tuples become lists.
        fields = {**json.loads(json.dumps(asdict(verdict))), "e_limit": E_LIMIT}
        self.journal.add("verdict", after=2, wave=number, outcome=outcome, verdict=fields, recheck=recheck or {})
        for host in self.plan.waves[number - 1].hosts:
            self.evidence(number, host, latency)

    def evidence(self, number: int, host: str, latency: float) -> None:
        """``wave-N-HOST.json``."""
        series = host_series(host, self.cpu, latency, random.Random(f"{host}{number}"), self.minutes)
        path = self.run_dir / "evidence" / f"wave-{number}-{host}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(series), separators=(",", ":")))

    def confirm(self, number: int) -> None:
        """The wave becomes durable."""
        self.journal.add("confirming", after=1, wave=number)
        for host in self.plan.waves[number - 1].hosts:
            self.journal.add(
                "host_confirmed", after=2.0 / len(self.plan.waves[number - 1].hosts), wave=number, host=host, ok=True
            )
        self.journal.add("wave_promoted", after=1, wave=number)

    def revert(self, number: int, why: str, *, cut_off: Sequence[str] = ()) -> None:
        """The wave goes back as one."""
        self.journal.add("wave_reverting", after=1, wave=number, why=why)
        for host in self.plan.waves[number - 1].hosts:
            keys: dict[str, Any] = {"ok": True}
            if host in cut_off:
                keys = {"ok": False, "error": f"{host} unreachable: no answer within 20 s", "lease_left_s": 212.0}
            self.journal.add("host_reverted", after=0.4, wave=number, host=host, **keys)
        self.journal.add("wave_reverted", after=1, wave=number, why=why)

    def wait(self, number: int, on: str, seconds: float, by: str | None = None, **keys: Any) -> None:
        """The run waits, and goes on."""
        self.journal.add("waiting", after=1, wave=number, on=on, **keys)
        if by:
            self.journal.add("control", after=seconds - 1, verb="promote", by=by)
        self.journal.add("waited", after=1 if by else seconds, wave=number, on=on, **({"by": by} if by else {}))

    def end(self, outcome: str, why: str | None = None) -> None:
        """``run_ended``."""
        self.journal.add("run_ended", after=1, outcome=outcome, **({"why": why} if why else {}))


_ERRORS = {"cut_off": "unreachable: no answer within 20 s", "no_module": "the tls module cannot be loaded"}


def _errors(path: Sequence[float]) -> MetricVerdict:
    outcome: Outcome = "fail" if path[-1] >= E_LIMIT else "pass"
    why = f"E-value {path[-1]:.3g} (fails at {E_LIMIT:g}); 31 bad minutes of 120"
    return MetricVerdict("errors", outcome, None, None, None, 0.0, "E-process on bad minutes", None, len(path), why)


def _metric(name: str, effect: float, width: float, margin: float, test: str, n: int) -> MetricVerdict:
    low, high = effect - width, effect + width
    outcome = "pass" if high < margin else ("fail" if low > 0 and effect > margin else "inconclusive")
    p = 0.5 * math.erfc((margin - effect) / (width / 1.96) / math.sqrt(2))
    effect, low, high, p = (round(value, 5) for value in (effect, low, high, p))
    return MetricVerdict(name, outcome, effect, low, high, margin, test, p, n)  # type: ignore[arg-type]


def host_series(host: str, cpu: float, latency: float, chance: random.Random, minutes: float = 6.0) -> HostSeries:
    """``minutes`` of baseline and as much of a switchback: blocks of 30 s, the first 5 s of each washout."""
    ordered = 90_000.0
    base = 0.42 * math.exp(chance.gauss(0, 0.09))  # CPU seconds per GB
    probe = 0.0042 * math.exp(chance.gauss(0, 0.12))
    rate = 68e6 * math.exp(chance.gauss(0, 0.2))
    effect = cpu + chance.gauss(0, 0.015)
    count = int(minutes * 60 / PERIOD_S)
    samples, wave, block = [], 0.0, [0, 1]
    for index in range(-count, count):
        wave = 0.8 * wave + chance.gauss(0, 0.02)
        on, washout = False, False
        if index >= 0:
            within = index % 6
            if index % 12 == 0:
                chance.shuffle(block)
            on, washout = bool(block[(index // 6) % 2]), within == 0
        sent = rate * PERIOD_S * math.exp(wave + chance.gauss(0, 0.03))
        spent = sent / 1e9 * base * (1 + effect if on else 1) * math.exp(chance.gauss(0, 0.02))
        samples.append(
            Sample(
                at_s=round(ordered + (index + 1) * PERIOD_S, 3),
                seconds=PERIOD_S,
                arm="on" if on else "off",
                washout=washout,
                cpu_s=round(spent, 5),
                sent=int(sent),
                ktls=int(sent * 0.998) if on else 0,
                connections=int(sent / 6.5e6),
                requests=int(sent / 2e6),
                errors={},
                probe_s=(round(probe * (1 + latency * on) * math.exp(chance.gauss(0, 0.15)), 6),),
            )
        )
    return HostSeries(
        host=host,
        samples=tuple(samples),
        ordered_at_s=ordered,
        boot_id=hashlib.md5(host.encode(), usedforsecurity=False).hexdigest(),
        read_at_s=ordered + count * PERIOD_S + 1,
        skew_s=round(chance.gauss(0, 0.02), 4),
    )


def plan_of(
    sizes: Sequence[int] = (2, 6, 16), *, refused: int = 3, approve: Sequence[int] = (), soak_s: float = 600.0
) -> Plan:
    """A plan with waves of these sizes."""
    hosts = [f"web-{number:0{len(str(sum(sizes)))}}" for number in range(1, sum(sizes) + 1)]
    waves, begin = [], 0
    for number, size in enumerate(sizes, 1):
        waves.append(
            Wave(
                number,
                "canary" if number == 1 else f"wave {number}",
                tuple(hosts[begin : begin + size]),
                Soak(soak_s, soak_s * 3, min_connections=2_000, min_bytes=1_000_000_000),
                approve=number in approve,
                detectable={"cpu": 0.021, "latency": 0.04, "throughput": 0.03},
                expected_s=soak_s + 20,
            )
        )
        begin += size
    codes = list(REFUSALS.values())
    planned = {
        host: PlannedHost(
            {"kernel": "6.12.117+deb13-amd64", "openssl": "3.5.4", "agent": "0.1.0", "sidecar": "0.1.0"},
            {"rack": f"r{index % 7 + 1}", "nic_model": "mlx5" if index % 3 else "ice", "kernel": "6.12"},
            16,
            0.4,
        )
        for index, host in enumerate(hosts)
    }
    return plan_file.seal(
        Plan(
            version=plan_file.VERSION,
            id="20261126-0558-tx",
            created="2026-11-26T05:58:12Z",
            phase="tx",
            inventory="inventory/production",
            group="ktls_hosts",
            limit=None,
            fleet=FLEET,
            epoch_floor=41,
            lease_s=LEASE_S,
            failure_budget=1,
            hosts=planned,
            refused={f"old-{number}": (codes[number % len(codes)],) for number in range(1, refused + 1)},
            waves=tuple(waves),
            gates=Gates(),
            freezes=(Freeze("2026-11-27T17:00:00+00:00", "2026-11-30T07:00:00+00:00", "weekend"),),
            headroom=Headroom("web-04", 0.61),
            expected_s=sum(wave.expected_s for wave in waves),
        )
    )


def begin(state: Path, plan: Plan | None = None, *, run: str = "20261126-060000-tx", seed: int = 7) -> Story:
    """An empty run below the state directory ``state``, ``run_started`` written."""
    plan = plan or plan_of()
    run_dir = state / plan.fleet / "runs" / run
    (run_dir / "control").mkdir(parents=True, exist_ok=True)
    plan_file.save(plan, run_dir / "plan.yml")
    story = Story(run_dir, plan, Journal(run_dir / "journal.jsonl"), random.Random(seed))
    story.start()
    return story


def well(story: Story, number: int, *, looks: int = 6, approve_by: str | None = None, seconds: float = 600.0) -> None:
    """One wave from its order to its promotion."""
    story.open(number)
    story.soak(number, seconds, looks)
    story.judge(number)
    if approve_by:
        story.wait(number, "approval", 240, by=approve_by)
    story.confirm(number)


def completed(state: Path, plan: Plan | None = None, **options: Any) -> Story:
    """Every wave passes; the canary is approved by a person; the webhooks are told."""
    story = begin(state, plan, **options)
    story.journal.add("notified", after=1, trigger="rollout_started", ok=True)
    for wave in story.plan.waves:
        well(story, wave.number, approve_by="grace@control1" if wave.approve or wave.number == 1 else None)
        story.journal.add("notified", after=1, trigger="wave_promoted", ok=wave.number != 2, **_hook(wave.number))
    story.end("completed")
    return story


def _hook(number: int) -> dict[str, Any]:
    return {"error": "hooks.example: 503 after 4 attempts"} if number == 2 else {}


def failed(state: Path, plan: Plan | None = None, **options: Any) -> Story:
    """The second wave is paused, survives a killed controller, then fails: slow, errors, and a host that is cut off."""
    story = begin(state, plan, **options)
    well(story, 1, approve_by="grace@control1")
    wave = story.open(2)
    story.soak(2, 200, 2)
    story.journal.add("control", after=3, verb="pause", by="grace@control1", why="looking at web-05")
    story.journal.add("waiting", after=1, wave=2, on="paused")
    story.journal.add("control", after=170, verb="resume", by="grace@control1")
    story.journal.add("waited", after=1, wave=2, on="paused", by="grace@control1")
    story.journal.add("run_resumed", after=140, operator="grace@control1", epoch=story.epoch)
    lost = wave.hosts[3]
    story.soak(2, 400, 5, cut_off=(lost,))
    story.judge(
        2,
        "inconclusive",
        reasons=("latency: +3.1 % [0.4, 5.8] is not below the margin of 5 % yet", f"{lost}: no series"),
        hosts={lost: ("unreachable for 4 min",)},
        e_path=(1.0, 0.9, 1.4, 2.2, 3.1),
    )
    story.soak(2, 300, 3, cut_off=(lost,))
    story.observe(2, 700, cut_off=(lost,), failed={lost: f"{lost} cannot be reached for 540 s"})
    story.judge(
        2,
        "fail",
        reasons=(
            "latency: +21.0 % [18.3, 23.7], margin 5 %",
            "errors: E-value 48.1 is over 40",
            f"{lost} is unreachable: counts as failed",
        ),
        hosts={
            lost: ("unreachable for 9 min",),
            wave.hosts[1]: ("errors: new sidecar errors: EBADMSG +31", "kernel: TlsDecryptError +31"),
        },
        e_path=(1.0, 0.9, 1.4, 2.2, 3.1, 6.8, 19.2, 48.1),
    )
    story.revert(2, "gate failed", cut_off=(lost,))
    for number, drained in enumerate((0.62, 0.9, 0.99, 1.0)):
        story.journal.at += 4
        story.observe(2, 900 + number * 4, cut_off=(lost,), drained=drained)
    story.journal.add("notified", after=1, trigger="gate_failed", ok=True)
    story.end("failed", "wave 2: gate failed: latency +21.0 %, errors E=48.1, web-06 unreachable")
    return story


def soaking(state: Path, plan: Plan | None = None, **options: Any) -> Story:
    """Under way: the second wave soaks, one of its hosts does not answer."""
    story = begin(state, plan, **options)
    well(story, 1, approve_by="grace@control1")
    wave = story.open(2)
    story.soak(2, 330, 5, cut_off=(wave.hosts[-1],) if len(wave.hosts) > 2 else ())
    return story


def _curve(none_left: float, most: int) -> list[list[float]]:
    """Connections that drain: many soon, few late."""
    steps = [(share, int(most * (1 - share) ** 1.7)) for share in (0.0, 0.1, 0.25, 0.45, 0.7, 0.9)]
    return [[round(share * none_left, 2), count] for share, count in steps] + [[none_left, 0]]


def off_results(story: Story) -> dict[str, Any]:
    """What ``ktls off --json`` says for the hosts of the run."""
    hosts: dict[str, Any] = {}
    for index, host in enumerate(story.plan.hosts):
        lost = index == 5
        none_left = None if lost else round(2 + story.chance.expovariate(1 / 9.0), 2)
        hosts[host] = {
            "host": host,
            "reachable": not lost,
            "flag": not lost,
            "off": not lost,
            "last_new_s": None if lost else round(story.chance.uniform(0.2, 1.6), 2),
            "none_left_s": none_left,
            "left": None if lost else 0,
            "curve": [] if none_left is None else _curve(none_left, 20 + int(story.chance.random() * 60)),
            "error": f"{host} unreachable: no answer within 20 s" if lost else None,
        }
    return {"hosts": hosts}

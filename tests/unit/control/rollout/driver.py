# SPDX-License-Identifier: Apache-2.0
"""What Ansible does with a rollout, in one process: the steps of ``playbooks/rollout.yml`` in its order, on fake hosts.

Time is not real: whoever sleeps moves the clock. A run is killed by an exception that nothing catches.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ktls_control.errors import ControlError
from ktls_control.judge import wire
from ktls_control.judge.model import HostSeries, Sample
from ktls_control.plan import file as plan_file
from ktls_control.plan.model import Gates, Plan, PlannedHost, Soak, Wave
from ktls_control.reach import Reply
from ktls_control.rollout import answers, implicit, journal, lock, store
from ktls_control.rollout.begin import NOBODY, Begun, Wanted, begin
from ktls_control.rollout.engine import Engine
from ktls_control.rollout.machine import UNTOUCHED
from ktls_control.rollout.sentinels import Sighting
from ktls_control.rollout.state import RunState, fold

FACTS = {"kernel": "6.12", "openssl": "3.5", "agent": "1", "sidecar": "1"}


class KilledError(BaseException):
    """The control process is gone."""


@dataclass
class FakeHost:
    """One agent. ``faults``: ``cut``, ``refuse``, ``leak``, ``idle``, ``broken`` (its probe fails), ``drift``,
    ``errors``, ``lease`` (its order lapses at once). Of its card: ``frozen`` (it counts no byte any more), ``full``
    (it takes no session), ``corrupt`` (a record could not be decrypted), ``mute`` (the agent does not speak of it).
    """

    name: str
    phase: str = "userspace"
    order: str = "none"
    order_id: str | None = None
    epoch: int = 0
    sent: dict[str, int] = field(default_factory=lambda: {"ktls_tx": 0, "userspace": 0})
    faults: set[str] = field(default_factory=set)
    deadline: float = 0.0
    failures: int = 0
    off: bool = False
    card: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("encrypted", "hw", "eligible", "installed", "software", "decrypt"), 0)
    )
    asked: list[tuple[str, int]] = field(default_factory=list)

    def status(self, now: float) -> dict[str, Any]:
        if self.order == "pending" and now >= self.deadline:
            self.phase, self.order = "userspace", "reverted"
        path = "ktls_tx" if self.phase in ("tx", "hw") and "leak" not in self.faults else "userspace"
        if "idle" not in self.faults:
            self.sent[path] += 1_000_000
            self._card()
        self.failures += "errors" in self.faults
        counts = {key: value // 1_000_000 for key, value in self.sent.items()}
        return {
            "ok": True,
            "version": "1",
            "host": {"kernel": "6.13" if "drift" in self.faults else "6.12", "openssl": "3.5"},
            "phase": self.phase,
            "order": self.order,
            "order_id": self.order_id,
            "ordered_phase": self.phase if self.order != "none" else None,
            "epoch": self.epoch,
            "revert_reason": "lease_expired" if self.order == "reverted" else None,
            "lease_left_s": self.deadline - now if self.order == "pending" else None,
            "off": {"flag": self.off},
            "tls_stat": {"TlsTxSw": counts["ktls_tx"], "TlsTxDevice": self.card["installed"], "TlsDecryptError": 0},
            **({} if "mute" in self.faults else {"hw": self.hw()}),
            "sockets": {"ktls_rx": 0},
            "bytes": dict(self.sent),
            "sidecar": {
                "pid": 1, "version": "1", "bytes": dict(self.sent), "connections_total": counts,
                "errors": {"sendfile_failed": self.failures},
            },
            "probe": {"ok": "broken" not in self.faults, "sha256_ok": True, "ktls_tx": self.phase in ("tx", "hw"),
                      "error": "content hash differs"},
        }  # fmt: skip

    def _card(self) -> None:
        """What a million bytes on one new connection, of TLS 1.2, are to the card."""
        card = self.card
        card["eligible"] += 1_000_000
        if self.phase != "hw":
            return
        if "full" in self.faults:
            card["software"] += 1
            return
        card["installed"] += 1
        card["hw"] += 1_000_000
        card["encrypted"] += 0 if "frozen" in self.faults else 1_010_000
        card["decrypt"] += "corrupt" in self.faults

    def hw(self) -> dict[str, Any]:
        card = self.card
        nic = {"name": "eth1", "driver": "mlx5_core", "tx_on": self.phase == "hw", "rx_on": False, "up": True}
        return {
            "tls12_consent": True, "interfaces": [{**nic, "counters": {}}], "encrypted_bytes": card["encrypted"],
            "installed": card["installed"], "software": card["software"],
            "open": {"hw": 3, "stale": 3 * ("frozen" in self.faults)},
            "sent": {"hw": card["hw"], "tls12_gcm": card["eligible"], "total": sum(self.sent.values())},
            "anomalies": {"resync": 0, "drops": 0, "ooo": 0, "decrypt": card["decrypt"]},
        }  # fmt: skip


@dataclass
class FakeSentinel:
    """A machine that watches the wire. ``sight`` of what it saw; ``armed`` says whether it could."""

    sight: str = "clean"
    armed: str = "clean"
    asked: list[tuple[tuple[str, ...], float]] = field(default_factory=list)

    def look(self, names: Sequence[str], since: float, now: float) -> Sighting:
        self.asked.append((tuple(names), since))
        return Sighting(self.sight, f"it is {self.sight}", now)  # type: ignore[arg-type]

    def standing(self, _names: Sequence[str], now: float) -> Sighting:
        return Sighting(self.armed, f"it is {self.armed}", now)  # type: ignore[arg-type]


@dataclass
class World:
    """Hosts, clock, and how a playbook goes over them.

    :param kill_after: the control process dies as soon as this many events are in the journal.
    :param kill_at_task: it dies before this many tasks of hosts have begun.
    :param on_event: called after each event, with its name; may change hosts, or ask for something.
    """

    state_dir: Path
    hosts: dict[str, FakeHost]
    now: float = 1_800_000_000.0
    kill_after: int | None = None
    kill_at_task: int | None = None
    kill_at_off: bool = False
    on_event: Callable[[str], None] = lambda _name: None
    on_sleep: Callable[[], None] = lambda: None
    written: int = 0
    sentinel: FakeSentinel = field(default_factory=FakeSentinel)
    offs: list[str] = field(default_factory=list)
    variables: Callable[[str], Mapping[str, Any]] = lambda _name: {}

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.on_sleep()

    def ask(self, names: Sequence[str], verb: str, **arguments: Any) -> Iterator[Reply]:
        """The engine's questions outside of Ansible."""
        for name in names:
            host = self.hosts[name]
            if "busy" in host.faults:
                # One question takes as long as questions may, and is lost.
                host.faults.discard("busy")
                self.now += 25.0
                yield Reply(name, None, f"{name} unreachable: no answer within 20 s", "cut_off", False, self.now)
                continue
            if "cut" in host.faults:
                yield Reply(name, None, f"{name} unreachable: no answer", "cut_off", False, self.now)
                continue
            if verb == "extend":
                assert (arguments["id"], arguments["epoch"]) == (host.order_id, host.epoch)
                host.deadline = self.now + arguments["lease_s"]
                host.asked.append(("extend", host.epoch))
            if verb == "revert":
                host.phase, host.order = "userspace", "reverted"
                host.asked.append(("revert", host.epoch))
            if verb == "series":
                yield Reply(name, self.page(name, arguments.get("since_s")), None, None, True, self.now)
                continue
            yield Reply(name, host.status(self.now), None, None, True, self.now)

    def page(self, name: str, since_s: float | None) -> dict[str, Any]:
        """A series of twenty samples, in pages of eight: the last of them is of now."""
        begin = round(self.now) - 100
        after = [one for one in range(1, 21) if since_s is None or begin + 5 * one > since_s]
        samples = tuple(
            Sample(begin + 5.0 * one, 5.0, "on", cpu_s=0.1, sent=10**6, ktls=10**6, connections=9, errors={})
            for one in after[:8]
        )
        page = wire.encode(HostSeries(name, samples, float(begin + 50), "boot", float(begin + 101)), self.now)
        return {"ok": True, "series": {**page, "more": len(after) > 8, "next_since_s": begin + 5.0 * after[:8][-1]}}

    def off(self, why: str) -> dict[str, Any]:
        """``ktls off`` over the whole fleet."""
        self.offs.append(why)
        if self.kill_at_off:
            self.kill_at_off = False
            raise KilledError("off")
        for host in self.hosts.values():
            if "cut" not in host.faults:
                host.off, host.phase = True, "userspace"
                host.order = "reverted" if host.order != "none" else "none"
        lost = {name: "cut" in host.faults for name, host in self.hosts.items()}
        hosts = {name: {"off": not gone, "error": "unreachable" if gone else None} for name, gone in lost.items()}
        return {"ok": not any(lost.values()), "hosts": hosts, "fleet": {"last_new_s": 0.2, "none_left_s": None}}

    # The tasks of hosts

    def task(self, step: str, file: answers.WaveFile, name: str) -> None:
        if self.kill_at_task is not None:
            self.kill_at_task -= 1
            if self.kill_at_task < 0:
                self.kill_at_task = None
                raise KilledError(step)
        host = self.hosts[name]
        back = step == "back" or name in file.dropped
        if back and (file.answer(name, "order") or {}).get("code") in UNTOUCHED:
            file.record(name, step, {"ok": True, "skipped": True})
            return
        if "cut" in host.faults:
            file.record(name, step, {"ok": False, "code": "cut_off", "error": f"{name} cannot be reached: cut"})
            return
        if step == "evidence":
            if not back:
                file.record(name, step, {"ok": True, "status": host.status(self.now), "read_at": self.now})
            return
        error = self._change(host, file, step, back=back)
        told: dict[str, Any] = {"ok": error is None}
        if error:
            told.update(code=error.code, error=f"{name}: {error.message}")
        elif step == "order":
            told["status"] = host.status(self.now)
        file.record(name, step, told)

    def _change(self, host: FakeHost, file: answers.WaveFile, step: str, *, back: bool) -> ControlError | None:
        if back:
            if host.order_id == file.id:
                host.phase, host.order = "userspace", "reverted"
                host.asked.append(("back", file.epoch))
            return None
        if step == "confirm":
            if (host.order, host.order_id, host.epoch) != ("pending", file.id, file.epoch):
                return ControlError("not_pending", "there is no such pending order")
            host.order = "committed"
        else:
            if "drift" in host.faults:
                return ControlError("facts_drifted", "kernel was 6.12, is 6.13")
            if "refuse" in host.faults:
                return ControlError("no_ktls", "the kernel offers no tls ULP")
            if host.off:
                return ControlError("off_latched", "the off flag is up")
            if file.epoch < host.epoch:
                return ControlError("stale_epoch", f"epoch {file.epoch} is older than {host.epoch}")
            host.phase, host.order, host.order_id, host.epoch = file.phase, "pending", file.id, file.epoch
            host.deadline = self.now + ("lease" not in host.faults) * file.lease_s
        host.asked.append((step, file.epoch))
        return None

    # The playbook

    def wanted(self, plan: Plan) -> Wanted:
        settings = implicit.Settings([1, "100%"], 1, 2, 1, 0.99, 60, ("s1",))
        return Wanted(
            plan_file.to_fields(plan),
            None,
            plan.group,
            "inventory",
            list(self.hosts),
            settings,
            self.variables,
            os.getpid(),
        )

    def playbook(self, plan: Plan) -> str:
        """One run of the playbook over ``plan``; returns ``ok`` or what it failed with."""
        try:
            return self._playbook(begin(self.wanted(plan)))
        except ControlError as error:
            return f"{error.code}: {error.message}"
        finally:
            lock.release(self.fleet(plan).lock, os.getpid())

    def fleet(self, plan: Plan) -> store.Fleet:
        return store.Fleet(self.state_dir / plan.fleet)

    def _playbook(self, begun: Begun) -> str:
        names = list(begun.hosts) if begun.hosts != (NOBODY,) else []
        for size in begun.sizes:
            batch, names = names[:size], names[size:]
            if not batch:
                break
            number = next(wave.number for wave in begun.plan.waves if batch[0] in wave.hosts)
            failed = self._wave(begun, number, batch)
            if failed:
                return failed
        with self.engine(begun) as engine:
            engine.end()
        return "ok"

    def _wave(self, begun: Begun, number: int, batch: Sequence[str]) -> str | None:
        opened = self._step(begun, "open", number)
        failed = opened.get("failed", False)
        for task, step in (("order", "soak"), ("evidence", "judge"), ("confirm", "close")):
            if failed:
                break
            file = answers.load(Path(opened["file"]))
            for name in batch:
                self.task(task, file, name)
            failed = self._step(begun, step, number).get("failed", False)
        if not failed:
            return None
        if opened.get("touched"):
            file = answers.load(Path(opened["file"]))
            for name in batch:
                self.task("back", file, name)
        return str(self._step(begun, "revert", number)["msg"])

    def _step(self, begun: Begun, step: str, number: int) -> dict[str, Any]:
        with self.engine(begun) as engine:
            return engine.step(step, number)

    def engine(self, begun: Begun) -> _Opened:
        return _Opened(self, begun)


class _Opened:
    def __init__(self, world: World, begun: Begun) -> None:
        self._world, self._begun = world, begun

    def __enter__(self) -> Engine:
        world, begun = self._world, self._begun
        self._journal = Watched(begun.run.journal, world)
        known = answers.load_known(begun.run)
        return Engine(
            begun.run, begun.plan, self._journal, world, known, clock=world.clock, sleep=world.sleep,
            sentinels=world.sentinel, off=lambda _plan, why: world.off(why),
        )  # fmt: skip

    def __exit__(self, *_error: object) -> None:
        self._journal.close()


class Watched(journal.Journal):
    """A journal in which somebody waits for an event."""

    def __init__(self, path: Path, world: World) -> None:
        super().__init__(path, world.clock)
        self._world = world

    def extend(self, new: Sequence[tuple[str, Mapping[str, Any]]]) -> list[journal.Event]:
        made: list[journal.Event] = []
        for event in new:
            # One at a time: a crash may come between any two.
            made += super().extend([event])
            world = self._world
            world.on_event(event[0])
            if world.kill_after is not None and len(self.events) >= world.kill_after:
                world.kill_after = None
                raise KilledError(event[0])
        return made


def plan_of(sizes: Sequence[int] = (1, 2, 1), **changes: Any) -> Plan:
    """A sealed plan over hosts ``h1``, ``h2``...; ``approve``: numbers of waves that a person has to promote."""
    approve = changes.pop("approve", ())
    soak = changes.pop("soak", Soak(2.0, 6.0, 0, 1))
    names = [f"h{number}" for number in range(1, sum(sizes) + 1)]
    waves, left = [], list(names)
    for number, size in enumerate(sizes, 1):
        waves.append(Wave(number, f"wave {number}", tuple(left[:size]), soak, approve=number in approve))
        left = left[size:]
    fields: dict[str, Any] = {
        "version": plan_file.VERSION, "id": "p1", "created": "2026-11-26T00:00:00Z", "phase": "tx",
        "inventory": "inventory", "group": "ktls_hosts", "limit": None, "fleet": "fleet", "epoch_floor": 0,
        "lease_s": 60.0, "failure_budget": 0, "hosts": {name: PlannedHost(FACTS) for name in names}, "refused": {},
        "waves": tuple(waves), "gates": Gates(method="none", on_inconclusive="fail"),
    }  # fmt: skip
    return plan_file.seal(Plan(**{**fields, **changes}))


def world_of(state_dir: Path, plan: Plan, **options: Any) -> World:
    """Hosts for a plan."""
    return World(state_dir, {name: FakeHost(name) for name in plan.hosts}, **options)


def state_of(world: World, plan: Plan) -> RunState:
    """What the newest journal says, its chain checked."""
    return fold(events_of(world, plan))


def events_of(world: World, plan: Plan) -> list[dict[str, Any]]:
    """Events of the newest run."""
    return journal.read(world.fleet(plan).newest().journal)

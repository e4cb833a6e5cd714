# SPDX-License-Identifier: Apache-2.0
"""The steps of a wave on the control node. Each runs in a process of its own and knows only what the journal says.

``open`` → hosts are ordered → ``soak`` → evidence is read → ``judge`` → hosts confirm → ``close``; and ``revert`` after
the wave has gone back. The work on hosts lies between the steps and is Ansible's; see ``playbooks/rollout.yml``.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from ktls_host import datapath_status
from ktls_host.series import join

from ..errors import ControlError
from ..files import write
from ..inventory import host_from_vars
from ..judge import hardware, kinds, moved
from ..judge.model import HostSeries, Outcome, WaveVerdict
from ..observers import Observers
from ..plan import file as plan_file
from ..plan.model import Plan, Wave
from . import answers, control, judging, machine
from .answers import WaveFile
from .journal import Journal
from .machine import UNREACHED, Holds, Seen, StopError
from .sentinels import ASK_S, READY_S, Sentinels, Sighting
from .state import SENTINEL, RunState, WaveState, apply, fold
from .store import Run

if TYPE_CHECKING:
    from ..reach import Reach, Reply

#: Seconds between two looks at what operators ask for.
TICK_S = 0.2
#: A host that does not answer within this long is asked again at the next look (seconds).
ANSWER_S = 20.0
#: Later hosts of each datapath whose series are read for a comparison, at most: two hosts need 27 to tell anything.
MOST_OTHERS = 40
#: Until a host of an earlier wave has taken itself back, at most (seconds).
BACK_S = 60.0
#: Seconds between two questions to the judge during a soak, at least: each reads the series of every host.
JUDGE_S = 10.0

_LATENCIES = ("last_new_s", "drained_90_s", "none_left_s")


class Fleet:
    """Asks the agents of a run's hosts, outside of Ansible; sessions stay open from one question to the next.

    Tests put a fake in its place.
    """

    def __init__(self, hosts: Mapping[str, Mapping[str, Any]]) -> None:
        self._hosts = hosts
        self._reach: Reach | None = None

    def ask(self, names: Sequence[str], verb: str, **arguments: Any) -> Iterator[Reply]:
        """One reply for each name, as they come in."""
        if not names:
            return iter(())
        if self._reach is None:
            from ..reach import Reach

            hosts = [host_from_vars(name, variables) for name, variables in self._hosts.items()]
            self._reach = Reach(hosts, timeout_s=ANSWER_S).__enter__()
        return self._reach.ask(list(names), verb, **arguments)

    def close(self) -> None:
        """Close what is open."""
        if self._reach is not None:
            self._reach.__exit__(None, None, None)


class Watchers(Protocol):
    """Who watches the wire in phase ``hw``: :class:`.sentinels.Sentinels`, or a fake."""

    def look(self, names: Sequence[str], since: float, now: float, /) -> Sighting: ...

    def standing(self, names: Sequence[str], now: float, /) -> Sighting: ...


def switch_fleet_off(plan: Plan, why: str) -> Mapping[str, Any]:
    """The same as ``ktls off`` of an operator."""
    from ..off.whole import whole_fleet

    return whole_fleet(plan.inventory, plan.group, by=SENTINEL, reason=why)


@dataclass
class Engine:
    """One step of a run: open it, call one method, close it.

    :param check: check mode: nothing is waited for or judged.
    :param sentinels: asked in phase ``hw``; None: those of ``known``.
    :param off: switches the whole fleet of a plan off, for the reason given; returns what ``ktls off --json`` prints.
    """

    run: Run
    plan: Plan
    journal: Journal
    fleet: Any
    known: answers.Known
    check: bool = False
    clock: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep
    observers: Observers | None = None
    sentinels: Watchers | None = None
    off: Callable[[Plan, str], Mapping[str, Any]] = switch_fleet_off
    complaints: list[str] = field(init=False, default_factory=list)
    state: RunState = field(init=False)

    def __post_init__(self) -> None:
        self.state = fold(self.journal.events)

    @classmethod
    @contextmanager
    def at(cls, run: Run, *, check: bool = False) -> Iterator[Engine]:
        """The engine of a run, ready for one step.

        :raises ControlError: what reading plan, journal and hosts raises.
        """
        with Journal(run.journal) as journal:
            known, plan = answers.load_known(run), plan_file.load(run.plan)
            with closing(Fleet(known.hosts)) as fleet:
                engine = cls(run, plan, journal, fleet, known, check)
                if not check:
                    engine.observers = Observers.begin(run.directory, plan, journal.events)
                try:
                    yield engine
                finally:
                    engine.leave()

    # Writing

    def write(self, name: str, /, **keys: Any) -> None:
        """Append an event, take it into the state, and let those who look on have it."""
        self.write_all([(name, keys)])

    def write_all(self, new: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
        """Append events at once: one of each host of a wave is one write to the disk."""
        for event in self.journal.extend(new):
            apply(self.state, event)
            if self.observers:
                self.observers.feed(event)
        if self.observers:
            self._told(self.observers.outcomes())

    def _told(self, outcomes: Sequence[Mapping[str, Any]]) -> None:
        """Who was told of what. A journal that takes no more has said so elsewhere."""
        with suppress(ControlError):
            for keys in outcomes:
                apply(self.state, self.journal.append("notified", **keys))

    def leave(self) -> None:
        """The step is over; after the last one of the run its report is written."""
        if self.observers is None:
            return
        last = self.state.ended is not None
        self._told(self.observers.close(last=last))
        if last:
            self.observers.report()
        self.complaints += self.observers.complaints()

    def turn_back(self, number: int, stop: StopError) -> None:
        """The wave goes back: said before it is done. A full disk does not keep it from being done."""
        self.journal.free_reserve()
        with suppress(ControlError):
            if stop.touched and self.state.wave(number).state not in ("reverting", "reverted"):
                self.write("wave_reverting", wave=number, why=stop.why)

    # Steps

    def step(self, name: str, number: int) -> dict[str, Any]:
        """One step by its name; whatever stops it is said, and the way back is in the journal before it is gone.

        :returns: an Ansible result: ``file`` of the wave; ``failed`` with ``touched``: its hosts have to go back.
        """
        if self.state.owes_off is not None and not self.check:
            # Whoever was to do it died in the middle of it.
            self._fleet_off(self.state.owes_off)
        if name == "revert":
            return {"failed": True, "changed": True, "msg": self.revert(number)}
        steps: Mapping[str, Callable[[int], WaveFile | None]] = {
            "open": self.open,
            "soak": self.soak,
            "judge": self.judge,
            "close": self.close,
        }
        try:
            file = steps[name](number)
        except (StopError, ControlError) as error:
            stop = error if isinstance(error, StopError) else StopError(error.message, touched=self.touched(number))
            self.turn_back(number, stop)
            tried = self.state.wave(number).attempt > 0
            if name == "open":
                # Of an earlier attempt, whose way back was cut short, or nothing.
                with suppress(ControlError):
                    file_path = self.file_path(number) if tried else None
                    answers.point(self.run, file_path, touched=stop.touched and tried)
            return {
                "failed": True,
                "changed": False,
                "msg": f"wave {number}: {stop.why}",
                "error_code": getattr(error, "code", stop.outcome),
                "touched": stop.touched and tried,
                "file": str(self.file_path(number)) if tried else "",
            }
        return {"changed": False, "touched": True, "file": str(file.path) if file else ""}

    def open(self, number: int) -> WaveFile:
        """Wait for whatever is in the way, then write what is about to be ordered, before it is.

        :raises StopError: nothing of this wave is to be ordered (any more).
        """
        wave = self.state.wave(number)
        touched = self.touched(number)
        if wave.state == "reverting":
            raise StopError("the way back of this wave was cut short", self._outcome(), touched=True)
        if wave.state == "reverted":
            raise StopError("this wave had gone back", self._outcome(), touched=False)
        self._obey(touched)
        if control.look(self.run.control).pause:
            self._hold(number, "paused", touched=touched, watch=False)
        ice = machine.frozen(self.plan, self.clock())
        while ice:
            self._hold(number, "freeze", touched=touched, watch=False, until=ice[0])
            ice = machine.frozen(self.plan, self.clock())
        self._obey(touched)
        planned = self._planned(number)
        self._await_sentinel(number, planned, touched=touched)
        attempt = wave.attempt + 1
        identity = f"{self.run.name}-w{number}"
        file = WaveFile(
            str(self.run.answers),
            number,
            attempt,
            identity,
            self.state.epoch,
            self.plan.phase,
            self.plan.lease_s,
            self.plan.sha256,
            {name: self._target(name) for name in planned.hosts},
            machine.experiment(self.plan, f"{identity}-{attempt}"),
        )
        file.save()
        answers.point(self.run, file.path, touched=True)
        self.write(
            "wave_opened", wave=number, name=planned.name, hosts=list(planned.hosts), attempt=attempt,
            order_id=identity, epoch=file.epoch, lease_s=file.lease_s,
        )  # fmt: skip
        return file

    def soak(self, number: int) -> WaveFile:
        """Take down how the orders went, then watch the wave for as long as the plan says.

        :raises StopError: the wave goes back.
        """
        file, planned = self.file(number), self._planned(number)
        none = {"ok": False, "code": "no_answer", "error": "no answer to the order was kept"}
        told = [(name, _told(file.answer(name, "order") or none)) for name in planned.hosts]
        self.write_all([("host_ordered", {"wave": number, "host": name, **keys}) for name, keys in told])
        self._within_budget()
        if self.check:
            return file
        self._obey(True)
        self.write("soak_started", wave=number, min_s=planned.soak.min_s, max_s=planned.soak.max_s)
        self._watch(number, planned, file)
        return self._drop(file)

    def judge(self, number: int) -> WaveFile:
        """Judge the wave by its evidence, look at all earlier ones again, and wait for whoever has to decide.

        :raises StopError: the wave goes back.
        """
        file = self.file(number)
        if self.check:
            return file
        verdict = self._verdict(number, file)
        recheck = self._recheck(number)
        watched = self.watch_wire(number)
        verdict = machine.with_wire(verdict, watched)
        self.write(
            "verdict", wave=number, outcome=verdict.outcome, verdict=judging.as_fields(verdict), recheck=recheck,
            **({} if watched is None else {"sentinel": watched.as_dict()}),
        )  # fmt: skip
        self._earlier_alone(recheck)
        self._obey(True)
        why = machine.judged(verdict, recheck, self.plan, self.state.failed)
        if why:
            raise StopError(why, self._outcome())
        decided = False
        planned = self._planned(number)
        while on := machine.waits_for(verdict, planned, control.look(self.run.control), decided=decided):
            self._hold(number, on, touched=True, watch=True)
            decided = decided or on != "paused"
        # Nobody may slip in between the last look and the intent: abort is looked for again before anything is kept.
        self._obey(True)
        self.write("confirming", wave=number)
        return self._drop(file)

    def close(self, number: int) -> WaveFile | None:
        """Take down who has confirmed; the wave is promoted.

        :raises StopError: the wave goes back, those that have confirmed too.
        """
        file = self.file(number)
        if self.check:
            return file
        none = {"ok": False, "code": "no_answer", "error": "no confirmation was kept"}
        new: list[tuple[str, Mapping[str, Any]]] = []
        for name in self._planned(number).hosts:
            answer = file.answer(name, "confirm")
            if name in file.dropped:
                new += self._reverted(number, name, answer, [], {})
                continue
            keys = _without(_told(answer or none), "ordered_at_s", "boot_id")
            new.append(("host_confirmed", {"wave": number, "host": name, **keys}))
        self.write_all(new)
        self._within_budget()
        self._obey(True)
        self.write("wave_promoted", wave=number)
        return file

    def revert(self, number: int) -> str:
        """Take down how the way back went, and end the run.

        :returns: the whole story in one line.
        """
        wave = self.state.wave(number)
        outcome, why = self._ending(number)
        if self.check:
            return f"wave {number} would not pass: {why}; nothing was changed"
        back: list[str] = []
        lost: dict[str, Holds | None] = {}
        earlier: dict[int, str] = {}
        self.journal.free_reserve()
        with suppress(ControlError):
            if wave.attempt and wave.state not in ("waiting", "reverted", "promoted"):
                file = self.file(number)
                if wave.state != "reverting":
                    self.write("wave_reverting", wave=number, why=why)
                new: list[tuple[str, Mapping[str, Any]]] = []
                for name in self._planned(number).hosts:
                    new += self._reverted(number, name, file.answer(name, "back"), back, lost)
                self.write_all(new)
                self.write("wave_reverted", wave=number, why=why)
            earlier = self._earlier_waves(number, lost)
        said = f"wave {number} did not pass: {why}"
        said += f"; back on userspace TLS: {_some(back)}" if back else ""
        said += "".join(f"; wave {earlier_one} {words}" for earlier_one, words in earlier.items())
        for holds, words in UNREACHED.items():
            names = [name for name, found in lost.items() if found == holds]
            said += f"; {words}: {_some(names)}" if names else ""
        try:
            self.write("run_ended", outcome=outcome, why=f"wave {number}: {why}")
        except ControlError as error:
            said += f"; and {error.message}"
        return f"{said}; `ktls history` has the run, `ktls off` takes everything back"

    def end(self) -> None:
        """Every wave is promoted."""
        if not machine.left(self.state) and self.state.ended is None:
            self.write("run_ended", outcome="completed")
        self.journal.free_reserve()

    # Parts of the steps

    def file(self, number: int) -> WaveFile:
        """What the tasks of the wave know."""
        return answers.load(self.file_path(number))

    def file_path(self, number: int) -> Path:
        """Where that is."""
        return answers.wave_path(self.run.answers, number, self.state.wave(number).attempt)

    def touched(self, number: int) -> bool:
        """Hosts of the wave may have been changed, and are neither kept nor back."""
        wave = self.state.wave(number)
        return wave.attempt > 0 and wave.state in machine.UNFINISHED

    def _planned(self, number: int) -> Wave:
        return next(wave for wave in self.plan.waves if wave.number == number)

    def _target(self, name: str) -> answers.Target:
        host = self.plan.hosts[name]
        return self.known.target(name, host.facts, experiments=host.datapath.experiments)

    def _outcome(self) -> machine.Outcome:
        asked = control.look(self.run.control)
        return "off" if asked.off else ("aborted" if asked.abort else "failed")

    def _ending(self, number: int) -> tuple[machine.Outcome, str]:
        """How the run ends and why: from the journal, and from what is asked for now."""
        why = next(
            (
                str(e["why"])
                for e in reversed(self.journal.events)
                if e["event"] == "wave_reverting" and e["wave"] == number
            ),
            "",
        )
        stop = machine.stopped(control.look(self.run.control), touched=True)
        if self.state.fleet_off:
            return "off", self._off_words()
        watched = self.state.wave(number).sentinel
        if not why and watched.get("sight") in ("blind", "leak") and not self.touched(number):
            why = f"sentinel {watched['sight']}: {watched['why']}"
        if stop and (not why or self.state.aborting):
            return stop.outcome, why or stop.why
        failed = self.state.failed
        return "failed", why or "; ".join(failed.values()) or "a task of it failed; Ansible's output says which"

    def _obey(self, touched: bool) -> None:
        """Note what operators ask for.

        :raises StopError: abort or off.
        """
        asked = control.look(self.run.control)
        stop = machine.stopped(asked, touched=touched)
        if stop is not None and asked.stop is not None:
            if not self.state.aborting:
                verb = "off" if asked.off else "abort"
                self.write(
                    "control", verb=verb, by=asked.stop.by, **({"why": asked.stop.why} if asked.stop.why else {})
                )
            raise stop
        if asked.pause and not self.state.paused:
            self.write(
                "control", verb="pause", by=asked.pause.by, **({"why": asked.pause.why} if asked.pause.why else {})
            )
        elif not asked.pause and self.state.paused:
            self.write("control", verb="resume", by="the pause was taken away")

    def _within_budget(self) -> None:
        why = machine.over_budget(self.plan, self.state.failed)
        if why:
            raise StopError(why, self._outcome())

    def _drop(self, file: WaveFile) -> WaveFile:
        """Hosts that have failed within the budget go back alone."""
        wave = self.state.wave(file.wave)
        dropped = tuple(name for name in wave.hosts if name not in machine.taking_part(wave))
        if dropped != file.dropped:
            file = replace(file, dropped=dropped)
            file.save()
        return file

    # The wire, in phase hw

    def _watchers(self) -> Watchers:
        return self.sentinels or Sentinels(self.known.sentinels)

    def watch_wire(self, number: int) -> Sighting | None:
        """What the sentinels have seen since the wave has its orders; None where the phase needs none.

        :raises StopError: plaintext: the whole fleet is off, and the wave goes back.
        """
        if self.plan.hardware is None or self.check:
            return None
        wave = self.state.wave(number)
        since = wave.soak_started or wave.since
        watched = self._watchers().look(machine.taking_part(wave), since, self.clock())
        if watched.sight == "leak":
            self._leak(number, watched)
        self._saw(number, watched)
        return watched

    def _saw(self, number: int, watched: Sighting) -> None:
        """Into the journal when it is news."""
        known = self.state.wave(number).sentinel
        if (known.get("sight"), known.get("why")) != (watched.sight, watched.why):
            self.write("sentinel", wave=number, **watched.as_dict())

    def _leak(self, number: int, watched: Sighting) -> NoReturn:
        """Plaintext was seen. Nothing is known of whose card it was but its address, so nobody keeps kTLS.

        What is to be done is in the journal before it is: whoever resumes the run does what is left of it.
        """
        self.journal.free_reserve()
        with suppress(ControlError):
            self.write("control", verb="off", by=SENTINEL, why=watched.why)
            self._saw(number, watched)
        self._fleet_off(watched.why)
        raise StopError(self._off_words(), "off", touched=self.touched(number))

    def _fleet_off(self, why: str) -> None:
        """Switch every host of the fleet off, and take down how that went."""
        with suppress(ControlError):
            control.ask(self.run.control, "off", by=SENTINEL, why=why)
        keys: dict[str, Any] = {"by": SENTINEL, "why": why, "ok": False, "hosts": {}}
        try:
            done = self.off(self.plan, f"sentinel: {why}")
            hosts = done.get("hosts") or {}
            keys["hosts"] = {
                name: {"off": bool(one.get("off")), **({"error": str(one["error"])} if one.get("error") else {})}
                for name, one in hosts.items()
            }
            keys["ok"] = bool(keys["hosts"]) and all(one["off"] for one in keys["hosts"].values())
            took = done.get("fleet") or {}
            keys.update({name: took[name] for name in _LATENCIES if took.get(name) is not None})
            with suppress(OSError):
                write(self.run.directory / "off-sentinel.json", json.dumps(done))
        except Exception as error:
            # Whatever it is: the wave has to go back, and an operator has to know.
            keys["error"] = getattr(error, "message", None) or f"{type(error).__name__}: {error}"
        try:
            self.write("fleet_off", **keys)
        except ControlError:
            apply(self.state, {"event": "fleet_off", "at": self.clock(), **keys})

    def _off_words(self) -> str:
        """What came of it, in a few words."""
        done = self.state.fleet_off or {}
        hosts = done.get("hosts") or {}
        said = f"all {len(hosts)} hosts of the fleet are off"
        if not done.get("ok"):
            left = [name for name, one in hosts.items() if not one["off"]]
            said = f"NOT off: {_some(left)}" if left else f"the fleet could NOT be switched off: {done.get('error')}"
            said += ": run `ktls off` now"
        return f"plaintext on the wire: {done.get('why')}; {said}"

    def _await_sentinel(self, number: int, planned: Wave, *, touched: bool) -> None:
        """Before anybody is ordered somebody has to watch; a sentinel that has just started is waited for.

        :raises StopError: nobody can, or plaintext was seen already.
        """
        if self.plan.hardware is None or self.check:
            return
        began = self.clock()
        while True:
            watched = self._watchers().standing(planned.hosts, self.clock())
            if watched.sight == "leak" and (touched or any(wave.state == "promoted" for wave in self.state.waves)):
                self._leak(number, watched)
            if watched.sight in ("clean", "none"):
                return
            if watched.sight == "leak" or self.clock() - began >= READY_S:
                self._saw(number, watched)
                raise StopError(f"sentinel {watched.sight}: {watched.why}", touched=touched)
            self._obey(touched)
            self.sleep(ASK_S)

    # Watching

    def _watch(self, number: int, planned: Wave, file: WaveFile) -> None:
        """Until the soak is over: its least time and traffic, or its longest time; the judge may ask for more."""
        eyes, soak, began = Eyes(self, number, file), planned.soak, self.clock()
        due = machine.gap(planned, len(planned.hosts), 0.0)
        judging_s = max(JUDGE_S, soak.min_s / 10)
        next_judging = soak.min_s / 2
        while True:
            self._obey(True)
            age = self.clock() - began
            if age >= soak.max_s:
                return
            ripe = age >= soak.min_s
            if age >= due or (ripe and machine.needs_traffic(planned) and not eyes.seen):
                spent = eyes.look()
                due = self.clock() - began + machine.gap(planned, len(planned.hosts), spent)
            quiet = machine.needs_traffic(planned) and not eyes.enough(planned)
            # A sentinel that has not seen every host yet may still do so.
            quiet = quiet or (ripe and eyes.blind()) or eyes.unsettled() or eyes.doubtful()
            if self.plan.gates.method == "none":
                if ripe and not quiet:
                    return
            elif age >= next_judging or (ripe and not eyes.judged):
                outcome = eyes.judge(planned)
                # The judge itself knows when it may say what; a failure need not wait for the end of the soak.
                if outcome == "fail" or (outcome == "pass" and ripe and not quiet):
                    return
                next_judging = self.clock() - began + judging_s
            end = soak.max_s if ripe else soak.min_s
            self.sleep(min(TICK_S, max(0.01, end - (self.clock() - began))))

    def _hold(self, number: int, on: str, *, touched: bool, watch: bool, until: float | None = None) -> None:
        """Wait, with abort armed.

        :param watch: its hosts hold an order that is to be kept: look at them, and extend their leases. Those of an
            earlier attempt may lapse: they are ordered anew.
        :raises StopError: abort, off, or a host that has failed meanwhile.
        """
        self.write("waiting", wave=number, on=on, **({} if until is None else {"until": until}))
        eyes = Eyes(self, number, self.file(number)) if watch else None
        planned = self._planned(number)
        due = 0.0
        while True:
            self._obey(touched)
            asked = control.look(self.run.control)
            by = machine.may_go_on(on, number, asked, self.clock(), until)
            if by is not None:
                break
            if eyes and self.clock() >= due:
                spent = eyes.look()
                due = self.clock() + machine.gap(planned, len(planned.hosts), spent)
            self.sleep(TICK_S)
        if on in ("approval", "inconclusive"):
            self.write("control", verb="promote", by=by)
            control.withdraw(self.run.control, "promote-0")
        self.write("waited", wave=number, on=on, by=by)

    # Judging

    def _verdict(self, number: int, file: WaveFile) -> WaveVerdict:
        planned, wave = self._planned(number), self.state.wave(number)
        got = {name: file.answer(name, "evidence") for name in machine.taking_part(wave)}
        checks = {
            name: judging.check_host(
                self.plan, planned, file.answer(name, "order"), answer, file.answer(name, "settled")
            )
            for name, answer in got.items()
        }
        seen = {name: judging.numbers(check, self.clock()) for name, check in checks.items()}
        series = [found for name, answer in got.items() if (found := judging.host_series(name, answer))]
        for one in series:
            self._keep(number, one)
        sick = {name: f"gate fail: {check.reason}" for name, check in checks.items() if check.outcome == "fail"}
        spare = self.plan.failure_budget - len(self.state.failed)
        if sick and len(sick) <= spare and len(sick) < len(checks):
            # Within the budget: they go back alone, and the others are judged without them.
            self.write("observed", wave=number, hosts=seen, failed=sick)
            checks = {name: check for name, check in checks.items() if name not in sick}
            series = [one for one in series if one.host not in sick]
        else:
            self.write("observed", wave=number, hosts=seen)
        return judging.judge(self.plan, planned, series, self.others(number), checks)

    def _keep(self, number: int, series: HostSeries) -> None:
        place = self.run.evidence / f"wave-{number}-{series.host}.json"
        with suppress(OSError):
            write(place, json.dumps(asdict(series), separators=(",", ":")))

    def others(self, number: int) -> list[HostSeries]:
        """Hosts of later waves, for a comparison with those that were not touched: of each datapath that needs them."""
        later: dict[str, list[str]] = {}
        for wave in self.plan.waves:
            for name in wave.hosts if wave.number > number else ():
                later.setdefault(self.plan.hosts[name].datapath.name, []).append(name)
        wanted = kinds.kinds({name: self.plan.hosts[name].datapath for name in self._planned(number).hosts})
        asked = [
            name
            for kind, datapath in wanted.items()
            if kinds.gates_of(self.plan.gates, datapath.experiments, 1).method == "difference"
            for name in later.get(kind, [])[:MOST_OTHERS]
        ]
        return self.series(asked) if asked else []

    def series(self, names: Sequence[str]) -> list[HostSeries]:
        """The series of these hosts, as far as they have one, all pages of it."""
        pages: dict[str, dict[str, Any]] = {}
        read_at: dict[str, float] = {}
        left: dict[str, float | None] = dict.fromkeys(names)
        while left:
            more: dict[str, float | None] = {}
            for since in set(left.values()):
                asked = [name for name, start in left.items() if start == since]
                for reply in self.fleet.ask(asked, "series", **({} if since is None else {"since_s": since})):
                    page = (reply.data or {}).get("series")
                    if not isinstance(page, dict):
                        continue
                    known = pages.get(reply.host)
                    pages[reply.host], read_at[reply.host] = (join(known, page) if known else page), reply.at
                    if page.get("more"):
                        more[reply.host] = float(page["next_since_s"])
            left = more
        found = [judging.host_series(name, {"series": page, "read_at": read_at[name]}) for name, page in pages.items()]
        return [one for one in found if one]

    def _recheck(self, number: int) -> dict[str, str]:
        """Hosts of earlier waves that are not well now, with why."""
        names = {
            name: wave.number
            for wave in self.state.waves
            if wave.number != number and wave.state == "promoted"
            for name, host in wave.hosts.items()
            if host.state == "confirmed"
        }
        bad: dict[str, str] = {}
        asked = list(names)
        # One question may be lost where all earlier waves are asked at once; two are not.
        for last in (False, True):
            lost = []
            for reply in self.fleet.ask(asked, "status"):
                name = reply.host
                if not (reply.reached or last):
                    lost.append(name)
                    continue
                before = (self._last_answer(names[name], name) or {}).get("status")
                seen = machine.see(self.plan.phase, before, reply.data, reply.error, soaking=False)
                why = seen.wrong if seen.reachable else (reply.error or f"{name} did not answer")
                if why:
                    bad[name] = f"wave {names[name]}: {why}"
            asked = lost
        return bad

    # Earlier waves that are not well any more

    def _earlier_alone(self, recheck: Mapping[str, str]) -> None:
        """Hosts of earlier waves that failed within the budget go back alone, at once."""
        if self.plan.earlier != "revert" or machine.over_budget(self.plan, {**self.state.failed, **recheck}):
            return
        for wave in self.state.waves:
            bad = {name: recheck[name] for name in wave.hosts if name in recheck}
            if bad:
                self.write_all(self._take_back(wave, bad, {}, alone=True))

    def _earlier_waves(self, number: int, lost: dict[str, Holds | None]) -> dict[int, str]:
        """An earlier wave in which the last gate found a host that is not well goes back as one.

        So does one whose way back was cut short. It is said before it is done.

        :param lost: takes those that were not reached.
        :returns: by wave, what became of it, in words.
        """
        owed = machine.earlier_owed(self.plan, self.state, number)
        for wave, why in owed:
            if wave.state != "reverting":
                self.write("wave_reverting", wave=wave.number, why=why)
        said: dict[int, str] = {}
        for wave, why in owed:
            names = {name: why for name, host in wave.hosts.items() if host.state == "confirmed"}
            new = self._take_back(wave, names, lost, alone=False)
            self.write_all(new)
            self.write("wave_reverted", wave=wave.number, why=why)
            back = [keys["host"] for _event, keys in new if keys["ok"]]
            said[wave.number] = f"is not well any more ({why}) and goes back too" + (f": {_some(back)}" if back else "")
        return said

    def _take_back(
        self, wave: WaveState, names: Mapping[str, str], lost: dict[str, Holds | None], *, alone: bool
    ) -> list[tuple[str, Mapping[str, Any]]]:
        """Revert what the wave ordered on these hosts, over the engine's own sessions; an event for each.

        :param names: with why; ``alone``: that counts against the failure budget.
        """
        ours: list[str] = []
        errors: dict[str, str] = {}
        for reply in self.fleet.ask(list(names), "status"):
            status = reply.data
            if status is None:
                errors[reply.host] = str(reply.error)
            elif status.get("order") not in ("pending", "committed"):
                continue  # it is back already
            elif status.get("order_id") == wave.order_id:
                ours.append(reply.host)
            else:
                errors[reply.host] = f"{reply.host}: order {status.get('order_id')} of somebody else is in force there"
        errors.update(self._revert_now(ours, f"rollout-{wave.order_id}-goes-back"))
        new: list[tuple[str, Mapping[str, Any]]] = []
        for name, why in names.items():
            keys: dict[str, Any] = {"wave": wave.number, "host": name, "ok": name not in errors}
            if name in errors:
                lost[name] = "yes"
                keys.update(error=errors[name], holds="yes")
            new.append(("host_reverted", {**keys, **({"failed": why} if alone else {})}))
        return new

    def _revert_now(self, names: Sequence[str], reason: str) -> dict[str, str]:
        """Ask hosts to revert, and look until they have: what they wait for may be a reload or a restart.

        :param reason: one word.
        :returns: those that have not, with why.
        """
        left: dict[str, str] = {}
        deadline = self.clock() + BACK_S
        verb, asked = "revert", {"reason": reason}
        while names:
            left = {}
            for reply in self.fleet.ask(list(names), verb, **asked):
                if reply.data is None:
                    left[reply.host] = str(reply.error)
                elif why := datapath_status.stays(reply.data):
                    left[reply.host] = f"{reply.host}: {why}"
            if self.clock() >= deadline:
                break
            verb, asked, names = "status", {}, list(left)
            if names:
                self.sleep(1.0)
        return left

    def _last_answer(self, number: int, name: str) -> dict[str, Any] | None:
        with suppress(ControlError):
            return self.file(number).answer(name, "evidence")
        return None

    def _reverted(
        self, number: int, name: str, answer: Mapping[str, Any] | None, back: list[str], lost: dict[str, Holds | None]
    ) -> list[tuple[str, Mapping[str, Any]]]:
        """The event of one host that was to go back; its name goes to ``back`` or ``lost``."""
        if answer and answer.get("skipped"):
            return []
        if answer and answer.get("ok"):
            back.append(name)
            return [("host_reverted", {"wave": number, "host": name, "ok": True})]
        keys: dict[str, Any] = {"error": str((answer or {}).get("error") or f"{name}: no answer to the way back")}
        if answer and answer.get("code") == "not_back":
            lost[name] = "stays"
            return [("host_reverted", {"wave": number, "host": name, "ok": False, "holds": "yes", **keys})]
        holds = lost[name] = self._holds(number, name)
        if holds is not None:
            keys["holds"] = holds
        left_s = self._lease_left(self.state.wave(number), name)
        if left_s is not None and holds != "yes":
            keys["lease_left_s"] = left_s
        return [("host_reverted", {"wave": number, "host": name, "ok": False, **keys})]

    def _holds(self, number: int, name: str) -> Holds | None:
        """Whether a host of the wave keeps what it was ordered, if nobody reaches it: it has no lease any more."""
        file = self.file(number)
        if name in file.dropped:
            return None
        confirm = file.answer(name, "confirm")
        if confirm is not None:
            return "yes" if confirm.get("ok") else "unknown"
        since = max(e["seq"] for e in self.journal.events if e["event"] == "wave_opened" and e["wave"] == number)
        asked = any(e["event"] == "confirming" and e["seq"] > since for e in self.journal.events)
        return "unknown" if asked else None

    def _lease_left(self, wave: WaveState, name: str) -> float | None:
        seen = wave.hosts[name].seen
        if seen.get("lease_left_s") is not None:
            return float(round(max(0.0, seen["lease_left_s"] - (self.clock() - seen["at"])), 1))
        opened = [e["at"] for e in self.journal.events if e["event"] == "wave_opened" and e["wave"] == wave.number]
        return round(max(0.0, opened[-1] + wave.lease_s - self.clock()), 1) if opened else None


class Eyes:
    """Looks at the hosts of a wave while it holds an order: what they do, and how long their leases last."""

    def __init__(self, engine: Engine, number: int, file: WaveFile) -> None:
        self._engine = engine
        self._number = number
        self._file = file
        self._before = {name: (file.answer(name, "order") or {}).get("status") for name in self._names()}
        self._answered = dict.fromkeys(self._names(), engine.clock())
        self._missed = dict.fromkeys(self._names(), 0)
        self._noted = 0.0
        self._settling = Settling(file, self._names(), engine.clock())
        self._cards: dict[str, hardware.Progress | None] = {}
        self._asked_wire = -ASK_S
        self._watched: Sighting | None = None
        self.judged = False
        self.seen: dict[str, Seen] = {}

    def _names(self) -> list[str]:
        return machine.taking_part(self._engine.state.wave(self._number))

    def look(self) -> float:
        """Ask every host once; extend leases that get short. Returns how long that took (seconds).

        :raises StopError: more hosts have failed than the plan allows.
        """
        engine, began = self._engine, self._engine.clock()
        names = self._names()
        sick: dict[str, str] = {}
        for reply in engine.fleet.ask(names, "status"):
            name, error = reply.host, reply.error
            settled = self._settling.look(name, reply.data, engine.clock())
            seen = machine.see(engine.plan.phase, self._before.get(name), reply.data, error, settled)
            if seen.reachable:
                self._answered[name], self._missed[name] = engine.clock(), 0
                wrong = seen.wrong or self._card(name, reply.data)
                if wrong:
                    sick[name] = f"{name}: {wrong}"
            else:
                # One question may be lost, and take all of that time, on a host that is only busy.
                self._missed[name] += 1
                silent = engine.clock() - self._answered[name]
                if silent >= machine.UNREACHABLE_S and self._missed[name] > 1:
                    sick[name] = f"{name} cannot be reached for {silent:.0f} s: {error}"
            self.seen[name] = seen
        spent = engine.clock() - began
        due = machine.gap(engine._planned(self._number), len(names), spent)
        sick.update(self._extend(due, [name for name in names if name not in sick]))
        self._note(sick)
        self._wire()
        if sick:
            engine._within_budget()
        return spent

    def _card(self, name: str, status: Mapping[str, Any] | None) -> str | None:
        """A card whose count stands still, although it did count before."""
        if self._engine.plan.phase != "hw":
            return None
        self._cards[name], why = hardware.follow(self._cards.get(name), status)
        return why

    def _wire(self) -> None:
        now = self._engine.clock()
        if now - self._asked_wire >= ASK_S:
            self._asked_wire = now
            self._watched = self._engine.watch_wire(self._number)

    def blind(self) -> bool:
        """Somebody has to watch the wire, and has not seen every host of the wave yet."""
        if self._engine.plan.hardware is None:
            return False
        self._wire()
        return self._watched is None or self._watched.sight == "blind"

    def _extend(self, gap_s: float, names: Sequence[str]) -> dict[str, str]:
        file = self._file
        short = machine.to_extend({n: self.seen[n] for n in names if n in self.seen}, file.lease_s, gap_s)
        refused: dict[str, str] = {}
        asked = {"id": file.id, "epoch": file.epoch, "lease_s": file.lease_s}
        for reply in self._engine.fleet.ask(short, "extend", **asked):
            # A host that is only not reached is tried again at the next look, while its lease lasts.
            if reply.data is None and reply.reached:
                refused[reply.host] = f"{reply.host}: its lease could not be extended: {reply.error}"
        return refused

    def _note(self, sick: Mapping[str, str]) -> None:
        """Into the journal, but not more often than views need it of a large wave."""
        engine = self._engine
        if not sick and engine.clock() - self._noted < min(60.0, 0.3 * len(self.seen)):
            return
        self._noted = engine.clock()
        hosts = {name: seen.as_dict() for name, seen in self.seen.items()}
        engine.write("observed", wave=self._number, hosts=hosts, **({"failed": dict(sick)} if sick else {}))

    def unsettled(self) -> bool:
        """A host still serves what was there before its order, or nobody has looked since: no byte of it counts yet."""
        hosts = self._engine.plan.hosts
        return any(
            hosts[name].datapath.kind != datapath_status.SIDECAR and not self._settling.settled(name)
            for name in self._names()
        )

    def doubtful(self) -> bool:
        """At the last look the gate could not have told for want of attributed bytes."""
        return machine.doubtful(self.seen, self._engine.plan.gates.min_share)

    def enough(self, planned: Wave) -> bool:
        """The traffic that the plan asks for was there, at the last look."""
        return bool(self.seen) and machine.enough(planned, self.seen, self._names())

    def judge(self, planned: Wave) -> Outcome:
        """What the judge says of the series of now."""
        engine, names = self._engine, self._names()
        self.judged = True
        series = engine.series(names)
        told = {one.host for one in series}
        silent = {name for name in names if "series" in engine.plan.hosts[name].datapath.unfed}
        if set(names) - told - silent:
            # One that has some and did not answer may do so at the next look.
            return "inconclusive"
        if not series:
            # Hosts that keep no series have nothing to wait for: the evidence says what there is.
            return "pass"
        verdict = judging.judge(engine.plan, planned, series, engine.others(self._number), {})
        # For those who watch; what single hosts say of themselves is in other looks.
        so_far = {**judging.as_fields(verdict), "hosts": {}}
        engine.write("observed", wave=self._number, hosts={}, interim=so_far)
        return verdict.outcome


class Settling:
    """When a host serves nothing any more of before its order, where its datapath cannot tell connections apart.

    Its bytes count from the first status that shows so: old processes have gone, and what ended before that has been
    judged, so that none of it is told later. What is found is kept beside the host's answers, for the judge.
    """

    def __init__(self, file: WaveFile, names: Sequence[str], now: float) -> None:
        self._file = file
        self._found = {name: (file.answer(name, "settled") or {}).get("status") for name in names}
        self._calm: dict[str, float] = {}
        for name in names:
            order = file.answer(name, "order") or {}
            if not datapath_status.of(order.get("status")).draining:
                self._calm[name] = float(order.get("at") or now)

    def settled(self, name: str) -> bool:
        """Its bytes count."""
        return self._found.get(name) is not None

    def look(self, name: str, status: Mapping[str, Any] | None, now: float) -> Mapping[str, Any] | None:
        """One more look; the status from which bytes count, None until there is one."""
        found = self._found.get(name)
        if found is not None or status is None:
            return found
        datapath = datapath_status.of(status)
        if datapath.is_sidecar:
            return None
        if datapath.draining:
            self._calm.pop(name, None)
            return None
        calm = self._calm.setdefault(name, now)
        told = moved.evidence(status)
        # An agent of before does not say what still waits.
        age_s = 0.0 if told is None else float(told.get("judged_age_s") or told.get("age_s") or 0.0)
        if now - calm <= age_s:
            return None
        self._found[name] = status
        with suppress(ControlError):
            self._file.record(name, "settled", {"ok": True, "status": status})
        return status


def _told(answer: Mapping[str, Any]) -> dict[str, Any]:
    """An answer as the event of its host has it."""
    found: dict[str, Any] = {"ok": bool(answer.get("ok"))}
    for key in ("error", "code", "ordered_at_s", "boot_id"):
        if answer.get(key) is not None:
            found[key] = answer[key]
    return found


def _without(keys: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {key: value for key, value in keys.items() if key not in names}


def _some(names: Sequence[str], most: int = 10) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more

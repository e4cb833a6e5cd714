# SPDX-License-Identifier: Apache-2.0
"""``ktls apply``; what steers a run (``pause``, ``resume``, ``promote``, ``abort``); what tells of runs."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .errors import ControlError

#: How long a verb waits for the engine to notice it (seconds). Hosts may be at work between two looks.
NOTICE_S = 10.0
_DEFAULT_INVENTORY = "inventory/lab"


def add_parsers(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verbs of a run."""
    apply = verbs.add_parser("apply", help="carry out a plan of `ktls plan`, wave by wave")
    apply.add_argument("plan", type=Path, metavar="PLAN", help="file that `ktls plan` wrote")
    apply.add_argument("-i", "--inventory", help="Ansible inventory (default: that of the plan)")
    apply.add_argument("--check", action="store_true", help="change nothing, show what every host would do")
    apply.add_argument("--clear-off", action="store_true", help="take down the off flag of an earlier `ktls off`")
    apply.add_argument("--json", action="store_true", help="one JSON object at the end")
    apply.add_argument("--notify", metavar="FILE", help="who is told by webhook, see docs/report.md (KTLS_NOTIFY)")
    apply.add_argument("--textfile", metavar="DIR", help="node_exporter's textfile directory (KTLS_TEXTFILE_DIR)")
    apply.set_defaults(func=_apply)

    run = argparse.ArgumentParser(add_help=False)
    run.add_argument("-i", "--inventory", help="Ansible inventory of the fleet (default: the only fleet with runs)")
    run.add_argument("--group", default="ktls_hosts", help="group of the inventory (default: %(default)s)")
    run.add_argument("--run", metavar="RUN", help="a run by its name (default: the newest)")
    run.add_argument("--json", action="store_true", help="one JSON object")

    for verb, text in (
        ("pause", "promote nothing more until `ktls resume`; hosts stay watched"),
        ("promote", "say yes where a run waits for a person"),
        ("abort", "take the open wave back and end the run; for good"),
    ):
        asking = verbs.add_parser(verb, parents=[run], help=text)
        asking.add_argument("--reason", default="", metavar="TEXT", help="kept in the journal")
        asking.set_defaults(func=_ask)
    resume = verbs.add_parser("resume", parents=[run], help="go on after a pause, or after the control process died")
    resume.add_argument("--notify", metavar="FILE", help="as of apply")
    resume.add_argument("--textfile", metavar="DIR", help="as of apply")
    resume.set_defaults(func=_resume)
    history = verbs.add_parser("history", parents=[run], help="every run of the fleet, or the events of one (--run)")
    history.set_defaults(func=_history)
    explain = verbs.add_parser("explain", parents=[run], help="what happened to one host, and why; asks no host")
    explain.add_argument("host", metavar="HOST")
    explain.set_defaults(func=_explain)


def _apply(arguments: argparse.Namespace) -> int:
    from .plan.file import load

    plan = load(arguments.plan)
    variables = {
        **plan.variables,
        "ktls_plan": str(arguments.plan.resolve()),
        "ktls_group": plan.group,
        "ktls_clear_off": arguments.clear_off,
    }
    return _drive(arguments, plan, arguments.inventory or plan.inventory, variables, check=arguments.check)


def _drive(
    arguments: argparse.Namespace, plan: Any, inventory: str, variables: dict[str, Any], *, check: bool = False
) -> int:
    """Run the playbook with a plan, and show it."""
    from .cli import _console, _log
    from .inventory import load
    from .notify.config import VARIABLE as NOTIFY
    from .observers import TEXTFILE_VARIABLE as TEXTFILE
    from .plan import datapaths
    from .playbook import PlaybookRun
    from .progress import RolloutProgress
    from .verbs import end, show_run

    load(inventory, plan.group)
    # Plain ansible-playbook is told by the same variables.
    for variable, given in ((NOTIFY, arguments.notify), (TEXTFILE, arguments.textfile)):
        if given:
            os.environ[variable] = str(Path(given).resolve())
    console = _console(stderr=arguments.json)
    place = inventory if "," in inventory else str(Path(inventory).resolve())
    run = PlaybookRun("rollout", place, variables, _log("apply"), None, check)
    phase = datapaths.phase_words(plan, plan.phase)
    progress = RolloutProgress(phase)
    where = show_run(run, console, progress)
    if arguments.json:
        why = progress.why or "; ".join(run.explain())
        outcome = progress.outcome or ("completed" if run.returncode == 0 else "failed")
        waves = {wave.number: {n: host.state for n, host in wave.hosts.items()} for wave in progress.waves}
        print(json.dumps({"run": where, "outcome": outcome, "why": why, "epoch": progress.epoch, "waves": waves}))
    code = end(run, console, f"every host of the plan is on {phase}" if not check else "nothing was changed")
    if code != 0 and not run.ended_itself:
        console.print("ktls: nobody drives this run now: `ktls resume` goes on with it", markup=False)
    return code


def _ask(arguments: argparse.Namespace) -> int:
    from .rollout import control
    from .rollout.begin import ended
    from .rollout.lock import held

    verb, run = arguments.verb, _run(arguments)
    if ended(run):
        raise ControlError("run_ended", f"run {run.name} has ended: `ktls history --run {run.name}` tells how")
    state = _state(run)
    wave = next((wave for wave in state.waves if wave.waiting in ("approval", "inconclusive")), None)
    if verb == "promote" and wave is None:
        raise ControlError(
            "not_waiting", f"run {run.name} waits for nobody: {_standing(state)}; `ktls promote` when it waits"
        )
    if verb == "promote" and (control.look(run.control).stop or state.aborting):
        raise ControlError("aborting", f"run {run.name} is aborted ({state.aborting or 'just now'}): abort holds")
    before = state.events
    control.ask(run.control, verb, by=control.operator(), why=arguments.reason, wave=wave.number if wave else 0)
    if not held(run.fleet.lock):
        raise ControlError(
            "engine_dead", f"{verb}: noted, but nobody drives run {run.name}: `ktls resume` does, and obeys it"
        )
    wanted: dict[str, Callable[[dict[str, Any]], bool]] = {
        "pause": lambda event: event["event"] == "control" and event["verb"] == "pause",
        "promote": lambda event: event["event"] in ("waited", "wave_reverting"),
        "abort": lambda event: event["event"] == "run_ended",
    }
    seen = _await(run, before, wanted[verb], 60.0 if verb == "abort" else NOTICE_S)
    after = _state(run)
    said = {
        "pause": "nothing more is promoted until `ktls resume`",
        "promote": "it goes on",
        "abort": f"it has ended, {after.outcome}: {after.why}",
    }[verb]
    if verb == "promote" and seen and seen["event"] != "waited":
        raise ControlError("aborting", f"promote: run {run.name} goes back instead: {seen['why']}")
    text = said if seen else "asked; it will be obeyed as soon as the hosts at work have answered"
    return _say(arguments, {"run": run.name, "verb": verb, "noticed": seen is not None, "text": text})


def _resume(arguments: argparse.Namespace) -> int:
    from .plan.file import load
    from .rollout import control
    from .rollout.begin import ended
    from .rollout.lock import held, said

    run = _run(arguments)
    if ended(run):
        raise ControlError("run_ended", f"run {run.name} has ended: nothing is left of it to resume; plan again")
    state = _state(run)
    paused = control.look(run.control).pause is not None
    control.ask(run.control, "resume", by=control.operator())
    if held(run.fleet.lock):
        holder = said(run.fleet.lock)
        if holder.get("run") not in (run.name, "starting"):
            raise ControlError(
                "locked", f"run {holder.get('run')} of {holder.get('operator')} is under way: not this one"
            )
        if not paused:
            text = f"it is under way and not paused (pid {holder.get('pid')}): {_standing(state)}"
            return _say(arguments, {"run": run.name, "verb": "resume", "noticed": True, "text": text})
        seen = _await(
            run, state.events, lambda event: event["event"] == "control" and event["verb"] == "resume", NOTICE_S
        )
        text = "it goes on" if seen else "asked; it goes on as soon as the hosts at work have answered"
        return _say(arguments, {"run": run.name, "verb": "resume", "noticed": seen is not None, "text": text})
    plan = load(run.plan)
    variables = {**plan.variables, "ktls_plan": str(run.plan.resolve()), "ktls_group": plan.group}
    return _drive(arguments, plan, arguments.inventory or plan.inventory, variables)


def _history(arguments: argparse.Namespace) -> int:
    from .rollout import journal

    if arguments.run:
        run = _run(arguments)
        events = journal.read(run.journal)
        if arguments.json:
            print(json.dumps({"run": run.name, "events": events}))
        else:
            for event in events:
                print(_event_line(event))
        return 0
    found = [_summary(fleet.name, run) for fleet in _fleets(arguments) for run in fleet.runs()]
    if arguments.json:
        print(json.dumps({"runs": found}))
    elif not found:
        print("nothing was ever rolled out from here: start with `ktls plan` and `ktls apply PLAN`")
    else:
        _table(found)
    return 0


def _table(found: list[dict[str, Any]]) -> None:
    from rich.table import Table

    from .cli import _console

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("RUN", "STARTED (UTC)", "PHASE", "EPOCH", "BY", "WAVES", "OUTCOME"):
        table.add_column(title, no_wrap=title != "OUTCOME")
    for one in found:
        if "error" in one:
            table.add_row(one["run"], "", "", "", "", "", one["error"])
            continue
        began = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(one["started"]))
        waves = f"{one['promoted']}/{one['waves']}"
        outcome = one["outcome"] + (f": {one['why']}" if one["why"] else "")
        table.add_row(one["run"], began, one["means"], str(one["epoch"]), one["operator"], waves, outcome)
    _console().print(table)


def _summary(fleet: str, run: Any) -> dict[str, Any]:
    from .rollout.lock import held, said

    try:
        state = _state(run)
    except ControlError as error:
        return {"fleet": fleet, "run": run.name, "error": error.message, "code": error.code}
    alive = held(run.fleet.lock) and said(run.fleet.lock).get("run") == run.name
    outcome = state.outcome
    if outcome == "running" and not alive:
        outcome = "nobody drives it (`ktls resume`)"
    return {
        "fleet": fleet,
        "run": run.name,
        "started": state.started,
        "ended": state.ended,
        "phase": state.phase,
        "means": state.shown_phase,
        "epoch": state.epoch,
        "operator": state.operator,
        "promoted": sum(wave.state == "promoted" for wave in state.waves),
        "waves": len(state.waves),
        "hosts": sum(len(wave.hosts) for wave in state.waves),
        "outcome": outcome,
        "why": state.why,
    }


def _explain(arguments: argparse.Namespace) -> int:
    from .plan.file import load

    run, name = _run(arguments), arguments.host
    plan = load(run.plan)
    if name in plan.refused:
        why = [{"code": one.code, "message": one.message, "cure": one.cure} for one in plan.refused[name]]
        found: dict[str, Any] = {"host": name, "run": run.name, "state": "refused", "refusals": why}
        lines = [f"{name} is in no wave of run {run.name}:"]
        lines += [f"  {one['message']} ({one['code']}); cure: {one['cure']}" for one in why]
    elif name not in plan.hosts:
        raise ControlError("unknown_host", f"{name}: plan {plan.id} of run {run.name} says nothing of it")
    else:
        found, lines = _told(run, plan, name)
    if arguments.json:
        print(json.dumps(found))
    else:
        print("\n".join(lines))
    return 0


def _told(run: Any, plan: Any, name: str) -> tuple[dict[str, Any], list[str]]:
    from .plan import datapaths
    from .rollout import journal
    from .rollout.state import fold
    from .view import cards

    events = journal.read(run.journal)
    state = fold(events)
    wave = next(wave for wave in state.waves if name in wave.hosts)
    host = wave.hosts[name]
    verdict = wave.verdicts[-1] if wave.verdicts else None
    own = [event for event in events if event.get("host") == name]
    rechecks = [
        (event["at"], event["recheck"][name])
        for event in events
        if event["event"] == "verdict" and name in (event.get("recheck") or {})
    ]
    found: dict[str, Any] = {
        "host": name,
        "run": run.name,
        "run_outcome": state.outcome,
        "wave": wave.number,
        "wave_state": wave.state,
        "state": host.state,
        "info": host.info,
        "facts": dict(plan.hosts[name].facts),
        "datapath": asdict(plan.hosts[name].datapath),
        "means": datapaths.phase_of(plan, name, state.phase),
        "seen": host.seen,
        "sentinel": wave.sentinel or None,
        "fleet_off": state.fleet_off,
        "verdict": verdict,
        "events": own,
        "rechecks": [{"at": at, "why": why} for at, why in rechecks],
    }
    lines = [
        f"{name}: {host.state}" + (f" ({host.info})" if host.info else ""),
        f"  run {run.name}: {state.outcome}" + (f": {state.why}" if state.why else ""),
        f"  wave {wave.number} ({wave.name}) of {len(state.waves)}: {wave.state}, attempt {wave.attempt}",
        f"  planned as: {', '.join(f'{key} {value}' for key, value in found['facts'].items()) or 'unknown'}",
    ]
    served = plan.hosts[name].datapath
    if served.kind != "sidecar":
        lines.append(f"  served by: {datapaths.title(served)} ({served.program or 'version unknown'})")
        if found["means"] != state.phase:
            lines.append(f"  phase {state.phase} is {found['means']} here: both directions are in the kernel")
        lines += [f"  no gate hears of its {datapaths.WORDS[what]}" for what in served.unfed]
    if wave.sentinel:
        lines.append(f"  sentinel, {_clock(wave.sentinel['at'])}: {wave.sentinel['sight']}: {wave.sentinel['why']}")
    if state.fleet_off:
        said = state.fleet_off["hosts"].get(name) or {"off": False, "error": "not among the hosts that were asked"}
        how = "switched off" if said["off"] else f"NOT switched off: {said.get('error')}"
        lines.append(f"  {how}, with the whole fleet: {state.fleet_off['why']}")
    card = host.seen.get("hw")
    if card:
        lines.append(f"  card: {', '.join(cards.chips(card))}")
    if verdict:
        own_words = (verdict.get("hosts") or {}).get(name)
        lines.append(f"  gate of its wave, {_clock(verdict['at'])}: {verdict['outcome']}")
        lines += [f"    {reason}" for reason in (own_words or verdict.get("reasons") or ["nothing against it"])]
        lines += [f"    {_metric(metric)}" for metric in verdict.get("metrics") or ()]
    lines += [f"  looked at again {_clock(at)}: {why}" for at, why in rechecks]
    lines += [f"  {_event_line(event)}" for event in own]
    return found, lines


def _metric(metric: dict[str, Any]) -> str:
    def share(value: float | None) -> str:
        return "?" if value is None else f"{value:+.1%}"

    return (
        f"{metric['name']}: {metric['outcome']}, {share(metric['effect'])} "
        f"[{share(metric['low'])}, {share(metric['high'])}], margin {metric['margin']:.1%}, "
        f"{metric['test']}, n={metric['n']}"
    )


def _event_line(event: dict[str, Any]) -> str:
    hidden = ("seq", "at", "event", "prev", "sha256")
    rest = " ".join(f"{key}={_short(value)}" for key, value in event.items() if key not in hidden)
    return f"{_clock(event['at'])} {event['event']} {rest}".rstrip()


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return text if len(text) <= 200 else f"{text[:200]}..."


def _clock(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(at))


# Finding runs


def _fleets(arguments: argparse.Namespace) -> list[Any]:
    from .rollout import store

    if arguments.inventory:
        return [store.fleet(arguments.inventory, arguments.group)]
    default = store.fleet(_DEFAULT_INVENTORY, arguments.group)
    return [default] if default.runs() else store.fleets()


def _run(arguments: argparse.Namespace) -> Any:
    from .rollout import store

    if arguments.run and "/" in arguments.run:
        return store.Run(Path(arguments.run))
    if arguments.run:
        return store.find(arguments.run)
    fleets = _fleets(arguments)
    if len(fleets) != 1:
        raise ControlError(
            "no_run" if not fleets else "which_fleet",
            "nothing was ever rolled out from here: start with `ktls plan` and `ktls apply PLAN`"
            if not fleets
            else f"there are runs of {len(fleets)} fleets: name one with -i INVENTORY or --run RUN",
        )
    return fleets[0].newest()


def _state(run: Any) -> Any:
    from .rollout import journal
    from .rollout.state import fold

    return fold(journal.read(run.journal))


def _standing(state: Any) -> str:
    wave = next((wave for wave in state.waves if wave.state not in ("promoted", "waiting")), None)
    if wave is None:
        return "between two waves"
    return f"wave {wave.number} is {wave.waiting or wave.state}"


def _await(run: Any, after: int, wanted: Callable[[dict[str, Any]], bool], within_s: float) -> dict[str, Any] | None:
    """The first event behind number ``after`` that is wanted; None when none came in time or nobody can write it."""
    from .rollout import journal
    from .rollout.lock import held

    deadline = time.monotonic() + within_s
    while True:
        alive = held(run.fleet.lock)
        for event in journal.read(run.journal)[after:]:
            if wanted(event):
                return event
        if not alive or time.monotonic() >= deadline:
            return None
        time.sleep(0.1)


def _say(arguments: argparse.Namespace, found: dict[str, Any]) -> int:
    if arguments.json:
        print(json.dumps(found))
    else:
        print(f"{found['verb']}: run {found['run']}: {found['text']}")
    sys.stdout.flush()
    return 0

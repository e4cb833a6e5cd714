# SPDX-License-Identifier: Apache-2.0
"""The whole story on a lab: deploy, roll out under load, off, and a report of what was read back."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from ktls_lab import api as lab_api
from ktls_lab import content

from . import files, report, timeline, witness
from .clients import Clients, Tally, Target
from .errors import ControlError
from .fleet import OffResult, read_status, switch_off
from .inventory import Host, load
from .progress import RolloutProgress
from .sampler import Sampler
from .screen import status_table
from .timeline import Mark
from .tree import find
from .verbs import deploy, rollout

LAB = "demo"
PORT = 8443
#: Smallest share of bytes that has to be kTLS while every host is on ``tx``.
MIN_SHARE = 0.99
#: How long the fleet is watched: before the rollout, with all on kTLS, and after off (seconds).
BASELINE_S, STEADY_S, AFTER_S = 6.0, 8.0, 6.0


@dataclass(frozen=True)
class Claim:
    """One thing the demonstration says, whether it holds, and what was read to know."""

    claim: str
    ok: bool
    read: str


@dataclass
class Story:
    """Everything that was seen on the way; :func:`claims` and :func:`summarise` read it."""

    hosts: list[Host]
    started: float
    progress: RolloutProgress
    rolled_out: bool = False
    off_at: float = 0.0
    off: list[OffResult] = field(default_factory=list)
    tallies: Mapping[str, Tally] = field(default_factory=dict)
    steady: list[dict[str, Any]] = field(default_factory=list)
    final: dict[str, Any] = field(default_factory=dict)
    seen_on: Mapping[str, witness.Witness | None] = field(default_factory=dict)
    seen_off: Mapping[str, witness.Witness | None] = field(default_factory=dict)


def run(output: Path, count: int, console: Console) -> int:
    """Boot a lab of ``count`` hosts, tell the story, take the lab down.

    :returns: 0 only if every claim was read back from the hosts.
    """

    def step(text: str) -> None:
        console.print(f"[bold]▸[/bold] {text}" if console.is_terminal else f"== {text}", highlight=False)

    began = time.monotonic()
    # A demonstration is no run of the operator's fleets.
    os.environ.setdefault("KTLS_STATE_DIR", str((output / "state").resolve()))
    step(f"boot {count} hosts")
    with_lab = _boot(count, console)
    try:
        inventory = write_inventory(with_lab.inventory(), output / "inventory.json")
        hosts = load(str(inventory))
        console.print(f"  {', '.join(host.name for host in hosts)} answer after {time.monotonic() - began:.0f} s")
        story, samples = _tell(hosts, inventory, output, console, step)
        machine = with_lab.accelerator
    finally:
        step("take the lab down")
        with_lab.down()
    found = claims(story)
    origin, series = timeline.build(samples, step_s=2.0)
    summary = summarise(story, found, f"QEMU, {machine}")
    summary["duration_s"] = round(time.monotonic() - began, 1)
    files.write(output / "summary.json", json.dumps(summary, indent=2) + "\n")
    files.write(output / "report.html", report.render(summary, series, marks(story, origin)))
    for claim in found:
        sign = "[green]✔[/green]" if claim.ok else "[red]✘[/red]"
        console.print(f"  {sign} {claim.claim}: {claim.read}", highlight=False, soft_wrap=True)
    console.print(f"report:  {output / 'report.html'}\nsummary: {output / 'summary.json'}", highlight=False)
    if not summary["ok"]:
        console.print("demo: not every claim holds", style="red")
    return 0 if summary["ok"] else 1


def _boot(count: int, console: Console) -> lab_api.Lab:
    def say(line: str) -> None:
        console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)

    try:
        return lab_api.up(name=LAB, hosts=count, say=say)
    except lab_api.LabError as error:
        raise ControlError("lab", str(error)) from error


def _tell(
    hosts: list[Host], inventory: Path, output: Path, console: Console, step: Callable[[str], None]
) -> tuple[Story, list[Any]]:
    story = Story(hosts, time.time(), RolloutProgress("tx"))
    step("deploy agent and sidecar; everything serves in userspace TLS")
    if deploy(str(inventory), "ktls_hosts", None, console, output / "deploy.log") != 0:
        raise ControlError("deploy_failed", f"the lab could not be deployed; see {output / 'deploy.log'}")
    sampler, clients = Sampler(hosts), Clients([target(host) for host in hosts])
    sampler.start()
    clients.start()
    try:
        step("clients download from every host, and check every byte")
        time.sleep(BASELINE_S)
        step("roll kTLS transmit out: one canary, then the rest")
        waves = find().directory / "lab" / "demo-waves.yml"
        code = rollout(
            str(inventory),
            "ktls_hosts",
            None,
            "tx",
            console,
            output / "rollout.log",
            variables={"ktls_waves_file": str(waves)},
            progress=story.progress,
        )
        story.rolled_out = code == 0
        story.steady.append(read_status(hosts))
        console.print(status_table(story.steady[0]))
        time.sleep(STEADY_S)
        story.seen_on = witness.read(hosts, PORT)
        story.steady.append(read_status(hosts))
        step("off, with the one flag, while downloads run")
        story.off_at = time.time()
        story.off = switch_off(hosts, reason="end of the demo")
        for result in story.off:
            console.print(f"  {result.host}: {_off_text(result)}", highlight=False)
        time.sleep(AFTER_S)
        story.seen_off = witness.read(hosts, PORT)
        story.final = read_status(hosts)
    finally:
        clients.stop()
        samples = sampler.stop()
    story.tallies = clients.tallies
    return story, samples


def claims(story: Story) -> list[Claim]:
    """What the demonstration says, each with the reading behind it. Pure."""
    names = [host.name for host in story.hosts]
    waves = [f"{len(wave.hosts)} {wave.outcome}" for wave in story.progress.waves]
    found = [
        Claim(
            "the canary passed its gate, then the rest",
            story.rolled_out and len(waves) == 2 and len(story.progress.waves[0].hosts) == 1,
            f"waves: {', '.join(waves) or 'none'}",
        )
    ]
    committed = [name for name in names if _entry(story.steady, name).get("order") == "committed"]
    found.append(Claim("every host is on tx", committed == names, f"committed: {', '.join(committed) or 'none'}"))
    shares = {name: _steady_share(story, name) for name in names}
    low = min((share if share is not None else -1.0) for share in shares.values())
    found.append(
        Claim(
            f"at least {MIN_SHARE:.0%} of the bytes went through kTLS transmit on every host",
            low >= MIN_SHARE,
            ", ".join(f"{name} {_percent(share)}" for name, share in shares.items()),
        )
    )
    on = [story.seen_on.get(name) for name in names]
    found.append(
        Claim(
            "ss and tls_stat agree: the kernel transmits, and receives nothing",
            all(seen and seen.tls_stat.get("TlsTxSw", 0) > 0 and seen.ktls_rx == 0 for seen in on)
            and any(seen and seen.ktls_tx > 0 for seen in on)
            and all(seen and seen.tls_stat.get("TlsRxSw", 0) == 0 for seen in on),
            "; ".join(_witnessed(name, story.seen_on.get(name)) for name in names),
        )
    )
    bad = sum(tally.mismatches + len(tally.failures) for tally in story.tallies.values())
    done = sum(tally.downloads for tally in story.tallies.values())
    found.append(
        Claim(
            "every download was complete and right, through every switch",
            bad == 0 and all(tally.downloads for tally in story.tallies.values()) and len(story.tallies) == len(names),
            f"{done} downloads, {bad} wrong or failed",
        )
    )
    found.append(
        Claim(
            "off took every host back to userspace TLS",
            len(story.off) == len(names)
            and all(result.ok and result.left == 0 for result in story.off)
            and all(story.final["hosts"][name].get("phase") == "userspace" for name in names),
            ", ".join(f"{result.host}: {_off_text(result)}" for result in story.off),
        )
    )
    found.append(
        Claim(
            "ss and tls_stat agree: no kTLS connection is left",
            all(
                seen and seen.ktls_tx == 0 and seen.tls_stat.get("TlsCurrTxSw") == 0
                for seen in (story.seen_off.get(name) for name in names)
            ),
            "; ".join(_witnessed(name, story.seen_off.get(name)) for name in names),
        )
    )
    return found


def summarise(story: Story, found: list[Claim], machine: str) -> dict[str, Any]:
    """The run as plain data, for ``summary.json``. Pure."""
    wave_of = {name: wave.number for wave in story.progress.waves for name in wave.hosts}
    hosts = {}
    for host in story.hosts:
        entry, tally = _entry(story.steady, host.name), story.tallies.get(host.name, Tally())
        gate = story.progress.verdicts.get(host.name, {})
        share = _steady_share(story, host.name)
        facts = entry.get("host") or {}
        hosts[host.name] = {
            "kernel": facts.get("kernel"),
            "openssl": facts.get("openssl"),
            "wave": wave_of.get(host.name),
            "phase_reached": entry.get("phase"),
            "order": entry.get("order"),
            "epoch": entry.get("epoch"),
            "ktls_tx_percent": None if share is None else int(share * 10000) / 100,
            "bytes_judged": gate.get("bytes_total", 0),
            "gate": gate.get("outcome", "not reached"),
            "tls_stat": entry.get("tls_stat"),
            "witness_on": witness.as_dict(story.seen_on.get(host.name)),
            "witness_off": witness.as_dict(story.seen_off.get(host.name)),
            "content": {**asdict(tally), "ok": bool(tally.downloads) and not (tally.mismatches or tally.failures)},
        }
    everywhere = [_steady_bytes(story, host.name) for host in story.hosts]
    total = sum(sum(moved.values()) for moved in everywhere)
    through = sum(moved.get("ktls_tx", 0) for moved in everywhere)
    return {
        "schema": 1,
        "ok": all(claim.ok for claim in found),
        "started": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(story.started)),
        "phase": "tx",
        "machine": machine,
        "ktls_tx_percent": int(through / total * 10000) / 100 if total else None,
        "hosts": hosts,
        "clients": {
            "downloads": sum(tally.downloads for tally in story.tallies.values()),
            "bytes": sum(tally.bytes for tally in story.tallies.values()),
            "mismatches": sum(tally.mismatches for tally in story.tallies.values()),
            "failures": sum(len(tally.failures) for tally in story.tallies.values()),
        },
        "off": {
            "hosts": [asdict(result) for result in story.off],
            "last_new_s": _worst([result.last_new_s for result in story.off]),
            "none_left_s": _worst([result.none_left_s for result in story.off]),
        },
        "claims": [asdict(claim) for claim in found],
        "note": "Speed under software emulation says nothing about real hosts: emulated AES dominates it."
        if "tcg" in machine.lower()
        else "",
    }


def marks(story: Story, origin: float) -> list[Mark]:
    """Waves and off, in seconds since the first sample."""
    drawn = [
        Mark(f"wave {wave.number}", wave.started - origin, (wave.ended or story.off_at) - origin, "wave")
        for wave in story.progress.waves
    ]
    return [*drawn, Mark("off", story.off_at - origin, None, "off")] if story.off_at else drawn


def write_inventory(data: Mapping[str, Any], path: Path) -> Path:
    """Keep the lab's inventory as a static YAML (JSON is YAML) file, readable after the lab is gone."""
    hostvars = data["_meta"]["hostvars"]
    groups = {
        group: {"hosts": {name: hostvars.get(name, {}) for name in entry["hosts"]}}
        for group, entry in data.items()
        if isinstance(entry, dict) and "hosts" in entry
    }
    path = path.with_suffix(".yml")
    files.write(path, json.dumps({"all": {"children": groups}}, indent=2) + "\n")
    return path.resolve()


def target(host: Host) -> Target:
    """Where clients on the control node reach a lab host."""
    return Target(
        name=host.name,
        server_name=str(host.vars["ktls_sidecar_server_name"]),
        port=PORT,
        forwarded_port=int(str(host.vars["ktls_probe_url"]).rsplit(":", 1)[1]),
        ca_file=Path(str(host.vars["ktls_sidecar_ca_dir"])) / "ca.pem",
        manifest=content.manifest(),
    )


def _entry(readings: list[dict[str, Any]], name: str) -> dict[str, Any]:
    entry: dict[str, Any] = readings[-1]["hosts"].get(name, {}) if readings else {}
    return entry


def _steady_bytes(story: Story, name: str) -> dict[str, int]:
    """Bytes by path while every host was on ``tx``; empty when a reading is missing."""
    if len(story.steady) != 2:
        return {}
    first, last = (reading["hosts"].get(name, {}).get("bytes") for reading in story.steady)
    return {path: last[path] - first.get(path, 0) for path in last} if first and last else {}


def _steady_share(story: Story, name: str) -> float | None:
    moved = _steady_bytes(story, name)
    total = sum(moved.values())
    return moved.get("ktls_tx", 0) / total if total > 0 else None


def _worst(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(max(known), 2) if known and len(known) == len(values) else None


def _percent(share: float | None) -> str:
    return "no traffic" if share is None else f"{int(share * 10000) / 100:.2f} %"


def _off_text(result: OffResult) -> str:
    if not result.ok or result.last_new_s is None:
        return f"not confirmed: {result.error or 'kTLS still in force'}"
    if result.none_left_s is None:
        return f"last new {result.last_new_s:.1f} s, {result.left} still open"
    return f"last new {result.last_new_s:.1f} s, none left {result.none_left_s:.1f} s"


def _witnessed(name: str, seen: witness.Witness | None) -> str:
    if seen is None:
        return f"{name} not read"
    return (
        f"{name} tx {seen.ktls_tx} rx {seen.ktls_rx} other {seen.others}, "
        f"TlsCurrTxSw {seen.tls_stat.get('TlsCurrTxSw', '?')} TlsTxSw {seen.tls_stat.get('TlsTxSw', '?')}"
    )

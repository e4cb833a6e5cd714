# SPDX-License-Identifier: Apache-2.0
"""The status of the agent for people. Pure."""

from __future__ import annotations

from typing import Any

from .pull import words as pull_words


def render(status: dict[str, Any]) -> str:
    """Return the status for people, a few short lines."""
    host, off, probe = status["host"], status["off"], status.get("probe")
    phase = "not known" if status["sidecar"] is None else status["phase"]
    lines = [f"{host['name']}: phase {phase}, order {status['order']}{_order_words(status)}"]
    if off["flag"]:
        age = "" if off["age_s"] is None else f" for {off['age_s']:.0f} s"
        lines.append(f"  off: latched{age} ({off['reason'] or 'no reason given'}); `ktls-agent clear` as root ends it")
    if status.get("lapsed"):
        lines.append("  lapsed: an order was taken back unconfirmed; userspace until the next order")
    failed = [step for step in status.get("revert", ()) if step["result"] == "failed"]
    lines.extend(f"  revert: {step['step']} FAILED: {step['detail']}" for step in failed)
    connections, volume, sockets = status["connections"], status["bytes"], status["sockets"]
    total = volume["ktls_tx"] + volume["userspace"]
    share = f", {100 * volume['ktls_tx'] / total:.1f} % of {total} bytes by kTLS" if total else ""
    kinds = f"{connections['ktls_tx']} kTLS and {connections.get('userspace', 'unknown')} userspace connections"
    datapath = status.get("datapath") or {}
    name = datapath.get("kind", "sidecar")
    lines.append(f"  {name}: {kinds}{share}")
    if status["sidecar_error"]:
        lines[-1] = f"  {name}: NOT REACHED: {status['sidecar_error']}"
    draining = datapath.get("draining")
    if draining and draining["processes"]:
        lines.append(f"  draining: {draining['processes']} processes by an earlier configuration")
    if sockets:
        lines.append(
            f"  kernel: {sockets['ktls_tx']} sockets with kTLS transmit, {sockets['ktls_rx']} with receive,"
            f" {sockets['userspace']} without"
        )
    else:
        lines.append(f"  kernel: sockets not known: {status.get('sockets_error')}")
    if probe:
        what = "ok" if probe["ok"] else f"FAILED: {probe['error']}"
        path = {True: "kTLS", False: "userspace", None: "path unknown"}[probe["ktls_tx"]]
        lines.append(f"  probe: {what} ({path}, {probe['protocol']} {probe['cipher']}, {probe['at_age_s']:.0f} s ago)")
    guards = status.get("guards") or {}
    blind = [name for name, rule in (guards.get("rules") or {}).items() if rule["state"] == "blind"]
    if guards.get("armed"):
        words = f"BLIND: {', '.join(blind)}" if blind else "all see"
        lines.append(f"  guards: armed{', dry run' if guards['dry_run'] else ''}, {words}")
    lines.extend(pull_words.lines(status.get("pull")))
    lines.extend(f"  PROBLEM: {problem}" for problem in status.get("problems", ()))
    return "\n".join(lines)


def _order_words(status: dict[str, Any]) -> str:
    words = ""
    if status["order_id"]:
        words += f" ({status['order_id']}, {status['ordered_phase']}, epoch {status['epoch']})"
    experiment = status.get("experiment")
    if experiment and experiment["state"] == "running":
        words += f", {experiment['method']}: {100 * experiment['share']:g} % of new connections take it now"
    if status["lease_left_s"] is not None:
        words += f", reverts in {status['lease_left_s']:.0f} s unless confirmed"
    if status["order"] in ("reverted", "stuck"):
        words += f": {status['revert_reason']}"
    return words

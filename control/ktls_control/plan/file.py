# SPDX-License-Identifier: Apache-2.0
"""Plans as files: YAML that people read, with a digest that shows whether somebody changed it.

Ansible spends about 0.1 ms on every scalar of a variables file, so a host is a line of a table and no mapping: a
plan of 10,000 hosts takes it some tenths of a second instead of ten. Form of the table::

    hosts:
      columns: name class cpus busy        # class: place in the list of classes, from 0; - is unknown
      table: |
        web1 0 8 0.41
    refused:
    - hosts: web7 web9                     # all that are refused for the same reasons
      reasons: [{code: ..., message: ..., cure: ...}]
    waves:
    - hosts: web1 web2                     # in the order in which they are asked
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from ..errors import ControlError
from ..files import write
from ..preflight_names import natural
from .model import Freeze, Gates, Hardware, Headroom, HostDatapath, Plan, PlannedHost, Refusal, Soak, Wave

VERSION = 1
#: The one key of the file: ``ansible-playbook playbooks/rollout.yml -e @PLAN`` so gets one variable.
KEY = "ktls_plan"
_COLUMNS = "name class cpus busy"
_UNKNOWN = "-"


def digest(plan: Plan) -> str:
    """SHA-256 (hex) over the canonical JSON (sorted keys, no spaces) of the file's fields but ``sha256``."""
    return _digest(to_fields(plan))


def _digest(given: Mapping[str, Any]) -> str:
    signed = {key: value for key, value in given.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(signed, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def seal(plan: Plan) -> Plan:
    """The same plan with its digest."""
    return replace(plan, sha256=digest(plan))


def save(plan: Plan, path: Path) -> Plan:
    """Write a sealed plan whole; what was written is returned.

    :raises ControlError: ``bad_output`` when the file cannot be written.
    """
    # Not at the top: Ansible's plugins read plans, and have no use for what pages are drawn with.
    from .yamlform import dump

    plan = seal(plan)
    head = (
        f"# ktls plan {plan.id}: phase {plan.phase}, {len(plan.hosts)} hosts, {len(plan.waves)} waves. "
        "Do not edit: make a new one with `ktls plan`.\n"
    )
    try:
        write(path, head + dump({KEY: to_fields(plan)}))
    except OSError as error:
        raise ControlError("bad_output", f"{path}: {error.strerror}; name another file with -o") from error
    return plan


def load(path: Path) -> Plan:
    """:raises ControlError: ``no_plan``, ``bad_plan``, ``plan_version`` or ``plan_edited``."""
    from .yamlform import parse

    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ControlError("no_plan", f"{path}: {error.strerror}; make one with `ktls plan -o {path}`") from error
    except UnicodeDecodeError as error:
        raise ControlError("bad_plan", f"{path}: not a plan: not UTF-8 text; make one with `ktls plan`") from error
    data = parse(text, str(path))
    if not isinstance(data, dict) or not isinstance(data.get(KEY), dict):
        raise ControlError("bad_plan", f"{path}: not a plan: it has no {KEY}; make one with `ktls plan`")
    return from_fields(data[KEY], str(path))


def to_fields(plan: Plan) -> dict[str, Any]:
    """The plan as the file has it: plain JSON types. The same plan gives the same fields, whatever its order.

    :raises ControlError: ``bad_host_name`` for a name that the table cannot hold.
    """
    for name in (*plan.hosts, *plan.refused):
        if name.split() != [name]:
            raise ControlError("bad_host_name", f"{name!r}: a host name with blanks cannot be planned; rename it")
    given: dict[str, Any] = {item.name: getattr(plan, item.name) for item in fields(plan)}
    classes, rows = _table(plan.hosts)
    given["classes"] = classes
    given["hosts"] = {"columns": _COLUMNS, "table": rows}
    given["refused"] = _refused(plan.refused)
    given["waves"] = [{**asdict(wave), "hosts": " ".join(wave.hosts)} for wave in plan.waves]
    given["gates"], given["headroom"] = asdict(plan.gates), asdict(plan.headroom)
    given["freezes"] = [asdict(freeze) for freeze in plan.freezes]
    if plan.hardware is None:
        del given["hardware"]
    else:
        given["hardware"] = asdict(plan.hardware)
    order = [key for key in given if key not in ("classes", "hosts", "refused", "sha256")]
    plain = {key: given[key] for key in (*order, "classes", "hosts", "refused", "sha256")}
    return dict(json.loads(json.dumps(plain)))


def _table(hosts: Mapping[str, PlannedHost]) -> tuple[list[dict[str, Any]], str]:
    classes: dict[str, int] = {}
    rows = []
    for name in sorted(hosts, key=natural):
        host = hosts[name]
        cards = {"cards": dict(host.cards), "consent": host.consent} if host.cards else {}
        served = {} if host.datapath == HostDatapath() else {"datapath": asdict(host.datapath)}
        kind = json.dumps({"facts": dict(host.facts), "labels": dict(host.labels), **cards, **served}, sort_keys=True)
        place = classes.setdefault(kind, len(classes))
        rows.append(f"{name} {place} {_cell(host.cpus)} {_cell(host.busy)}\n")
    return [json.loads(kind) for kind in classes], "".join(rows)


def _cell(value: float | None) -> str:
    return _UNKNOWN if value is None else repr(value)


def _refused(refused: Mapping[str, Sequence[Refusal]]) -> list[dict[str, Any]]:
    groups: dict[tuple[Refusal, ...], list[str]] = {}
    for name in sorted(refused, key=natural):
        groups.setdefault(tuple(refused[name]), []).append(name)
    return [
        {"hosts": " ".join(names), "reasons": [asdict(why) for why in reasons]} for reasons, names in groups.items()
    ]


def from_fields(given: Mapping[str, Any], where: str) -> Plan:
    """The plan that ``given`` describes, its digest checked.

    :param given: the file's fields, as Ansible has them too in variable ``ktls_plan``.
    :param where: name for messages.
    :raises ControlError: ``bad_plan``, ``plan_version`` or ``plan_edited``.
    """
    if given.get("version") != VERSION:
        raise ControlError(
            "plan_version", f"{where}: plan version {given.get('version')!r}, this release reads {VERSION}: plan again"
        )
    try:
        well = _digest(given) == given.get("sha256")
    except (TypeError, ValueError):
        # YAML can hold what JSON cannot (a date, say): nothing that we wrote.
        well = False
    if not well:
        raise ControlError(
            "plan_edited", f"{where}: it is not what `ktls plan` wrote: make a new plan, do not edit one"
        )
    try:
        return _plan(given)
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        raise ControlError("bad_plan", f"{where}: not a plan of this release ({error}): plan again") from error


def _plan(given: Mapping[str, Any]) -> Plan:
    plain = {key: value for key, value in given.items() if key != "classes"}
    return Plan(
        **{
            **plain,
            "hosts": _hosts(given["classes"], given["hosts"]["table"]),
            "refused": {
                name: tuple(Refusal(**one) for one in group["reasons"])
                for group in given["refused"]
                for name in group["hosts"].split()
            },
            "waves": tuple(
                Wave(**{**wave, "hosts": tuple(wave["hosts"].split()), "soak": Soak(**wave["soak"])})
                for wave in given["waves"]
            ),
            "gates": Gates(**given["gates"]),
            "freezes": tuple(Freeze(**freeze) for freeze in given["freezes"]),
            "headroom": Headroom(**given["headroom"]),
            "notes": tuple(given["notes"]),
            "hardware": _hardware(given.get("hardware")),
        }
    )


def _hardware(given: Mapping[str, Any] | None) -> Hardware | None:
    return None if given is None else Hardware(**{**given, "sentinels": tuple(given["sentinels"])})


def _datapath(given: Mapping[str, Any] | None) -> HostDatapath:
    return HostDatapath() if given is None else HostDatapath(**{**given, "unfed": tuple(given["unfed"])})


def _hosts(classes: Sequence[Mapping[str, Any]], table: str) -> dict[str, PlannedHost]:
    found: dict[str, PlannedHost] = {}
    for row in table.splitlines():
        name, place, cpus, busy = row.split()
        kind = classes[int(place)]
        found[name] = PlannedHost(
            kind["facts"],
            kind["labels"],
            None if cpus == _UNKNOWN else int(cpus),
            None if busy == _UNKNOWN else float(busy),
            kind.get("cards", {}),
            kind.get("consent", False),
            _datapath(kind.get("datapath")),
        )
    return found

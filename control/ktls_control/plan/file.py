# SPDX-License-Identifier: Apache-2.0
"""Plans as files: YAML that people read, with a digest that shows whether somebody changed it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import yaml

from ..errors import ControlError
from ..files import write
from .model import Freeze, Gates, Headroom, Plan, PlannedHost, Refusal, Soak, Wave

VERSION = 1
#: The one key of the file: ``ansible-playbook playbooks/rollout.yml -e @PLAN`` so gets one variable.
KEY = "ktls_plan"


def digest(plan: Plan) -> str:
    """SHA-256 (hex) over the canonical JSON (sorted keys, no spaces) of all fields but ``sha256``."""
    return _digest({key: value for key, value in asdict(plan).items() if key != "sha256"})


def _digest(fields: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def seal(plan: Plan) -> Plan:
    """The same plan with its digest."""
    return replace(plan, sha256=digest(plan))


def save(plan: Plan, path: Path) -> Plan:
    """Write a sealed plan whole; what was written is returned."""
    plan = seal(plan)
    fields = json.loads(json.dumps(asdict(plan)))
    head = (
        f"# ktls plan {plan.id}: phase {plan.phase}, {len(plan.hosts)} hosts, {len(plan.waves)} waves. "
        "Do not edit: make a new one with `ktls plan`.\n"
    )
    write(path, head + yaml.safe_dump({KEY: fields}, sort_keys=False, width=120, allow_unicode=True))
    return plan


def load(path: Path) -> Plan:
    """:raises ControlError: ``no_plan``, ``bad_plan``, ``plan_version`` or ``plan_edited``."""
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except OSError as error:
        raise ControlError("no_plan", f"{path}: {error.strerror}; make one with `ktls plan -o {path}`") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ControlError("bad_plan", f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict) or not isinstance(data.get(KEY), dict):
        raise ControlError("bad_plan", f"{path}: not a plan: it has no {KEY}; make one with `ktls plan`")
    return from_fields(data[KEY], str(path))


def from_fields(fields: Mapping[str, Any], where: str) -> Plan:
    """The plan that ``fields`` describe, its digest checked.

    :param where: name for messages.
    """
    if fields.get("version") != VERSION:
        raise ControlError(
            "plan_version", f"{where}: plan version {fields.get('version')!r}, this release reads {VERSION}: plan again"
        )
    if _digest({key: value for key, value in fields.items() if key != "sha256"}) != fields.get("sha256"):
        raise ControlError(
            "plan_edited", f"{where}: it is not what `ktls plan` wrote: make a new plan, do not edit one"
        )
    try:
        return Plan(
            **{
                **fields,
                "hosts": {name: PlannedHost(**host) for name, host in fields["hosts"].items()},
                "refused": {name: tuple(Refusal(**one) for one in why) for name, why in fields["refused"].items()},
                "waves": tuple(
                    Wave(**{**wave, "hosts": tuple(wave["hosts"]), "soak": Soak(**wave["soak"])})
                    for wave in fields["waves"]
                ),
                "gates": Gates(**fields["gates"]),
                "freezes": tuple(Freeze(**freeze) for freeze in fields["freezes"]),
                "headroom": Headroom(**fields["headroom"]),
                "notes": tuple(fields["notes"]),
            }
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ControlError("bad_plan", f"{where}: not a plan of this release: {error}") from error

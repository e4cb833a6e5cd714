# SPDX-License-Identifier: Apache-2.0
"""What the ``offload`` lever will do or has done, as data for people and programs. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .. import originals
from ..files import FileSpec
from ..steps import Step
from .interface import Nic
from .remembered import Memory


@dataclass(frozen=True)
class InterfacePlan:
    """``features`` is what to request, empty when all is so already. ``rule`` of None leaves the rule file alone."""

    nic: Nic
    features: dict[str, bool]
    rule: FileSpec | None
    memory: Memory


@dataclass(frozen=True)
class Adopted:
    """A plan with the record that must be durable before it is carried out."""

    plan: InterfacePlan
    adoption: originals.Adoption


@dataclass(frozen=True)
class Outcome:
    """What was done, or would be. ``diff`` is in Ansible's form; ``interfaces`` are :meth:`Nic.as_dict`.

    ``changed_features`` has ``interface``, ``feature``, ``before``, ``after`` and ``asked``: false for a feature that
    the kernel changed along. ``left_alone`` has ``what``, ``now``, ``recorded`` and ``why``.
    """

    steps: tuple[Step, ...] = ()
    diff: tuple[dict[str, str], ...] = ()
    interfaces: tuple[dict[str, Any], ...] = ()
    changed_features: tuple[dict[str, Any], ...] = ()
    left_alone: tuple[dict[str, str], ...] = ()

    @property
    def changed(self) -> bool:
        """True when there was anything to do."""
        return bool(self.steps)


def steps_of(adopted: tuple[Adopted, ...]) -> tuple[Step, ...]:
    """Return the steps in the order of :func:`apply`."""
    steps = [
        Step("set_features", f"ethtool {' '.join(argv[1:])}", argv=argv)
        for argv in (
            features_argv(found.plan.nic.name, found.plan.features) for found in adopted if found.plan.features
        )
    ]
    for change in (change for found in adopted for change in found.adoption.changes):
        if change.spec.content is None:
            steps.append(Step("unpersist", f"remove {change.spec.path}", file=change.spec))
        else:
            steps.append(Step("persist", f"write {change.spec.path}", file=change.spec))
    if any(found.adoption.changes for found in adopted):
        steps.append(Step("reload_udev", "udevadm control --reload", argv=("udevadm", "control", "--reload")))
    return tuple(steps)


def diff_of(adopted: tuple[Adopted, ...]) -> tuple[dict[str, str], ...]:
    """Return the asked features and the rule files, before and after. What the kernel drags along is not foreseen."""
    shown = []
    for found in adopted:
        if found.plan.features:
            before = {name: found.plan.nic.features[name].words for name in found.plan.features}
            after = {name: "on" if on else "off" for name, on in found.plan.features.items()}
            shown.append(feature_diff(found.plan.nic.name, before, after))
    return (*shown, *(change.diff() for found in adopted for change in found.adoption.changes))


def feature_diff(interface: str, before: dict[str, str], after: dict[str, str]) -> dict[str, str]:
    """Return one diff in Ansible's form for features of an interface."""
    header = f"ethtool -k {interface}"
    old, new = ("".join(f"{name}: {words}\n" for name, words in sorted(one.items())) for one in (before, after))
    return {"before_header": header, "after_header": header, "before": old, "after": new}


def predict(adopted: tuple[Adopted, ...]) -> tuple[dict[str, Any], ...]:
    """Return ``changed_features`` as far as they are asked for: what else the kernel changes is known afterwards."""
    return tuple(
        change(found.plan.nic, name, "on" if on else "off", asked=True)
        for found in adopted
        for name, on in sorted(found.plan.features.items())
    )


def changes(adopted: tuple[Adopted, ...], after: dict[str, Nic]) -> tuple[dict[str, Any], ...]:
    """Return every feature that is not as it was before, asked for or not."""
    plans = [found.plan for found in adopted]
    return tuple(entry for plan in plans for entry in changes_of(plan.nic, after[plan.nic.name], plan.features))


def changes_of(before: Nic, after: Nic, asked: dict[str, bool]) -> tuple[dict[str, Any], ...]:
    """Return the features of one interface that differ."""
    found = []
    for name in sorted(before.features.keys() | after.features.keys()):
        words = after.features[name].words if name in after.features else "gone"
        if name not in before.features or before.features[name].words != words:
            found.append(change(before, name, words, asked=name in asked))
    return tuple(found)


def features_argv(interface: str, wishes: dict[str, bool]) -> tuple[str, ...]:
    """Return the call that requests ``wishes``: off before on, because a feature may exclude another."""
    ordered = sorted(wishes.items(), key=lambda wish: (wish[1], wish[0]))
    return ("ethtool", "-K", interface, *(word for name, on in ordered for word in (name, "on" if on else "off")))


def change(nic: Nic, name: str, after: str, *, asked: bool) -> dict[str, Any]:
    """Return one entry of ``changed_features``."""
    before = nic.features[name].words if name in nic.features else "missing"
    return {"interface": nic.name, "feature": name, "before": before, "after": after, "asked": asked}

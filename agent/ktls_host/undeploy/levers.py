# SPDX-License-Identifier: Apache-2.0
"""Put back what the levers have changed, each by its own record and its own code: cards, then policy, module last.

A record that no handler knows (of a datapath that has no code here, or of another release) is put back file by file:
it says all that this takes. A new lever with more to do than files adds a :class:`Handler`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from .. import module_lever, originals
from ..commands import Runner
from ..errors import KtlsError
from ..nic import restore as nic_restore
from ..nic.remembered import interface_of
from ..nic.targets import DesiredOffload
from ..policy import lever as policy_lever
from ..policy.targets import Request
from ..steps import Step

#: Seconds that module tls may take to be free after the last connection is cut.
MODULE_WAIT_S = 15.0
_POLL_S = 0.5


@dataclass(frozen=True)
class Wish:
    """``keep``: what somebody else edited stays. ``restart_ok``: services that were configured may be restarted."""

    keep: bool = False
    restart_ok: bool = False


@dataclass
class Report:
    """``steps`` for people, ``left`` is what stays as it is and why."""

    steps: list[str] = field(default_factory=list)
    diff: list[dict[str, str]] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    def add(self, other: Report) -> None:
        """Take in what another has."""
        self.steps += other.steps
        self.diff += other.diff
        self.left += other.left


@dataclass(frozen=True)
class Tools:
    """What a handler works with; ``sleep`` takes seconds."""

    runner: Runner
    root: str
    sleep: Callable[[float], None]


@dataclass(frozen=True)
class Handler:
    """``mine`` tells its records by name; ``work`` puts them back, or with ``check`` says what that takes."""

    mine: Callable[[str], bool]
    work: Callable[[Sequence[str], Wish, bool, Tools], Report]


def put_back(names: Sequence[str], wish: Wish, tools: Tools, *, check: bool = False) -> Report:
    """Put back everything in ``names``, in the order of a revert; with ``check`` only refuse and say.

    Raises :class:`KtlsError`: ``edited_meanwhile``, ``record_unreadable``, ``levers_busy`` and those of each lever.
    What was put back before stays so, and the next run goes on there.
    """
    report, left = Report(), list(names)
    for handler in HANDLERS:
        mine = [name for name in left if handler.mine(name)]
        left = [name for name in left if name not in mine]
        if mine:
            report.add(handler.work(mine, wish, check, tools))
    return report


def _cards(names: Sequence[str], wish: Wish, check: bool, tools: Tools) -> Report:
    done = nic_restore.absent(
        DesiredOffload(), keep_edited=wish.keep, check=check, root=tools.root, runner=tools.runner
    )
    left = [f"{entry['what']}: {entry['why']}" for entry in done.left_alone]
    return Report([step.description for step in done.steps], list(done.diff), left)


def _policy(names: Sequence[str], wish: Wish, check: bool, tools: Tools) -> Report:
    report = Report()
    for name in names:
        _, backend, scope, *service = name.split(":", 3)
        request = Request(
            backend, scope, tuple(service), present=False, keep_edited=wish.keep, restart_ok=wish.restart_ok
        )
        done = policy_lever.run(request, check_only=check, runner=tools.runner, root=tools.root)
        report.steps += [step.description for step in done.steps]
        report.diff += list(done.diff)
        report.left += [f"{path}: edited by somebody else, and stays" for path in done.left_alone]
        report.left += [
            f"{unit}: runs by the old configuration until it is restarted" for unit in done.restart_required
        ]
    return report


def _files(names: Sequence[str], wish: Wish, check: bool, tools: Tools) -> Report:
    report = Report()
    for name in names:
        strict = originals.plan_restore(name, tools.root)
        if not wish.keep:
            strict.refuse_edited()
        report.left += [f"{path}: edited by somebody else, and stays" for path in strict.edited]
        back = originals.plan_restore(name, tools.root, keep_edited=True)
        report.steps += [f"put {found.original.path} back as it was" for found in back.back] or [f"drop record {name}"]
        report.diff += list(back.diffs)
        if not check:
            with originals.lock(tools.root):
                originals.restore_files(back)
                originals.forget(back)
    return report


def _module(names: Sequence[str], wish: Wish, check: bool, tools: Tools) -> Report:
    restoration = originals.plan_restore(module_lever.LEVER, tools.root, keep_edited=wish.keep)
    restoration.refuse_edited()
    strict = originals.plan_restore(module_lever.LEVER, tools.root)
    report = Report(left=[f"{path}: edited by somebody else, and stays" for path in strict.edited])
    waited, steps = 0.0, list[Step]()
    while True:
        state = module_lever.probe(tools.root)
        try:
            steps = module_lever.plan_back(state, restoration)
            if not check:
                with originals.lock(tools.root):
                    module_lever.restore(steps, restoration, tools.runner)
            break
        except KtlsError as error:
            # Sockets that were just cut hold it a moment longer. In check mode those of now will be gone.
            if error.code != "module_in_use":
                raise
            if check:
                steps = module_lever.plan_back(_idle(state), restoration)
                break
            if waited >= MODULE_WAIT_S:
                # It does no harm, loads at no boot, and whoever uses it now is none of ours.
                report.left.append(f"module tls: {error.message}")
                with originals.lock(tools.root):
                    module_lever.restore([], restoration, tools.runner)
                break
        tools.sleep(_POLL_S)
        waited += _POLL_S
    report.steps += [step.description for step in steps]
    report.diff += list(restoration.diffs)
    return report


def _idle(state: module_lever.ModuleState) -> module_lever.ModuleState:
    return replace(state, refcount=0, users=())


HANDLERS: tuple[Handler, ...] = (
    Handler(lambda name: interface_of(name) is not None, _cards),
    Handler(lambda name: name.startswith("policy:"), _policy),
    Handler(lambda name: name != module_lever.LEVER, _files),
    Handler(lambda name: True, _module),
)


def refuse_unreadable(names: Sequence[str]) -> None:
    """Raise :class:`KtlsError` ``record_unreadable`` for a record that is damaged: it is listed by its file."""
    for name in names:
        if name.endswith(".json"):
            message = (
                f"{originals.DIRECTORY}/{name} cannot be read, so what was there before is not known; put it back from "
                f"your backup, then remove that file"
            )
            raise KtlsError("record_unreadable", message)

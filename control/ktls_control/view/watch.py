# SPDX-License-Identifier: Apache-2.0
"""``ktls status --watch``: a live tree with keys on a terminal, a line for each change everywhere else."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console, Group
from rich.live import Live

from ..errors import ControlError
from ..plan import file as plan_file
from ..plan.model import Plan
from ..rollout import lock
from ..rollout.store import Run
from . import standing, tree
from .changes import Changes
from .journal import Reader
from .keys import Keys
from .pilot import Pilot

#: Between two looks at the journal. Seconds.
LOOK_S = 0.5


@dataclass
class Watch:
    """One run being watched.

    :param timeout_s: stop watching after this long; None: when the run has ended.
    :param clock: seconds since the epoch.
    """

    run: Run
    timeout_s: float | None = None
    clock: Callable[[], float] = time.time
    reader: Reader = field(init=False)
    changes: Changes = field(init=False, default_factory=Changes)
    plan: Plan | None = field(init=False, default=None)
    plan_error: str | None = field(init=False, default=None)
    _until: float = field(init=False)

    def __post_init__(self) -> None:
        self.reader = Reader(self.run.journal)
        self._until = self.clock() + self.timeout_s if self.timeout_s is not None else float("inf")
        try:
            self.plan = plan_file.load(self.run.plan)
        except ControlError as error:
            # What the journal says is shown without it.
            self.plan_error = error.message

    def look(self) -> list[tuple[float, str]]:
        """Read on; what changed, with when."""
        return [(float(event["at"]), line) for event in self.reader.read() for line in self.changes.feed(event)]

    def alive(self) -> standing.Alive:
        """Whether somebody drives the run."""
        state, place = self.changes.state, self.run.fleet.lock
        if state.ended is not None:
            return standing.Alive()
        said = lock.said(place)
        try:
            # Another run may hold it: then nobody drives this one.
            held: bool | None = lock.held(place) and said.get("run") in (self.run.name, "starting", None)
        except OSError:
            held = None
        return standing.alive(
            state, self.clock(), held, f"{said.get('operator') or 'somebody'} (pid {said.get('pid')})"
        )

    def alerts(self, alive: standing.Alive) -> list[str]:
        """What matters more than the rest."""
        broken = f"journal: {self.reader.broken}: do not trust what follows it" if self.reader.broken else None
        return [text for text in (alive.gone, alive.quiet, broken, self.plan_error) if text]

    def over(self) -> bool:
        """Nothing more is to be watched."""
        return self.changes.state.ended is not None or self.clock() >= self._until

    def view(self, alive: standing.Alive, **more: Any) -> tree.View:
        """What to draw now."""
        return tree.View(self.changes.state, self.plan, self.clock(), self.alerts(alive), **more)


def once(watch: Watch, console: Console) -> int:
    """Print the tree as it is, and say how the run is by the exit code."""
    watch.look()
    alive = watch.alive()
    for line in tree.lines(watch.view(alive, details=True), console.width):
        console.print(line, soft_wrap=True)
    return standing.exit_code(watch.changes.state, alive.gone is not None)


def follow(watch: Watch, console: Console, *, sleep: Callable[[float], None] = time.sleep) -> int:
    """Print a line for each change, until the run has ended, nobody drives it, or the time is over."""
    said: list[str] = []
    while True:
        for at, line in watch.look():
            _say(console, at, line)
        alive = watch.alive()
        # Sentences with a running time in them would be news at every look.
        alerts = [text for text in watch.alerts(alive) if text not in (alive.quiet, alive.gone)]
        for text in alerts:
            if text not in said:
                _say(console, watch.clock(), text)
        said = alerts
        if alive.gone:
            _say(console, watch.clock(), alive.gone)
        if watch.over() or alive.gone:
            return standing.exit_code(watch.changes.state, alive.gone is not None)
        sleep(LOOK_S)


def _say(console: Console, at: float, line: str) -> None:
    stamped = f"{time.strftime('%H:%M:%S', time.localtime(at))} {line}"
    console.print(stamped, markup=False, highlight=False, soft_wrap=True)


def fly(watch: Watch, console: Console, pilot: Pilot, keys: Keys) -> int:
    """Draw the tree as it changes and obey keys, until the run has ended (and off, if it was asked for), or ``q``."""
    with keys, Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            watch.look()
            alive = watch.alive()
            width, height = console.size
            view = watch.view(alive, footer=pilot.footer(), details=pilot.details, off=pilot.off_lines())
            live.update(Group(*tree.lines(view, width, height)), refresh=True)
            if pilot.leave or (watch.over() and not pilot.busy()):
                break
            try:
                for key in keys.read(LOOK_S):
                    pilot.press(key)
            except EOFError:
                break
    # The alternate screen is gone; what it showed last stays to be read.
    for line in tree.lines(watch.view(alive, off=pilot.off_lines()), console.width):
        console.print(line, soft_wrap=True)
    return standing.exit_code(watch.changes.state, alive.gone is not None)

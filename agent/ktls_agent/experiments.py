# SPDX-License-Identifier: Apache-2.0
"""The experiment of the order in force: where it stands, and what its share of new connections is. No I/O.

It is never durable: an agent that starts undoes what is pending. All times are on CLOCK_BOOTTIME.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

from .orders import Order

WAITING, RUNNING, ENDED = "waiting", "running", "ended"


@dataclass
class Run:
    """One experiment. ``switched``: the block that the sidecar has been brought to; None before the first."""

    order: Order
    started_s: float | None = None
    ended_s: float | None = None
    why: str | None = None
    switched: int | None = None

    @property
    def state(self) -> str:
        """Waiting for the self-test, running, or ended."""
        return WAITING if self.started_s is None and self.why is None else RUNNING if self.why is None else ENDED


class Experiments:
    """Keeps the one of the newest order; none is the rule."""

    def __init__(self) -> None:
        """Start with none."""
        self.current: Run | None = None
        self._washouts: deque[tuple[float, float]] = deque(maxlen=8)

    def ordered(self, order: Order, now_s: float) -> None:
        """Note that ``order`` is in force. Connections from before it are still there."""
        self.current = Run(order) if order.experiment is not None else None
        self._washouts.clear()
        self._wash(now_s)

    def begin(self, order: Order, now_s: float) -> None:
        """Begin, if ``order`` has an experiment: its phase is proved."""
        run = self.current
        if run is not None and run.order == order and run.state == WAITING:
            run.started_s = now_s

    def end(self, why: str, now_s: float) -> None:
        """End for good: from now on the share is one."""
        run = self.current
        if run is not None and run.state != ENDED:
            run.ended_s, run.why = now_s, why
            self._wash(now_s)

    @property
    def running(self) -> tuple[str, int] | None:
        """The key of the order whose experiment runs."""
        run = self.current
        return run.order.key if run is not None and run.state == RUNNING else None

    def share(self, now_s: float) -> float:
        """Return the part of new connections that takes the phase now."""
        run = self.current
        if run is None or run.started_s is None or run.state != RUNNING or run.order.experiment is None:
            return 1.0
        return run.order.experiment.share(run.order.experiment.block(now_s - run.started_s))

    def due(self, now_s: float) -> int | None:
        """Return the block that the sidecar has to be brought to; None when it is there."""
        run = self.current
        if run is None or run.started_s is None or run.state != RUNNING or run.order.experiment is None:
            return None
        block = run.order.experiment.block(now_s - run.started_s)
        return None if block == run.switched else block

    def switched(self, block: int, now_s: float) -> None:
        """Note that the sidecar has obeyed: the washout of ``block`` begins."""
        if self.current is not None:
            self.current.switched = block
            self._wash(now_s)

    def in_washout(self, start_s: float, end_s: float) -> bool:
        """Return whether the interval touches a washout."""
        return any(start_s < until and end_s > since for since, until in self._washouts)

    def as_dict(self, now_s: float) -> dict[str, Any] | None:
        """Return the form used in the status object, or None."""
        run = self.current
        if run is None or run.order.experiment is None:
            return None
        experiment, running = run.order.experiment, run.state == RUNNING and run.started_s is not None
        elapsed_s = now_s - run.started_s if running and run.started_s is not None else 0.0
        left_s = experiment.left_s(elapsed_s) if running else None
        return {
            **experiment.as_dict(),
            "state": run.state,
            "share": self.share(now_s),
            "block": experiment.block(elapsed_s) if running else None,
            "next_switch_in_s": None if left_s is None else round(left_s, 3),
            "washout": self.in_washout(now_s, now_s + 1e-6),
            "started_s": None if run.started_s is None else round(run.started_s, 3),
            "ended_s": None if run.ended_s is None else round(run.ended_s, 3),
            "ended": run.why,
        }

    def _wash(self, now_s: float) -> None:
        experiment = self.current.order.experiment if self.current is not None else None
        if experiment is not None and experiment.washout_s > 0:
            self._washouts.append((now_s, now_s + experiment.washout_s))

# SPDX-License-Identifier: Apache-2.0
"""Everything that looks on while a rollout is driven: metrics, webhooks, and the report at its end.

Whoever writes the journal feeds each event after it was written, and writes what comes back::

    observers = Observers.begin(run_dir, plan, past=events)
    observers.feed(event)
    for keys in observers.outcomes():
        journal.append("notified", **keys)
    ...
    for keys in observers.close(last=ended):
        journal.append("notified", **keys)
    if ended:
        observers.report()

A rollout is driven by several processes, one after the other. One that is not the last waits for nothing: the next one
tells what was not told by then. Nothing of it can fail or delay a rollout: what goes wrong is in ``complaints``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .notify import Notifier, load
from .notify.config import place
from .plan.model import Plan
from .view.textfile import RolloutMetrics

TEXTFILE_VARIABLE = "KTLS_TEXTFILE_DIR"


def check(environment: Mapping[str, str] | None = None) -> None:
    """:raises ControlError: ``bad_notify``: a mistake there is worth knowing before hosts are touched."""
    config = place(None, environment)
    if config:
        load(config)


class Observers:
    """See the module; made by :meth:`begin`."""

    def __init__(self, run_dir: Path, metrics: RolloutMetrics | None, notifier: Notifier | None) -> None:
        self._run_dir = run_dir
        self._metrics = metrics
        self._notifier = notifier
        self._complaints: list[str] = []

    @classmethod
    def begin(
        cls,
        run_dir: Path,
        plan: Plan | None,
        past: Iterable[Mapping[str, Any]] = (),
        *,
        notify: str | None = None,
        textfile: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Observers:
        """Before the first event of a run or of its resume.

        :param past: events of the journal so far.
        :param notify: file that says where webhooks go; ``KTLS_NOTIFY`` when left out.
        :param textfile: directory of node_exporter's textfile collector; ``KTLS_TEXTFILE_DIR`` when left out.
        :raises ControlError: ``bad_notify``.
        """
        environment = os.environ if environment is None else environment
        past = list(past)
        config = place(notify, environment)
        directory = textfile or environment.get(TEXTFILE_VARIABLE)
        metrics = RolloutMetrics(Path(directory), plan) if directory else None
        if metrics:
            for event in past:
                metrics.feed(event, old=True)
        return cls(run_dir, metrics, Notifier(load(config), past) if config else None)

    def feed(self, event: Mapping[str, Any]) -> None:
        """Take an event that was written."""
        for observer in (self._metrics, self._notifier):
            if observer is not None:
                self._feed(observer, event)
        if self._metrics is not None and self._metrics.error:
            self._complain(self._metrics.error)

    def _feed(self, observer: RolloutMetrics | Notifier, event: Mapping[str, Any]) -> None:
        try:
            observer.feed(event)
        except Exception as error:
            # An event that an observer does not understand must not stop a rollout.
            self._complain(f"{type(observer).__name__}: {type(error).__name__}: {error}")

    def outcomes(self) -> list[dict[str, Any]]:
        """Keys of ``notified`` events to be written now."""
        return self._notifier.outcomes() if self._notifier else []

    def close(self, *, last: bool, limit_s: float = 10.0) -> list[dict[str, Any]]:
        """No more events come from this process. The last one waits for webhooks, ``limit_s`` seconds at most."""
        return self._notifier.close(limit_s if last else 0.0, last=last) if self._notifier else []

    def report(self) -> Path | None:
        """Write the report; None: it could not be, and ``complaints`` says why."""
        from .report_run import write_report

        try:
            return write_report(self._run_dir)
        except Exception as error:
            self._complain(f"report: {getattr(error, 'message', None) or f'{type(error).__name__}: {error}'}")
            return None

    def complaints(self) -> list[str]:
        """What went wrong since the last call, each once."""
        said, self._complaints = self._complaints, []
        return said

    def _complain(self, text: str) -> None:
        if text not in self._complaints:
            self._complaints.append(text)

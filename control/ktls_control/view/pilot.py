# SPDX-License-Identifier: Apache-2.0
"""What the keys of the live view do.

What leads towards kTLS, or ends the rollout, asks once. What can only cost speed is done at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.text import Text

from ..errors import ControlError
from ..rollout import control
from ..rollout.state import RunState
from ..rollout.store import Run
from . import standing
from .off_process import Off

#: How long a question waits for its answer. Seconds.
_ASK_S = 10.0


class Pilot:
    """Obeys keys for one run.

    :param by: who presses them.
    :param state: gives the run's state as it is now.
    :param gone: whether nobody drives the run.
    :param start_off: begins to switch everything off; gets the reason.
    """

    def __init__(
        self,
        run: Run,
        by: str,
        state: Callable[[], RunState],
        gone: Callable[[], bool],
        start_off: Callable[[str], Off],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._place = run.control
        self._by = by
        self._state = state
        self._gone = gone
        self._start_off = start_off
        self._clock = clock
        self._off: Off | None = None
        self.details = False
        self.leave = False
        self._asked: tuple[str, int | None, float] | None = None
        self._said = ""

    def press(self, key: str) -> None:
        """Obey one key."""
        self._said = ""
        self._forget()
        if self._asked:
            (verb, wave, _until), self._asked = self._asked, None
            if key == "y":
                self._ask(verb, wave)
                return
            self._said = f"{verb}: left alone"
            if key not in "OP":
                return
        ended = self._state().ended is not None
        if key == "q":
            self.leave = True
        elif key == "e":
            self.details = not self.details
        elif key == "O":
            self._switch_off()
        elif key in "pPa" and ended:
            self._said = "the run has ended"
        elif key == "P":
            self._ask("resume" if self._pausing() else "pause", None)
        elif key == "a":
            self._asked = ("abort", None, self._clock() + _ASK_S)
        elif key == "p":
            self._promote()

    def footer(self) -> list[Text]:
        """The keys, or the question that waits for an answer."""
        self._forget()
        if self._asked:
            verb, wave, _until = self._asked
            what = f"promote wave {wave}" if verb == "promote" else "abort: this wave goes back, the rollout ends"
            return [Text(f"{what}? y, or any other key for no", "bold yellow")]
        line = Text()
        pause = ("P", " resume") if self._pausing() else ("P", "ause")
        for key, rest in (("O", "FF"), ("p", "romote"), pause, ("a", "bort"), ("e", "xplain"), ("q", "uit")):
            line.append(f"[{key}]", "bold")
            line.append(f"{rest} ")
        return [Text(self._said, "yellow"), line] if self._said else [line]

    def busy(self) -> bool:
        """Off is under way: whoever asked for it wants to see what comes of it."""
        return self._off is not None and self._off.running()

    def off_lines(self) -> list[str]:
        """What off has said so far."""
        return self._off.lines() if self._off else []

    def _forget(self) -> None:
        if self._asked and self._clock() > self._asked[2]:
            self._said, self._asked = f"{self._asked[0]}: no answer, left alone", None

    def _pausing(self) -> bool:
        return self._state().paused or control.look(self._place).pause is not None

    def _promote(self) -> None:
        wave = standing.current(self._state())
        if wave is None or wave.waiting not in ("approval", "inconclusive"):
            self._said = "no wave waits to be promoted"
            return
        self._asked = ("promote", wave.number, self._clock() + _ASK_S)

    def _ask(self, verb: str, wave: int | None) -> None:
        try:
            control.ask(self._place, verb, by=self._by, why="by a key of the live view", wave=wave or 0)
        except ControlError as error:
            self._said = error.message
            return
        self._said = f"{verb}: asked for" + ("; nobody obeys before `ktls resume`" if self._gone() else "")

    def _switch_off(self) -> None:
        """Off first; then the rollout is told to end, so that it does not work against it."""
        if self.busy():
            self._said = "off is under way"
            return
        self._off = self._start_off(f"off by {self._by}")
        if self._state().ended is None:
            self._ask("off", None)

# SPDX-License-Identifier: Apache-2.0
"""Single keys from a terminal, which gets its settings back whatever happens (but SIGKILL)."""

from __future__ import annotations

import os
import re
import select
import signal
import sys
import termios
import tty
from types import FrameType, TracebackType
from typing import Any, TextIO

#: What a function key, an arrow or a key with Alt sends; F1 for one ends in ``OP``, which are no keys of ours.
_SEQUENCE = re.compile("\x1b(?:\\[[0-9;?]*[ -/]*[@-~]|O.|[^\\[O])", re.DOTALL)
_BEGUN = re.compile("\x1b(?:\\[[0-9;?]*[ -/]*|O)?$")
#: How long the rest of one may take. Seconds.
_REST_S = 0.05
#: Signals that would end the process without unwinding it.
_DEADLY = (signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM)


class Keys:
    """Reads keys without echo and without waiting for a line. Use as a context manager, in the main thread.

    Interrupt (Ctrl-C) and stop (Ctrl-Z) stay what they are.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._fd = (stream or sys.stdin).fileno()
        self._before: list[Any] = []
        self._handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Keys:
        self._before = termios.tcgetattr(self._fd)
        for number in _DEADLY:
            self._handlers[number] = signal.signal(number, _unwind)
        # A shell that brings us back to the foreground may have changed the settings.
        self._handlers[signal.SIGCONT] = signal.signal(signal.SIGCONT, lambda *_: self._raw())
        self._raw()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            termios.tcsetattr(self._fd, termios.TCSADRAIN, self._before)
        except termios.error:
            pass  # the terminal is gone
        finally:
            for number, handler in self._handlers.items():
                signal.signal(number, handler)

    def _raw(self) -> None:
        tty.setcbreak(self._fd, termios.TCSADRAIN)

    def read(self, timeout_s: float) -> str:
        """The keys pressed within ``timeout_s``, as soon as there are some; "" when there were none.

        What a function key or an arrow sends is left out as a whole.

        :raises EOFError: when the terminal is gone.
        """
        text = self._read(timeout_s)
        while _BEGUN.search(_SEQUENCE.sub("", text)):
            more = self._read(_REST_S)
            if not more:
                break
            text += more
        return _BEGUN.sub("", _SEQUENCE.sub("", text))

    def _read(self, timeout_s: float) -> str:
        if not select.select([self._fd], [], [], timeout_s)[0]:
            return ""
        try:
            data = os.read(self._fd, 64)
        except OSError as error:
            raise EOFError from error
        if not data:
            raise EOFError
        return data.decode("utf-8", "replace")


def _unwind(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)

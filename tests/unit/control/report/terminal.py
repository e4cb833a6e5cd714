# SPDX-License-Identifier: Apache-2.0
"""``ktls status --watch`` on a terminal of its own: what is typed, what is drawn, what is left of the settings."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from types import TracebackType
from typing import Any

_ESCAPES = re.compile(rb"\x1b\[[0-9;?]*[a-zA-Z]")
_PATIENCE_S = 20.0
# Ctrl-C as a shell gives it to its jobs: tests in the background of a script inherit that it is ignored.
_MAIN = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from ktls_control.cli import main
sys.exit(main())
"""


class Terminal:
    """Runs the command on a pseudo terminal."""

    def __init__(self, run_dir: Path, *options: str, rows: int = 30, columns: int = 100) -> None:
        self._master, self.slave = pty.openpty()
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.before = self.settings()
        self.raw = b""
        argv = [sys.executable, "-c", _MAIN, "status", "--watch", "--run", str(run_dir), *options]
        self.process = subprocess.Popen(
            argv, stdin=self.slave, stdout=self.slave, stderr=self.slave, env={**os.environ, "TERM": "xterm-256color"}
        )

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._master)
        os.close(self.slave)

    def settings(self) -> list[Any]:
        return termios.tcgetattr(self.slave)

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def until(self, words: str) -> str:
        """Everything drawn up to now, as soon as ``words`` were."""
        end = time.monotonic() + _PATIENCE_S
        while words.encode() not in (seen := _ESCAPES.sub(b"", self.raw)):
            assert time.monotonic() < end, f"{words!r} was not drawn:\n{seen[-3000:].decode(errors='replace')}"
            self._drain(0.2)
        text = seen.decode(errors="replace")
        self.raw = b""
        return text

    def end(self) -> int:
        """The exit status."""
        end = time.monotonic() + _PATIENCE_S
        while self.process.poll() is None:
            assert time.monotonic() < end, "it does not end"
            self._drain(0.1)
        self._drain(0.0)
        return self.process.wait()

    def _drain(self, wait_s: float) -> None:
        while select.select([self._master], [], [], wait_s)[0]:
            self.raw += os.read(self._master, 65536)
            wait_s = 0.0

# SPDX-License-Identifier: Apache-2.0
"""A small client of QEMU's machine protocol (docs/interop/qmp-spec in the QEMU sources)."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ktls_lab.errors import LabError


class Qmp:
    """One conversation with a VM; a context manager. Events are read over."""

    def __init__(self, path: Path, timeout_s: float = 10.0) -> None:
        """Connect to the socket ``path``.

        Raises:
            LabError: nobody answers there within ``timeout_s``.
        """
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(timeout_s)
        try:
            self._socket.connect(str(path))
            self._file = self._socket.makefile("rb")
            self._read()  # the greeting
            self.execute("qmp_capabilities")
        except OSError as error:
            self._socket.close()
            message = f"the VM does not answer on {path} ({error}): see 'ktls lab status'"
            raise LabError(message) from error

    def __enter__(self) -> Self:
        """Return the open conversation."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self._file.close()
        self._socket.close()

    def _read(self) -> dict[str, Any]:
        line = self._file.readline()
        if not line:
            raise ConnectionResetError
        reply: dict[str, Any] = json.loads(line)
        return reply

    def execute(self, command: str, timeout_s: float | None = None, **arguments: object) -> Any:
        """Run one QMP command and return its result.

        Raises:
            LabError: QEMU refused it (its own words).
            OSError: the VM went away or took longer than ``timeout_s``.
        """
        if timeout_s is not None:
            self._socket.settimeout(timeout_s)
        request: dict[str, Any] = {"execute": command}
        if arguments:
            request["arguments"] = arguments
        self._socket.sendall(json.dumps(request).encode() + b"\n")
        while True:
            reply = self._read()
            if "return" in reply:
                return reply["return"]
            if "error" in reply:
                message = f"QEMU refused {command}: {reply['error'].get('desc', reply['error'])}"
                raise LabError(message)

    def monitor(self, line: str, timeout_s: float = 120.0) -> str:
        """Run one human monitor command (there is no QMP twin of savevm in QEMU 7.2 that waits).

        Raises:
            LabError: the monitor printed an error.
        """
        text: str = self.execute("human-monitor-command", timeout_s=timeout_s, **{"command-line": line})
        if "rror" in text:
            message = f"QEMU refused '{line}': {' '.join(text.split())}"
            raise LabError(message)
        return text


def wait_for(path: Path, alive: Callable[[], bool], timeout_s: float) -> Qmp:
    """Connect as soon as the VM listens; ``alive()`` false ends the wait.

    Raises:
        LabError: the VM ended, or ``timeout_s`` passed.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return Qmp(path, timeout_s=max(1.0, deadline - time.monotonic()))
        except LabError as error:
            # Between bind(2) and listen(2) the file is there and refuses.
            if not isinstance(error.__cause__, FileNotFoundError | ConnectionRefusedError):
                raise
        if not alive():
            message = "the VM ended while starting"
            raise LabError(message)
        if time.monotonic() > deadline:
            message = f"the VM did not open {path} in {timeout_s:.0f} s"
            raise LabError(message)
        time.sleep(0.02)

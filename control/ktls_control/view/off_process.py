# SPDX-License-Identifier: Apache-2.0
"""``ktls off`` as a process of its own: it goes on when nobody watches any more."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


class Off:
    """Runs ``ktls off``, its output in a file.

    :param log: the file; where it cannot be written, off runs all the same and its output is lost.
    :param argv: the program in front of the options.
    """

    def __init__(
        self,
        inventory: str,
        group: str,
        reason: str,
        log: Path,
        argv: Sequence[str] = (sys.executable, "-m", "ktls_control.cli"),
    ) -> None:
        options = ["off", "-i", inventory, "--group", group, "--reason", reason]
        self._said = [f"OFF: ktls off -i {inventory} --group {group}"]
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        try:
            output: int | object = open(log, "wb")  # noqa: SIM115
        except OSError as error:
            self._said.append(f"its output is lost: {log}: {error.strerror}; `ktls status` shows the hosts")
            output = subprocess.DEVNULL
        try:
            self._process = subprocess.Popen(
                [*argv, *options],
                stdin=subprocess.DEVNULL,
                stdout=output,  # type: ignore[arg-type]
                stderr=subprocess.STDOUT,
                # A hang-up of this terminal, or Ctrl-C, is not for it.
                start_new_session=True,
            )
        except OSError as error:
            self._said.append(f"OFF did not start ({error}): run `ktls off` elsewhere NOW, or `ktls-off` on the hosts")
        finally:
            if not isinstance(output, int):
                output.close()  # type: ignore[attr-defined]

    def running(self) -> bool:
        """It has not ended yet."""
        return self._process is not None and self._process.poll() is None

    def lines(self) -> list[str]:
        """What was run, what it has said last, and how it ended."""
        try:
            told = self._log.read_text(errors="replace").splitlines()[-4:]
        except OSError:
            told = []
        end = None if self._process is None else self._process.poll()
        status = (
            []
            if end is None
            else [
                "OFF: read back from every host"
                if end == 0
                else f"OFF: NOT confirmed on every host (status {end}): see {self._log}"
            ]
        )
        return [*self._said, *told, *status]

# SPDX-License-Identifier: Apache-2.0
"""``ktls off`` as a process of its own: it goes on when nobody watches any more."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from . import drain, words

#: Hosts that are named when they are not off.
_NAMED = 4


class Off:
    """Runs ``ktls off --json``.

    :param place: directory for its answer, ``off-TIME.json``, and its complaints, ``off-TIME.log``. Where nothing can
        be written, off runs all the same, and what it says is lost.
    :param argv: the program in front of the options.
    """

    def __init__(
        self,
        inventory: str,
        group: str,
        reason: str,
        place: Path,
        argv: Sequence[str] = (sys.executable, "-m", "ktls_control.cli"),
    ) -> None:
        self._began = time.monotonic()
        self._said = [f"OFF: ktls off -i {inventory} --group {group}"]
        self._answer = place / f"off-{time.strftime('%Y%m%d-%H%M%S')}.json"
        self._process: subprocess.Popen[bytes] | None = None
        options = ["off", "-i", inventory, "--group", group, "--reason", reason, "--json"]
        with contextlib.ExitStack() as files:
            output, errors = (self._open(path, files) for path in (self._answer, self._log))
            try:
                self._process = subprocess.Popen(
                    [*argv, *options],
                    stdin=subprocess.DEVNULL,
                    stdout=output or subprocess.DEVNULL,
                    stderr=errors or subprocess.DEVNULL,
                    # A hang-up of this terminal, or Ctrl-C, is not for it.
                    start_new_session=True,
                )
            except OSError as error:
                self._said.append(
                    f"OFF did not start ({error}): run `ktls off` elsewhere NOW, or `ktls-off` on the hosts"
                )

    @property
    def _log(self) -> Path:
        return self._answer.with_suffix(".log")

    def _open(self, path: Path, files: contextlib.ExitStack) -> IO[bytes] | None:
        try:
            return files.enter_context(open(path, "wb"))
        except OSError as error:
            lost = f"what it says is lost ({error.strerror}: {path}): `ktls status` shows the hosts"
            if len(self._said) == 1:
                self._said.append(lost)
            return None

    def running(self) -> bool:
        """It has not ended yet."""
        return self._process is not None and self._process.poll() is None

    def lines(self) -> list[str]:
        """What was run, and what came of it."""
        if self._process is None:
            return self._said
        if self.running():
            return [*self._said, f"OFF: under way for {words.duration(time.monotonic() - self._began)}"]
        return [*self._said, *self._result(), *self._complaints()]

    def _result(self) -> list[str]:
        answer: Any = None
        with contextlib.suppress(OSError, ValueError):
            answer = json.loads(self._answer.read_bytes())
        found = drain.read(answer if isinstance(answer, dict) else None)
        if found is None:
            status = self._process.returncode if self._process else None
            return [f"OFF: NOT confirmed (status {status}): run `ktls off` and look at `ktls status` NOW"]
        new = f", last new kTLS connection after {found.last_new[-1]:.1f} s" if found.last_new else ""
        none = f", none left after {found.done[-1]:.1f} s" if len(found.done) == found.off and found.done else ""
        lines = [f"OFF: {found.off:,} of {found.hosts:,} hosts read back on userspace TLS{new}{none}"]
        lines += [f"OFF: NOT {host}: {why}" for host, why in found.not_off[:_NAMED]]
        more = len(found.not_off) - _NAMED
        return [*lines, f"OFF: NOT {more:,} more: see {self._answer}"] if more > 0 else lines

    def _complaints(self) -> list[str]:
        try:
            return self._log.read_text(errors="replace").splitlines()[-2:]
        except OSError:
            return []

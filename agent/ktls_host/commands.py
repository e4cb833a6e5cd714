# SPDX-License-Identifier: Apache-2.0
"""Run a program, in one place, so that tests can put a recording in its stead."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from typing import NamedTuple

from .errors import KtlsError

TIMEOUT_S = 60.0
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class CommandResult(NamedTuple):
    """What a program left: exit status and decoded output.

    No dataclass: that module takes long to import where each start of a program counts (the agent's helpers).
    """

    rc: int
    stdout: str
    stderr: str

    @property
    def reason(self) -> str:
        """Return the last line it complained with, which is where most tools say what is wrong."""
        lines = [line.strip() for line in (self.stderr or self.stdout).splitlines() if line.strip()]
        return lines[-1] if lines else f"exit status {self.rc}"


class Runner:
    """Runs programs on this host with a fixed search path and the C locale, so that messages are stable."""

    def run(self, argv: Sequence[str], stdin: str | None = None) -> CommandResult:
        """Run ``argv`` and wait, at most ``TIMEOUT_S`` seconds. A non-zero exit is a result, not an error.

        Raises :class:`KtlsError`: ``command_missing``, ``command_timeout``.
        """
        environment = {**os.environ, "LC_ALL": "C", "LANGUAGE": "C", "PATH": _PATH}
        try:
            done = subprocess.run(
                list(argv),
                input="" if stdin is None else stdin,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=TIMEOUT_S,
                env=environment,
                check=False,
            )
        except (FileNotFoundError, PermissionError) as error:
            message = f"the program {argv[0]} cannot be run on this host; install the package that holds it"
            raise KtlsError("command_missing", message) from error
        except subprocess.TimeoutExpired as error:
            message = f"{argv[0]} did not end within {TIMEOUT_S:g} s; see the kernel log of this host"
            raise KtlsError("command_timeout", message) from error
        return CommandResult(rc=done.returncode, stdout=done.stdout, stderr=done.stderr)

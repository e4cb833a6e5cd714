# SPDX-License-Identifier: Apache-2.0
"""Raises the off flag of this host, with the agent's help or without. There is nothing here that could lower it.

The file in the runtime directory comes first: the sidecar looks at it at every new connection, whoever is dead. The
agent makes the durable copy, for its directory is not ours to write; until that copy is seen, the debt is kept in a
file of our own, and paid at the next start, after a reboot too.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from collections.abc import Callable
from typing import Any

from ktls_host import jsonsock
from ktls_host.errors import KtlsError

from ..flags import OffFlags

_LOG = logging.getLogger(__name__)
AGENT_TIMEOUT_S = 5.0
RETRY_S = 5.0
_OWED_MAX = 4096


class Raiser:
    """The effect of a valid OFF. :meth:`raise_off` is quick and for any thread, :meth:`settle` for one thread."""

    def __init__(
        self,
        flags: OffFlags,
        agent_socket: str,
        owed: str,
        boot_id: str,
        call: Callable[[str, dict[str, Any], float], dict[str, Any]] = jsonsock.call,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``owed``: file that remembers, across a restart, what has no durable copy yet."""
        self._flags = flags
        self._agent_socket = agent_socket
        self._owed_path = owed
        self._boot_id = boot_id
        self._call = call
        self._clock = clock
        self._owed: str | None = None
        self._there = False  # the flag that we made was there at least once
        self._retry_s = float("-inf")
        self.problem: str | None = None

    def recover(self) -> None:
        """At start: raise again what an earlier boot raised and nobody made durable."""
        try:
            with open(self._owed_path, encoding="utf-8") as handle:
                owed = json.loads(handle.read(_OWED_MAX))
            reason, boot = str(owed["reason"]), owed["boot_id"]
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            # It exists because something was owed, and that can only have been OFF.
            reason, boot = "signed flag (its record is damaged)", None
        if any(self._flags.present()):
            self._owed, self._there = reason, True
        elif boot != self._boot_id:
            _LOG.warning("OFF of before the reboot, which nobody had made durable: %s", reason)
            self._owed = reason
            self._write_run(reason)
        else:
            self._drop()  # cleared by hand in this boot

    def raise_off(self, reason: str) -> bool:
        """Raise the flag if it is not there. Returns whether it had to be raised."""
        if self._flags.present()[0]:
            return False
        durable = self._flags.present()[1]
        self._write_run(reason)
        if not durable:
            self._owed = reason
            self._retry_s = float("-inf")
        return not durable

    def settle(self) -> None:
        """See to the durable copy and tell the agent. May take some seconds; call it again and again."""
        reason = self._owed
        if reason is None or self._clock() - self._retry_s < RETRY_S:
            return
        self._retry_s = self._clock()
        run, durable = self._flags.present()
        if self._there and not run and not durable:
            # Cleared between: the next poll raises it again if the flag still says so.
            self._drop()
            return
        if not durable:
            self._remember(reason)
            # Where we may, this takes no agent at all.
            with contextlib.suppress(OSError):
                self._flags.write_durable(reason)
        try:
            self._call(self._agent_socket, {"verb": "off", "reason": reason}, AGENT_TIMEOUT_S)
        except KtlsError as error:
            self._complain(f"the agent does not take OFF ({error.message}); what counts is {self._flags.run_path}")
        if self._flags.present()[1]:
            self._drop()
            _LOG.warning("off is durable")

    def _write_run(self, reason: str) -> None:
        try:
            self._flags.write_run(reason)
            self._there = True
        except OSError as error:
            self._there = False
            self._complain(f"{self._flags.run_path} cannot be written ({error.strerror}); run ktls-off as root")

    def _complain(self, problem: str) -> None:
        if problem != self.problem:
            _LOG.error("%s", problem)
        self.problem = problem

    def _remember(self, reason: str) -> None:
        text = json.dumps({"reason": reason, "boot_id": self._boot_id}) + "\n"
        temporary = f"{self._owed_path}.new"
        try:
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            with os.fdopen(handle, "w") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            os.rename(temporary, self._owed_path)
        except OSError as error:
            _LOG.error("%s cannot be written (%s): a reboot may forget this OFF", temporary, error.strerror)

    def _drop(self) -> None:
        self._owed = None
        self.problem = None
        with contextlib.suppress(OSError):
            os.unlink(self._owed_path)

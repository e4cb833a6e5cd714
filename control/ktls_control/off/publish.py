# SPDX-License-Identifier: Apache-2.0
"""Publishes the signed OFF beside the push by SSH, where the fleet has a flag. Never in its way."""

from __future__ import annotations

import shlex
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import ControlError

#: Seconds for a signature (a key on a token waits for a touch), and for the command that publishes.
SIGN_S, COMMAND_S = 20.0, 30.0


@dataclass(frozen=True)
class Settings:
    """How the flag of a fleet is published.

    :param key: private key, or the public half of one that an SSH agent holds.
    :param directories: where web servers of this machine, or mounted ones, read it.
    :param command: gets the signed flag on its standard input; for servers elsewhere.
    """

    fleet: str
    key: Path
    directories: tuple[Path, ...] = ()
    command: tuple[str, ...] = ()


@dataclass
class Published:
    """What came of it. ``error`` is one line; ``places`` are those that have the flag."""

    wanted: bool = False
    places: list[str] = field(default_factory=list)
    error: str | None = None

    @property
    def ok(self) -> bool:
        """Published everywhere."""
        return self.wanted and self.error is None

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {"wanted": self.wanted, "ok": self.ok, "places": self.places, "error": self.error}


def settings(
    variables: Mapping[str, Any], *, directories: Sequence[Path] = (), key: Path | None = None, fleet: str | None = None
) -> Settings | None:
    """From the fleet's variables; what is given beside them wins. None: no flag is published from here.

    :raises ControlError: ``bad_publish`` when something is missing or is not what it should be.
    """
    named = variables.get("ktls_pull_publish") or []
    places = tuple(directories) or tuple(Path(str(each)) for each in ([named] if isinstance(named, str) else named))
    command = variables.get("ktls_pull_publish_command") or []
    if directories:
        command = []
    words = tuple(shlex.split(command)) if isinstance(command, str) else tuple(str(word) for word in command)
    if not places and not words:
        return None
    fleet = fleet or str(variables.get("ktls_pull_fleet") or "")
    signer = key or (Path(str(variables["ktls_pull_key"])).expanduser() if variables.get("ktls_pull_key") else None)
    missing = [name for name, value in (("ktls_pull_fleet", fleet), ("ktls_pull_key", signer)) if not value]
    if missing or signer is None:
        raise ControlError("bad_publish", f"the flag is not published: {' and '.join(missing)} not set (docs/off.md)")
    return Settings(fleet, signer, places, words)


class Publisher:
    """Signs and publishes in a thread of its own."""

    def __init__(self, wanted: Settings, reason: str) -> None:
        self._settings, self._reason = wanted, reason
        self._result = Published(wanted=True)
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def wait(self, timeout_s: float) -> Published:
        """The result; that it is not done yet is one too."""
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            return Published(True, list(self._result.places), f"not done within {timeout_s:.0f} s more than the hosts")
        return self._result

    def _work(self) -> None:
        from ..flag import sign

        wanted, result = self._settings, self._result
        problems: list[str] = []
        try:
            body = sign(wanted.key, wanted.fleet, "off", self._reason, ask=False, timeout_s=SIGN_S)
        except ControlError as error:
            result.error = error.message
            return
        except Exception as error:
            # Whatever it is, off goes on, and says so.
            result.error = f"{type(error).__name__}: {error}"
            return
        for directory in wanted.directories:
            problems += self._put(body, directory)
        if wanted.command:
            problems += self._hand_over(wanted.command, body)
        if problems:
            result.error = "; ".join(problems)

    def _put(self, body: bytes, directory: Path) -> list[str]:
        from ..flag import publish

        try:
            self._result.places.append(str(publish(body, directory)))
        except (ControlError, OSError) as error:
            return [str(error)]
        return []

    def _hand_over(self, command: Sequence[str], body: bytes) -> list[str]:
        try:
            done = subprocess.run(
                command, input=body, capture_output=True, timeout=COMMAND_S, check=False, start_new_session=True
            )
        except subprocess.TimeoutExpired:
            return [f"{command[0]} did not end within {COMMAND_S:g} s"]
        except OSError as error:
            return [f"{command[0]}: {error.strerror}"]
        if done.returncode != 0:
            lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
            return [
                f"{command[0]} ended with status {done.returncode}: {lines[-1] if lines else 'it does not say why'}"
            ]
        self._result.places.append(shlex.join(command))
        return []

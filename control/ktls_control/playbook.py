# SPDX-License-Identifier: Apache-2.0
"""Runs a playbook and yields its events while it runs."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import tree

_POLL_S = 0.1


@dataclass
class PlaybookRun:
    """One run of ``ansible-playbook``; iterate over :meth:`events`, then read ``returncode``.

    :param verb: name of a playbook under ``playbooks/``, without its ending.
    :param log: file that takes Ansible's own output.
    """

    verb: str
    inventory: str
    variables: Mapping[str, Any]
    log: Path
    limit: str | None = None
    check: bool = False
    returncode: int | None = None
    failures: list[dict[str, Any]] = field(default_factory=list)
    #: A rollout's journal says that it is over; False: its process died, and there is something to resume.
    ended_itself: bool = True

    def command(self, variables_file: str) -> list[str]:
        """The command line; variables go through a file, so that none shows in the process list."""
        command = [
            *tree.ansible("playbook"),
            "-i",
            self.inventory,
            str(tree.find().playbook(self.verb)),
            "-e",
            f"@{variables_file}",
        ]
        if self.limit:
            # localhost checks the request, so it is always part of the run.
            command += ["--limit", f"localhost,{self.limit}"]
        if self.check:
            command += ["--check", "--diff"]
        return command

    def events(self, *, idle: bool = False) -> Iterator[dict[str, Any]]:
        """Events of the run, in order, as they happen.

        :param idle: also give an event ``idle`` each time that there is none.
        """
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="ktls-") as scratch, open(self.log, "ab") as log:
            events, variables = Path(scratch) / "events.jsonl", Path(scratch) / "vars.json"
            events.touch()
            variables.write_text(json.dumps(dict(self.variables)))
            process = subprocess.Popen(
                self.command(str(variables)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=tree.find().working_directory(),
                env=environment(events),
                start_new_session=True,
            )
            try:
                yield from self._follow(events, process, idle)
            finally:
                self.returncode = _finish(process)

    def _follow(self, events: Path, process: subprocess.Popen[bytes], idle: bool) -> Iterator[dict[str, Any]]:
        with open(events, encoding="utf-8") as file:
            pending = ""
            while True:
                ended = process.poll() is not None
                pending += file.read()
                *lines, pending = pending.split("\n")
                for line in lines:
                    event = json.loads(line)
                    if event["event"] in ("failed", "unreachable"):
                        self.failures.append(event)
                    yield event
                if ended:
                    return
                if idle:
                    yield {"event": "idle"}
                time.sleep(_POLL_S)

    def explain(self) -> list[str]:
        """Why the run failed, one line for each host and reason; the log's last line when no event says so."""
        said: dict[str, None] = {}
        for event in self.failures:
            text = " ".join(str(event.get("msg", "")).split())
            host = event["host"]
            said[text if host in ("localhost",) or text.startswith(host) else f"{host}: {text}"] = None
        if not said and self.returncode:
            lines = self.log.read_text(errors="replace").strip().splitlines() or ["no output"]
            said[f"ansible-playbook ended with status {self.returncode}: {lines[-1]}"] = None
        return list(said)


def environment(events: Path | None = None) -> dict[str, str]:
    """Environment of an Ansible command over this tree."""
    env = {
        **os.environ,
        **tree.find().environment(),
        "ANSIBLE_FORCE_COLOR": "0",
        "ANSIBLE_NOCOLOR": "1",
    }
    if events is not None:
        env.update(ANSIBLE_CALLBACKS_ENABLED="ktls.fleet.ktls_events", KTLS_EVENTS=str(events))
    return env


def _finish(process: subprocess.Popen[bytes]) -> int:
    """Wait for the end; an operator's Ctrl-C is passed on, so that no wave is left half-way without its rescue."""
    while True:
        with contextlib.suppress(KeyboardInterrupt):
            return process.wait()
        os.killpg(process.pid, signal.SIGINT)

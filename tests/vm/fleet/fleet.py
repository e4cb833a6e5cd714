# SPDX-License-Identifier: Apache-2.0
"""A deployed lab and the commands of an operator over it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ktls_control import inventory as fleet_inventory
from ktls_control.clients import Clients
from ktls_control.demo import PORT, target
from ktls_control.fanout import run
from ktls_control.witness import Witness, read
from ktls_lab import api

ROOT = Path(__file__).resolve().parents[3]
WAVES = Path(__file__).with_name("waves.yml")


@dataclass(frozen=True)
class Deployed:
    """Agent and sidecar run on every host of the lab."""

    lab: api.Lab

    @property
    def names(self) -> list[str]:
        """Hosts, in inventory order."""
        return [host.name for host in self.lab.hosts]

    def run(self, tool: str, *arguments: str, timeout_s: float = 280) -> subprocess.CompletedProcess[str]:
        """Run a command of the virtual environment over ``inventory/lab``, as an operator does."""
        return subprocess.run(
            [str(Path(sys.executable).with_name(tool)), *arguments],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=self.environment(),
            timeout=timeout_s,
            check=False,
        )

    def environment(self) -> dict[str, str]:
        """Environment in which ``inventory/lab`` means this lab."""
        return {**os.environ, "KTLS_LAB": self.lab.name, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORCE_COLOR": "0"}

    def ktls(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run ``ktls``."""
        return self.run("ktls", *arguments)

    def status(self) -> dict[str, Any]:
        """``ktls status --json``, by host."""
        hosts: dict[str, Any] = json.loads(self.ktls("status", "--json").stdout)["hosts"]
        return hosts

    def agent(self, host: str, *arguments: str) -> dict[str, Any]:
        """Ask a host's agent by its own command, as root on the host."""
        # An order waits for helpers to start, a service for its restart: on emulated CPUs that others want too.
        done = self.lab.ssh(host, ["ktls-agent", *arguments, "--json"], timeout=150)
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def order(self, host: str, phase: str, epoch: int, *, lease_s: float = 180, identity: str) -> dict[str, Any]:
        """Order by hand."""
        arguments = ["--id", identity, "--epoch", str(epoch), "--phase", phase, "--lease", str(lease_s)]
        return self.agent(host, "order", *arguments, "--plan-sha256", "0" * 64)

    def witness(self) -> dict[str, Witness | None]:
        """What ``ss`` and ``tls_stat`` say of each host."""
        return read(self.hosts(), PORT)

    def hosts(self) -> list[fleet_inventory.Host]:
        """Hosts as the fan-out knows them."""
        variables = self.lab.inventory()["_meta"]["hostvars"]
        return [fleet_inventory.host_from_vars(name, variables[name]) for name in self.names]

    @contextmanager
    def load(self, *names: str) -> Iterator[Clients]:
        """Real clients, hashing every download, while the block runs."""
        hosts = [host for host in self.hosts() if host.name in (names or self.names)]
        clients = Clients([target(host) for host in hosts], limit_s=240)
        clients.start()
        try:
            yield clients
        finally:
            clients.stop()

    def wait(self, what: str, check: Callable[[], bool], timeout_s: float) -> float:
        """Seconds until ``check`` holds; fails the test when that never comes.

        :param timeout_s: what it takes at most on a quiet machine. The bound is for hangs: emulated CPUs that share two
            real ones with other tests get thrice as long.
        """
        started = time.monotonic()
        while not check():
            assert time.monotonic() - started < 3 * timeout_s, f"not within {3 * timeout_s} s: {what}"
            time.sleep(0.5)
        return time.monotonic() - started

    def settle(self, names: Sequence[str] = ()) -> int:
        """Userspace, no flag, nothing pending on ``names`` (all when empty); returns the highest epoch of all."""
        chosen = [host for host in self.hosts() if host.name in (names or self.names)]
        settled = "sh -c 'ktls-agent clear --json >&2; ktls-agent revert --reason between-tests --json'"
        answers = [answer.json() for answer in run(chosen, settled)]
        assert all(answer and answer["ok"] for answer in answers), answers
        epochs = (answer.json() for answer in run(self.hosts(), "ktls-agent status --json"))
        return max(int(status["epoch"]) for status in epochs if status)


def new_connection_is_ktls(deployed: Deployed, host: str) -> bool:
    """Whether a download that starts now is sent by the kernel: read from its counter, not from our own code."""
    script = (
        "before=$(awk '$1 == \"TlsTxSw\" {print $2}' /proc/net/tls_stat); "
        "name=$(hostname -f); "
        'curl -sS -o /dev/null --cacert /etc/ktls/tls/ca.pem --resolve "$name:8443:127.0.0.1" '
        '"https://$name:8443/medium.bin" || exit 1; '
        "after=$(awk '$1 == \"TlsTxSw\" {print $2}' /proc/net/tls_stat); echo $((after - before))"
    )
    done = deployed.lab.ssh(host, script)
    assert done.returncode == 0, done.stderr
    return int(done.stdout) > 0

# SPDX-License-Identifier: Apache-2.0
"""``ktls off`` for many hosts behind sshd, against the plainest parallel ssh that does the same."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.errors import BenchError
from ktls_host.jsonsock import call

from . import sshd
from .cost import Cost, run
from .hosts import GROUP, ROOT, Hosts, address, environment, serve

#: What plain ssh runs on each host: raise the flag, read back.
PLAIN = "/usr/local/sbin/ktls-off bench && /usr/local/bin/ktls-agent status --json"


@dataclass(frozen=True)
class Reached:
    """Hosts behind an sshd."""

    hosts: Hosts
    server: sshd.Sshd
    scratch: Path
    inventory: Path
    timeout_s: float


@contextlib.contextmanager
def reachable(scratch: Path, count: int, binary: str, timeout_s: float) -> Iterator[Reached]:
    """Fake agents and an sshd before them."""
    with serve(scratch / "hosts", count) as hosts, sshd.serve(hosts, scratch, binary) as server:
        inventory = scratch / "inventory.json"
        group = {
            "vars": {
                "ansible_user": "root",
                "ansible_port": sshd.PORT,
                "ansible_ssh_common_args": f"-F {server.config}",
                "ansible_ssh_private_key_file": str(server.key),
            },
            "hosts": {address(number): {} for number in range(len(hosts.names))},
        }
        inventory.write_text(json.dumps({GROUP: group}, indent=1))
        yield Reached(hosts, server, scratch, inventory, timeout_s)


def ktls(reached: Reached) -> Cost:
    """``ktls off``, and a look whether it is true."""
    _on(reached.hosts)
    argv = [
        str(ROOT / ".venv/bin/python"),
        *("-m", "ktls_control.cli", "off", "-i", str(reached.inventory), "--reason", "bench", "--json"),
    ]
    env = {**environment(), "KTLS_STATE_DIR": str(reached.scratch / "state")}
    cost = run(argv, reached.scratch / "off.log", cwd=ROOT, env=env, timeout_s=reached.timeout_s)
    _off(reached.hosts)
    return cost


def plain(reached: Reached, parallel: int) -> Cost:
    """``xargs -P`` over ``ssh``."""
    _on(reached.hosts)
    names = reached.scratch / "addresses"
    names.write_text("".join(f"{address(number)}\n" for number in range(len(reached.hosts.names))))
    argv = [
        *("xargs", "-P", str(parallel), "-I", "{}"),
        *("ssh", "-n", "-T", "-F", str(reached.server.config), "{}", PLAIN),
    ]
    cost = run(
        argv,
        reached.scratch / "plain.log",
        cwd=ROOT,
        env=environment(),
        timeout_s=reached.timeout_s,
        stdin=names,
    )
    _off(reached.hosts)
    return cost


def _on(hosts: Hosts) -> None:
    for number, name in enumerate(hosts.names):
        path = str(hosts.directory / name / "agent.sock")
        call(path, {"verb": "clear"})
        epoch = int(call(path, {"verb": "status"})["epoch"]) + 1
        order = {"phase": "tx", "id": f"bench-{number}", "epoch": epoch, "lease_s": 3600, "plan_sha256": ""}
        call(path, {"verb": "order", "order": order})
        call(path, {"verb": "confirm", "id": f"bench-{number}", "epoch": epoch})


def _off(hosts: Hosts) -> None:
    """Raises BenchError: a host is not off."""
    for name in hosts.names:
        status = call(str(hosts.directory / name / "agent.sock"), {"verb": "status"})
        if status["phase"] != "userspace" or not status["off"]["flag"]:
            raise BenchError(f"{name} is on {status['phase']}, flag {status['off']['flag']}: it was not switched off")

# SPDX-License-Identifier: Apache-2.0
"""``python -m bench.push [--hosts 100] [--pool 48]``: ktls off against plain parallel ssh and against fabric.

One sshd on this machine plays every host (``tests/orchestration/sshfleet.py`` says what is fake), so the wall clock is
shared with the hosts' side of each handshake; CPU is of the control node's own processes, children included.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.orchestration.sshfleet import SshFleet, ssh_fleet

# The same as `ktls off` at a host whose connections have gone.
_REMOTE = "$KTLS_OFF_PREFIX/usr/local/sbin/ktls-off x; $KTLS_OFF_PREFIX/usr/local/bin/ktls-agent status --json"
_QUICK = ("-o", "KexAlgorithms=^curve25519-sha256", "-o", "GSSAPIAuthentication=no")


def main() -> None:
    """Measure, and print a line for each way."""
    parser = argparse.ArgumentParser(prog="bench.push")
    parser.add_argument("--hosts", type=int, default=100)
    parser.add_argument("--pool", type=int, default=48)
    parser.add_argument("--repeat", type=int, default=2)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ktls-push-") as scratch, ssh_fleet(Path(scratch), asked.hosts) as fleet:
        ways: dict[str, Callable[[], None]] = {
            "ssh, as it comes, xargs -P": lambda: _xargs(fleet, asked.pool, ()),
            "ssh, curve25519, xargs -P": lambda: _xargs(fleet, asked.pool, _QUICK),
            "fabric (paramiko), threads": lambda: _fabric(fleet, asked.pool),
            "ktls off": lambda: _off(fleet, asked.pool),
        }
        print(f"{asked.hosts} hosts, {asked.pool} at a time, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}")
        # Keeps the list of hosts, so that ansible-inventory (a second, whatever the number of hosts) is in no figure.
        fleet.ktls("off", "--host", "web1")
        for name, way in ways.items():
            for _again in range(asked.repeat):
                wall, cpu = _measured(way)
                print(f"{name:30} {1000 * cpu / asked.hosts:6.1f} ms CPU a host, {wall:6.1f} s", flush=True)
        _polls(fleet, asked.pool)


def _measured(way: Callable[[], None]) -> tuple[float, float]:
    """Wall clock and CPU of ``way``, in seconds; it runs in children that are waited for."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    way()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.monotonic() - began, cpu


def _xargs(fleet: SshFleet, pool: int, more: Sequence[str]) -> None:
    command = [
        "xargs", "-P", str(pool), "-I{}", "ssh", "-F", f"{fleet.directory}/ssh_config", "-p", str(fleet.port),
        "-o", "BatchMode=yes", *more, "{}", _REMOTE,
    ]  # fmt: skip
    addresses = "\n".join(fleet.address(name) for name in fleet.names)
    subprocess.run(command, input=addresses, text=True, check=True, stdout=subprocess.DEVNULL)


def _fabric(fleet: SshFleet, pool: int) -> None:
    code = (
        "from ktls_control.fanout import run\nfrom ktls_control.hostlist import read\n"
        "from ktls_control.inventory import hosts_of\n"
        f"kept = read({str(fleet.inventory)!r}, 'ktls_hosts')\n"
        f"hosts = hosts_of(kept.data, {str(fleet.inventory)!r}, 'ktls_hosts', None)\n"
        # Fabric looks hosts up in ssh_config by their names, where these are known by address.
        "import dataclasses\nhosts = [dataclasses.replace(host, name=host.address) for host in hosts]\n"
        f"done = list(run(hosts, {_REMOTE!r}, pool={pool}))\n"
        "print(f'  {sum(answer.ok for answer in done)} of {len(done)} answered')\n"
    )
    subprocess.run([sys.executable, "-c", code], env=fleet.environment(), check=True)


def _off(fleet: SshFleet, pool: int) -> None:
    done = fleet.ktls("off", "--json", "--pool", str(pool), timeout_s=600)
    said = json.loads(done.stdout)
    off = sum(host["off"] for host in said["hosts"].values())
    print(f"  {off} of {len(said['hosts'])} off, hosts from: {said['inventory']['list']}")


def _polls(fleet: SshFleet, pool: int) -> None:
    code = (
        "import resource, time\nfrom ktls_control.reach import Reach\nfrom ktls_control.inventory import load\n"
        f"hosts = load({str(fleet.inventory)!r})\n"
        "def cpu():\n"
        "    return sum(resource.getrusage(who).ru_utime + resource.getrusage(who).ru_stime for who in (0, -1))\n"
        f"with Reach(hosts, pool={pool}) as reach:\n"
        "    names = [host.name for host in hosts]\n"
        "    for turn in range(4):\n"
        "        before, began = cpu(), time.monotonic()\n"
        "        lost = [reply.error for reply in reach.ask(names, 'status') if not reply.data]\n"
        "        print(f'  {len(lost)} lost, first: {lost[0]}' if lost else '', end='')\n"
        "        print(f'  poll {turn}: {1000 * (cpu() - before) / len(names):.2f} ms of Python a host, '\n"
        "              f'{time.monotonic() - began:.1f} s', flush=True)\n"
        "    import os\n"
        "    pids = [session.child.pid for session in reach._sessions.values()]\n"
        "    kib = sum(int(line.split()[1]) for pid in pids for line in open(f'/proc/{pid}/smaps_rollup')\n"
        "              if line.startswith(('Pss:', 'Private_Dirty:')) and line.startswith('Pss:'))\n"
        "    ticks = sum(sum(int(v) for v in open(f'/proc/{pid}/stat').read().rpartition(')')[2].split()[11:13])\n"
        "                for pid in pids)\n"
        "    print(f'  sessions: {len(pids)}, {kib / len(pids):.0f} KiB each (PSS), '\n"
        "          f'{10 * ticks / len(pids):.1f} ms of CPU each, handshake and four answers')\n"
    )
    print("status over sessions that stay open (Reach):", flush=True)
    subprocess.run([sys.executable, "-c", code], env=fleet.environment(), check=True)


if __name__ == "__main__":
    main()

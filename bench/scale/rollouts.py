# SPDX-License-Identifier: Apache-2.0
"""The three ways through the fleet that are compared: the project's rollout, a naive playbook, three pings."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import platform
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import BenchError
from ktls_control.plan import file as plan_file
from ktls_control.plan.model import Gates, Plan, PlannedHost, Soak, Wave
from ktls_control.rollout import store
from ktls_host import drift
from ktls_host.jsonsock import call

from . import sshd
from .cost import Cost, run
from .hosts import GROUP, ROOT, Hosts, environment, serve

HERE = Path(__file__).parent
_PROBE = b"".join(b"%063d\n" % number for number in range(512))


@dataclass(frozen=True)
class Job:
    """One measurement: a way, and how many hosts in how many waves.

    :param soak_s: seconds that each wave waits, the same for the rollout and the naive playbook.
    :param sshd: path of an sshd, to reach the hosts over SSH; "": ``connection: local``.
    """

    hosts: int
    waves: int
    forks: int
    soak_s: float
    timeout_s: float
    sshd: str = ""


def sizes(hosts: int, waves: int) -> list[int]:
    """Hosts of each wave: one canary, then even waves."""
    if waves < 2 or hosts < waves:
        return [hosts]
    rest, count = hosts - 1, waves - 1
    return [1] + [rest // count + (number < rest % count) for number in range(count)]


def rollout(job: Job, scratch: Path) -> Cost:
    """``playbooks/rollout.yml`` with a plan; every host has the phase and keeps it afterwards."""
    with _fleet(job, scratch) as (hosts, inventory):
        _release(scratch / "ktls-agent")
        path = scratch / "plan.yml"
        plan_file.save(_plan(job, hosts, inventory), path)
        cost = _ansible(job, scratch, "rollout", inventory, str(ROOT / "playbooks/rollout.yml"), path)
        _kept(hosts)
    return cost


def _plan(job: Job, hosts: Hosts, inventory: Path) -> Plan:
    """Every host, by its own facts. The gate checks each of them; a soak of a second holds no experiment."""
    facts = drift.facts(call(str(hosts.directory / hosts.names[0] / "agent.sock"), {"verb": "status"}))
    soak, waves, left = Soak(job.soak_s, job.soak_s + 60, 0, 100_000), [], list(hosts.names)
    for number, size in enumerate(sizes(job.hosts, job.waves), 1):
        waves.append(Wave(number, f"wave {number}", tuple(left[:size]), soak))
        left = left[size:]
    return Plan(
        version=plan_file.VERSION, id="bench", created="2026-01-01T00:00:00Z", phase="tx", inventory=str(inventory),
        group=GROUP, limit=None, fleet=store.fleet_name(str(inventory), GROUP), epoch_floor=0, lease_s=3600.0,
        failure_budget=0, hosts={name: PlannedHost(facts) for name in hosts.names}, refused={}, waves=tuple(waves),
        gates=Gates(method="none", on_inconclusive="fail"),
    )  # fmt: skip


def naive(job: Job, scratch: Path) -> Cost:
    """``naive.yml``: the same with what comes with Ansible."""
    with _fleet(job, scratch) as (hosts, inventory), _probe() as url:
        records = scratch / "records"
        records.mkdir()
        for name in hosts.names:
            _agent(hosts, name)
        variables = {
            "bench_agent": f"{hosts.directory}/{{{{ inventory_hostname }}}}/ktls-agent",
            "bench_waves": sizes(job.hosts, job.waves),
            "bench_soak_s": job.soak_s,
            "bench_kernel": platform.release(),
            "bench_probe_url": url,
            "bench_probe_sha256": hashlib.sha256(_PROBE).hexdigest(),
            "bench_records": str(records),
        }
        cost = _ansible(job, scratch, "naive", inventory, str(HERE / "naive.yml"), _given(scratch, variables))
        _kept(hosts)
        if len(list(records.iterdir())) != job.hosts:
            raise BenchError("the naive playbook did not write a record for each host")
    return cost


def pings(job: Job, scratch: Path) -> Cost:
    """``pings.yml``: the floor."""
    with _fleet(job, scratch) as (_hosts, inventory):
        variables = {"bench_waves": sizes(job.hosts, job.waves)}
        return _ansible(job, scratch, "pings", inventory, str(HERE / "pings.yml"), _given(scratch, variables))


WAYS = {"rollout": rollout, "naive": naive, "pings": pings}


@contextlib.contextmanager
def _fleet(job: Job, scratch: Path) -> Iterator[tuple[Hosts, Path]]:
    """Fake agents, and an inventory of them. With an sshd, what runs on a host is none of Ansible's descendants."""
    common = {"ansible_python_interpreter": "/usr/bin/python3", "ansible_user": "root", "ansible_become": False}
    common["ktls_agent_command"] = str(scratch / "ktls-agent")
    inventory = scratch / "inventory.json"
    with serve(scratch / "hosts", job.hosts) as hosts:
        if not job.sshd:
            yield hosts, hosts.inventory(inventory, {**common, "ansible_connection": "local"})
            return
        with sshd.serve(hosts, scratch, job.sshd) as server:
            reach = {
                "ansible_port": sshd.PORT,
                "ansible_ssh_common_args": f"-F {server.config}",
                "ansible_ssh_private_key_file": str(server.key),
                "ansible_control_path_dir": str(scratch / "cp"),
            }
            yield hosts, hosts.inventory(inventory, {**common, **reach}, addresses=True)


def _given(scratch: Path, variables: dict[str, Any]) -> Path:
    path = scratch / "variables.json"
    path.write_text(json.dumps(variables))
    return path


def _ansible(job: Job, scratch: Path, name: str, inventory: Path, playbook: str, variables: Path) -> Cost:
    argv = [
        str(ROOT / ".venv/bin/ansible-playbook"),
        *("-i", str(inventory), "-f", str(job.forks), "-e", f"@{variables}", playbook),
    ]
    state = {"KTLS_STATE_DIR": str(scratch / "state")}
    return run(argv, scratch / f"{name}.log", cwd=ROOT, env={**environment(), **state}, timeout_s=job.timeout_s)


def _kept(hosts: Hosts) -> None:
    """What was claimed is read back from every host. Raises BenchError: one is not there."""
    for name in hosts.names:
        status = call(str(hosts.directory / name / "agent.sock"), {"verb": "status"})
        if (status["phase"], status["order"]) != ("tx", "committed"):
            raise BenchError(
                f"{name} is on {status['phase']}, its order {status['order']}: the run did not do its work"
            )


def _release(path: Path) -> None:
    """The agent's command line as a host has it: the release. Raises BenchError: it cannot be built."""
    argv = [sys.executable, str(ROOT / "agent/build.py"), "--output", str(path)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(
            f"the release cannot be built: {(done.stderr.strip().splitlines() or ['no reason given'])[-1]}"
        )


def _agent(hosts: Hosts, name: str) -> None:
    """The agent's command line on a host that shares this machine: it has to know which host it is on."""
    script = hosts.directory / name / "ktls-agent"
    cli = HERE / "hostcli.py"
    script.write_text(f'#!/bin/sh\nexec /usr/bin/python3 -ISs {cli} {hosts.directory} {name} ktls-agent "$@"\n')
    script.chmod(0o755)


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(len(_PROBE)))
        self.end_headers()
        self.wfile.write(_PROBE)

    def log_message(self, *_arguments: Any) -> None:
        """Say nothing."""


@contextlib.contextmanager
def _probe() -> Iterator[str]:
    """A web server with the probe object, one for all hosts."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/probe"
    finally:
        server.shutdown()
        server.server_close()

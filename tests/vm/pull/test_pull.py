# SPDX-License-Identifier: Apache-2.0
"""The kill switch by pull on a real host: set up by its playbook, obeyed without the agent, harmless else."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ktls_control import flag
from tests.authority import Authority

from .. import deployed as deployed_hosts
from ..conftest import StartLab
from ..fleet.fleet import Deployed, new_connection_is_ktls

HOST, FLEET, PORT = "web1", "lab", 9443
SERVER = f"""
import functools, http.server, ssl
class Static(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
server = http.server.ThreadingHTTPServer(("127.0.0.1", {PORT}), functools.partial(Static, directory="/srv/flags"))
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("/root/flags.pem", "/root/flags.key")
server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
server.serve_forever()
"""


class Rig:
    """A deployed host, a static web server beside it, and a key that may sign."""

    def __init__(self, deployed: Deployed, scratch: Path) -> None:
        self.deployed = deployed
        self.key = scratch / "key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.key)], check=True)
        authority = Authority(scratch)
        pair = authority.issue("flags", ["127.0.0.1"])
        self.put("/root/flags.pem", pair.certificate.read_bytes())
        self.put("/root/flags.key", pair.key.read_bytes())
        self.put("/root/static.py", SERVER.encode())
        self.variables = scratch / "pull.json"
        self.variables.write_text(
            json.dumps(
                {
                    "ktls_pull_fleet": FLEET,
                    # The second one never answers.
                    "ktls_pull_endpoints": [f"https://127.0.0.1:{PORT}/flag", "https://127.0.0.1:9/flag"],
                    "ktls_pull_signers": [{"key": self.key.with_suffix(".pub").read_text().strip()}],
                    "ktls_pull_ca": str(authority.path),
                }
            )
        )

    def run(self, script: str) -> str:
        done = self.deployed.lab.ssh(HOST, ["bash", "-c", script], timeout=120)
        assert done.returncode == 0, f"{script}: {done.stdout}{done.stderr}"
        return done.stdout

    def put(self, path: str, content: bytes) -> None:
        argv = self.deployed.lab.ssh_argv(HOST, f"mkdir -p /srv/flags && cat > {path}.new && mv {path}.new {path}")
        subprocess.run(argv, input=content, check=True, timeout=60)

    def serve(self, serving: bool) -> None:
        unit = "--unit=flags --collect python3 /root/static.py"
        self.run(f"systemd-run -q {unit}" if serving else "systemctl stop flags")

    def publish(self, state: str) -> None:
        self.put("/srv/flags/flag", flag.sign(self.key, FLEET, state, f"the test says {state}"))

    def playbook(self, *more: str) -> subprocess.CompletedProcess[str]:
        arguments = ("-i", "inventory/lab", "playbooks/pull.yml", "-e", f"@{self.variables}", *more)
        return self.deployed.run("ansible-playbook", *arguments)

    def fetcher(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.run("cat /run/ktls-pull/status.json"))
        return found

    def first(self) -> dict[str, Any]:
        found: dict[str, Any] = self.fetcher()["endpoints"][0]
        return found

    def flag_is_raised(self) -> bool:
        return self.deployed.lab.ssh(HOST, "test -e /run/ktls/off").returncode == 0


@pytest.fixture(scope="module")
def rig(start_lab: StartLab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    deployed = deployed_hosts.start(start_lab, "pull")
    yield Rig(deployed, tmp_path_factory.mktemp("rig"))
    deployed.lab.down()


def test_the_whole_story(rig: Rig) -> None:
    # A host that would find no flag is refused; then the same playbook sets it up, once.
    assert rig.run("systemctl is-enabled ktls-pull || true").strip() == "disabled"
    rig.serve(True)
    refused = rig.playbook()
    assert refused.returncode != 0
    assert "no endpoint has a valid flag" in " ".join(refused.stdout.split())
    assert "(missing): there is no flag (status 404)" in " ".join(refused.stdout.split())
    rig.publish("none")
    rig.deployed.wait("the flag is seen", lambda: rig.fetcher()["state"] == "none", 20)
    done = rig.playbook()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "changed=0" in done.stdout, "a second run changes nothing"
    shown = rig.run("systemctl show -p User,ActiveState,MemoryCurrent,NRestarts ktls-pull")
    assert "User=ktls-pull" in shown
    assert "NRestarts=0" in shown
    pull = rig.deployed.agent(HOST, "status")["pull"]
    assert (pull["running"], pull["state"]) == (True, "none")
    assert pull["age_s"] < 60
    assert "gives no valid flag (unreachable)" in pull["problems"][0]

    # kTLS is on; the server goes away, and comes back with rubbish: nothing changes.
    assert rig.deployed.order(HOST, "tx", 1, identity="pull-1")["ok"]
    assert rig.deployed.agent(HOST, "confirm", "--id", "pull-1", "--epoch", "1")["ok"]
    assert new_connection_is_ktls(rig.deployed, HOST)
    rig.serve(False)
    rig.deployed.wait("it is missed", lambda: rig.first()["result"] == "unreachable", 20)
    rig.put("/srv/flags/flag", b"state: off\n")
    rig.serve(True)
    rig.deployed.wait("it is read", lambda: rig.first()["result"] == "malformed", 40)
    assert new_connection_is_ktls(rig.deployed, HOST)
    assert not rig.flag_is_raised()

    # The agent is dead, and the clock of the host an hour ahead: OFF is obeyed all the same.
    rig.run("systemctl kill --signal=SIGKILL ktls-agent; systemctl stop ktls-agent; date -s '+1 hour' > /dev/null")
    assert new_connection_is_ktls(rig.deployed, HOST)
    rig.publish("off")
    rig.deployed.wait("the flag is raised", rig.flag_is_raised, 30)
    assert not new_connection_is_ktls(rig.deployed, HOST)
    rig.deployed.wait("the debt is kept", lambda: "test says off" in rig.run("cat /var/lib/ktls-pull/owed.json"), 20)
    rig.run("date -s '-1 hour' > /dev/null; systemctl start ktls-agent")
    rig.deployed.wait("the agent answers", lambda: rig.deployed.agent(HOST, "status")["ok"], 30)
    durable = "test -e /var/lib/ktls/off && ! test -e /var/lib/ktls-pull/owed.json"
    rig.deployed.wait("the debt is paid", lambda: rig.deployed.lab.ssh(HOST, durable).returncode == 0, 30)
    status = rig.deployed.agent(HOST, "status")
    assert (status["phase"], status["off"]["flag"], status["order"]) == ("userspace", True, "reverted")
    assert "the test says off" in status["off"]["reason"]

    # A clear lasts until the next poll while the flag says off; after none, it lasts.
    rig.deployed.agent(HOST, "clear")
    rig.deployed.wait("it is latched again", rig.flag_is_raised, 20)
    rig.publish("none")
    rig.deployed.wait("none is seen", lambda: rig.first()["result"] == "none", 20)
    assert rig.flag_is_raised(), "none clears nothing"
    rig.deployed.agent(HOST, "clear")
    assert not rig.deployed.agent(HOST, "status")["off"]["flag"]
    assert not new_connection_is_ktls(rig.deployed, HOST), "and nothing turns anything on"

    # The clock an hour behind, so that the flag is signed in the future: OFF is obeyed all the same.
    assert rig.deployed.order(HOST, "tx", 2, identity="pull-2")["ok"]
    assert new_connection_is_ktls(rig.deployed, HOST)
    rig.run("date -s '-1 hour' > /dev/null")
    rig.publish("off")
    rig.deployed.wait("the flag is raised", rig.flag_is_raised, 30)
    # Not before: to a client with that clock the host's certificate is of the future.
    rig.run("date -s '+1 hour' > /dev/null")
    assert not new_connection_is_ktls(rig.deployed, HOST)
    rig.publish("none")
    rig.deployed.wait("none is seen", lambda: rig.first()["result"] == "none", 20)
    rig.deployed.agent(HOST, "clear")

    # What the unit promises, seen from the kernel; then all of it goes away.
    assert rig.run("ss -Htlnp").count("ktls-pull") == 0
    memory = dict(line.split("=") for line in rig.run("systemctl show -p MemoryCurrent,NRestarts ktls-pull").split())
    assert int(memory["MemoryCurrent"]) < 64 << 20
    assert memory["NRestarts"] == "0"
    gone = rig.playbook("-e", "ktls_pull_state=absent")
    assert gone.returncode == 0, gone.stdout + gone.stderr
    assert rig.run("systemctl is-active ktls-pull || true").strip() == "inactive"
    assert rig.run("ls /etc/ktls/pull.json /etc/ktls/allowed_signers /var/lib/ktls-pull 2>/dev/null || true") == ""

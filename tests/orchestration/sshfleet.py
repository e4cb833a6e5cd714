# SPDX-License-Identifier: Apache-2.0
"""Hosts behind a real sshd: one loopback address and one directory each.

What is real: OpenSSH on both sides, host keys and known_hosts, ``ktls-off`` itself, whatever the control side sends.
What is fake: a host's root is a directory (``KTLS_OFF_PREFIX``), its kernel a file ``proc/net/tls_stat``, its agent a
shell script that says what the files beside it say. A forced command stands in for the host's own login shell.

Run as a program it is the network: it listens on every address, and gives each connection to an sshd of its own. A
host is cut off by not listening, hangs (accepts, says nothing) while its directory holds a file ``hang``, and turns one
connection away for each file ``busy*``, as an sshd with too many at once does.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from ktls_control import hostlist
from ktls_control.inventory import Host, host_from_vars

ROOT = Path(__file__).resolve().parents[2]
SSHD = "/usr/sbin/sshd"

# Says what a host's agent would: userspace once the flag is there. `left` and `agent-says` are files of the test.
_AGENT = """#!/bin/sh
here=$KTLS_OFF_PREFIX
[ ! -e "$here/agent-says" ] || exec sh "$here/agent-says"
read -r left <"$here/left"
flag=false phase=tx
if [ -e "$here/run/ktls/off" ]; then flag=true phase=userspace; fi
printf '{"connections": {"ktls_tx": %s, "userspace": 1}, "epoch": 3, "off": {"flag": %s}, "ok": true, ' "$left" "$flag"
printf '"order": "reverted", "phase": "%s", "sidecar": {"ktls_tx_zero_age_s": 0.0}, ' "$phase"
printf '"bytes": {}, "tls_stat": {}}\\n'
"""
_AS_HOST = """#!/bin/sh
set -- $SSH_CONNECTION
KTLS_OFF_PREFIX={directory}/$3
export KTLS_OFF_PREFIX
[ ! -e "$KTLS_OFF_PREFIX/slow" ] || sleep 2
exec sh -c "$SSH_ORIGINAL_COMMAND"
"""


@dataclass
class SshFleet:
    """Hosts ``web1`` to ``webN``.

    :param cut: hosts on whose address nobody listens.
    :param strangers: hosts that known_hosts has another key of.
    """

    directory: Path
    count: int
    cut: Sequence[str] = ()
    strangers: Sequence[str] = ()
    port: int = 0
    network: str = field(default_factory=lambda: f"127.{os.getpid() % 200 + 20}.{os.getpid() // 200 % 250}")

    @property
    def names(self) -> list[str]:
        """In inventory order."""
        return [f"web{number}" for number in range(1, self.count + 1)]

    def address(self, name: str) -> str:
        """Loopback address of a host."""
        return f"{self.network}.{int(name.removeprefix('web'))}"

    def root(self, name: str) -> Path:
        """The directory that is the host's root."""
        return self.directory / self.address(name)

    def flags(self) -> dict[str, bool]:
        """Whether the off flag is there, by host: from the files themselves."""
        return {name: (self.root(name) / "run/ktls/off").exists() for name in self.names}

    @property
    def inventory(self) -> Path:
        """A static inventory of them."""
        return self.directory / "hosts.yml"

    def kernel(self, name: str, open_now: int, opened: int) -> None:
        """What the host's kernel counts."""
        text = f"TlsCurrTxSw {open_now}\nTlsCurrRxSw 0\nTlsTxSw {opened}\nTlsRxSw 0\nTlsCurrTxDevice 0\nTlsTxDevice 0\n"
        _write(self.root(name) / "proc/net/tls_stat", text)

    def left(self, name: str, count: int) -> None:
        """What the host's sidecar counts."""
        _write(self.root(name) / "left", f"{count}\n")

    def agent_says(self, name: str, script: str) -> None:
        """Let the agent be this shell script."""
        _write(self.root(name) / "agent-says", script)

    def environment(self) -> dict[str, str]:
        """Environment of a control node that knows these hosts only."""
        return {
            **os.environ,
            "KTLS_STATE_DIR": str(self.directory / "state"),
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_SSH_ARGS": "-o ControlMaster=no",  # or Ansible leaves a process behind for two minutes
            "ANSIBLE_NOCOLOR": "1",
        }

    def hosts(self) -> list[Host]:
        """As the inventory has them, without asking Ansible."""
        return [host_from_vars(name, each) for name, each in _hostvars(self.inventory.read_text()).items()]

    def keep(self, answer: str) -> None:
        """Let ``answer`` (YAML of an inventory) be what the inventory said last: saves its second in each test."""
        hostvars = _hostvars(answer)
        data = {"_meta": {"hostvars": hostvars}, "ktls_hosts": {"hosts": list(hostvars)}}
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.directory)
            for name, value in self.environment().items():
                patch.setenv(name, value)
            hostlist.save(data, str(self.inventory), "ktls_hosts")

    def ktls(self, *arguments: str, inventory: str | None = None, timeout_s: float = 60) -> Any:
        """Run ``ktls VERB -i INVENTORY ...``."""
        verb, *more = arguments
        return subprocess.run(
            [str(Path(sys.executable).with_name("ktls")), verb, "-i", inventory or str(self.inventory), *more],
            capture_output=True, text=True, cwd=self.directory, env=self.environment(), timeout=timeout_s, check=False,
        )  # fmt: skip

    def json(self, *arguments: str) -> Any:
        """The object that ``ktls ... --json`` prints."""
        done = self.ktls(*arguments, "--json")
        assert done.stdout, done.stderr
        return json.loads(done.stdout)


def _hostvars(inventory: str) -> dict[str, dict[str, Any]]:
    group = yaml.safe_load(inventory)["ktls_hosts"]
    return {name: {**group["vars"], **(own or {})} for name, own in group["hosts"].items()}


@contextmanager
def ssh_fleet(
    directory: Path, count: int, *, cut: Sequence[str] = (), strangers: Sequence[str] = ()
) -> Iterator[SshFleet]:
    """Hosts with agent and ``ktls-off``, on ``tx``, without connections; gone at the end."""
    fleet = SshFleet(directory, count, cut, strangers)
    for key in ("host", "other", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(directory / key)], check=True)
    for name in fleet.names:
        _host(fleet, name)
    # Executable, and not written by this process while another starts a child: no ETXTBSY.
    _write(directory / "as-host", _AS_HOST.format(directory=directory), 0o755)
    # For a command that has to be the same on every host.
    _write(directory / "ktls-off", '#!/bin/sh\nexec "$KTLS_OFF_PREFIX/usr/local/sbin/ktls-off" "$@"\n', 0o755)
    _write(directory / "sshd_config", _sshd_config(directory))
    listening = [fleet.address(name) for name in fleet.names if name not in cut]
    command = [sys.executable, __file__, str(directory), *listening]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as network:
        assert network.stdout is not None
        fleet.port = int(network.stdout.readline())
        _control_node(fleet)
        try:
            yield fleet
        finally:
            network.communicate(timeout=10)


def _host(fleet: SshFleet, name: str) -> None:
    root = fleet.root(name)
    for place in ("run/ktls", "var/lib/ktls", "proc/net"):
        (root / place).mkdir(parents=True)
    _write(root / "usr/local/sbin/ktls-off", (ROOT / "agent/units/ktls-off").read_text(), 0o755)
    _write(root / "usr/local/bin/ktls-agent", _AGENT, 0o755)
    fleet.kernel(name, 0, 7)
    fleet.left(name, 0)


def _sshd_config(directory: Path) -> str:
    # As root, sshd wants PAM to let in an account without a password; nobody else can ask PAM.
    return f"""HostKey {directory}/host
AuthorizedKeysFile {directory}/user.pub
ForceCommand {directory}/as-host
StrictModes no
UsePAM {"yes" if os.geteuid() == 0 else "no"}
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
PidFile none
LogLevel ERROR
UseDNS no
"""


def _control_node(fleet: SshFleet) -> None:
    keys = {key: " ".join((fleet.directory / f"{key}.pub").read_text().split()[:2]) for key in ("host", "other")}
    known = "".join(
        f"[{fleet.address(name)}]:{fleet.port} {keys['other' if name in fleet.strangers else 'host']}\n"
        for name in fleet.names
    )
    _write(fleet.directory / "known_hosts", known)
    _write(
        fleet.directory / "ssh_config",
        f"UserKnownHostsFile {fleet.directory}/known_hosts\nIdentityFile {fleet.directory}/user\nIdentitiesOnly yes\n",
    )
    variables = {"ansible_port": fleet.port, "ansible_ssh_common_args": f"-F {fleet.directory}/ssh_config"}
    hosts = {name: {"ansible_host": fleet.address(name)} for name in fleet.names}
    fleet.inventory.write_text(yaml.safe_dump({"ktls_hosts": {"vars": variables, "hosts": hosts}}))
    fleet.keep(fleet.inventory.read_text())


def _write(path: Path, text: str, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(text)
    temporary.chmod(mode)
    temporary.replace(path)


def main(directory: str, addresses: Sequence[str]) -> None:
    """Listen on all, print the port, and serve until standard input ends."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for an sshd
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    selector = selectors.DefaultSelector()
    port = 0
    for address in addresses:
        server = socket.create_server((address, port), backlog=64)
        port = server.getsockname()[1]
        selector.register(server, selectors.EVENT_READ, Path(directory, address))
    selector.register(sys.stdin, selectors.EVENT_READ, None)
    print(port, flush=True)
    hanging = []
    while True:
        for key, _events in selector.select():
            if key.data is None:
                return
            assert isinstance(key.fileobj, socket.socket)
            connection, _peer = key.fileobj.accept()
            if (key.data / "hang").exists():
                hanging.append(connection)
                continue
            if busy := next(key.data.glob("busy*"), None):
                busy.unlink()
                connection.close()
                continue
            with connection:
                subprocess.Popen(
                    [SSHD, "-i", "-f", f"{directory}/sshd_config"],
                    stdin=connection.fileno(), stdout=connection.fileno(), stderr=subprocess.DEVNULL,
                )  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])

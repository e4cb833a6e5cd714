# SPDX-License-Identifier: Apache-2.0
"""One sshd of our own that answers for every simulated host, on an address each.

It lives in a network namespace, where only the loopback interface exists, and in a mount namespace, where
``/usr/local`` has the commands of a host and ``/etc/passwd`` the user that sshd wants: this machine is not touched.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.errors import BenchError

from .hosts import Hosts, address

PORT = 22022
_INSIDE = "KTLS_BENCH_INSIDE"

# A host by the address that was connected to; what runs is what the client asked for.
_SHELL = """#!/bin/sh
set -- $SSH_CONNECTION
KTLS_OFF_PREFIX={base}/$3
export KTLS_OFF_PREFIX
exec /bin/sh -c "$SSH_ORIGINAL_COMMAND"
"""
_COMMAND = """#!/bin/sh
exec /usr/bin/python3 -ISs {cli} {base} - {name} "$@"
"""


def enter(argv: Sequence[str]) -> None:
    """Run this program again in namespaces of its own, unless it is there already.

    :raises BenchError: when that takes root, or a tool is missing.
    """
    if os.environ.get(_INSIDE):
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        return
    if os.geteuid() != 0:
        raise BenchError("hosts behind an sshd live in namespaces: run this as root, or with --only rollout")
    for tool in ("unshare", "ip", "mount"):
        if not shutil.which(tool):
            raise BenchError(f"{tool} is missing: apt-get install util-linux iproute2 mount")
    os.execvpe(
        "unshare",
        ["unshare", "--net", "--mount", "--propagation", "private", sys.executable, "-m", "bench.scale", *argv],
        {**os.environ, _INSIDE: "1", "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"},
    )


@dataclass(frozen=True)
class Sshd:
    """:param config: for ``ssh -F``; ``key``: of the user; ``known_hosts``: one key for all addresses."""

    config: Path
    key: Path
    known_hosts: Path
    pid: int


@contextlib.contextmanager
def serve(hosts: Hosts, scratch: Path, binary: str, user: str = "root") -> Iterator[Sshd]:
    """Answer for ``hosts`` until the end of the block."""
    _commands(hosts, scratch)
    key, host_key = scratch / "id", scratch / "host_key"
    for path in (key, host_key):
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path))
    mounted = _mounts(scratch)
    (scratch / "sshd_config").write_text(
        f"ListenAddress 0.0.0.0\nPort {PORT}\nHostKey {host_key}\nPidFile none\nUsePAM no\nStrictModes no\n"
        f"PermitRootLogin prohibit-password\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
        f"AuthorizedKeysFile {key}.pub\nAllowUsers {user}\nMaxStartups 1000\nMaxSessions 1000\nUseDNS no\n"
        f"PrintMotd no\nPrintLastLog no\nLogLevel ERROR\nForceCommand {scratch}/shell\n"
    )
    known = scratch / "known_hosts"
    line = host_key.with_suffix(".pub").read_text()
    known.write_text("".join(f"[{address(number)}]:{PORT} {line}" for number in range(len(hosts.names))))
    config = scratch / "ssh_config"
    config.write_text(
        f"Host *\n  Port {PORT}\n  User {user}\n  IdentityFile {key}\n  IdentitiesOnly yes\n"
        f"  UserKnownHostsFile {known}\n  GlobalKnownHostsFile /dev/null\n  StrictHostKeyChecking yes\n"
        "  BatchMode yes\n  GSSAPIAuthentication no\n  PreferredAuthentications publickey\n  LogLevel ERROR\n"
        # The hybrid that leads OpenSSH's list costs twice the CPU of a handshake: plain ssh shall not lose by that.
        "  KexAlgorithms ^curve25519-sha256,curve25519-sha256@libssh.org\n"
    )
    with (
        open(scratch / "sshd.log", "wb") as log,
        subprocess.Popen(
            [binary, "-D", "-e", "-f", str(scratch / "sshd_config")], stdin=subprocess.DEVNULL, stdout=log, stderr=log
        ) as process,
    ):
        try:
            _wait(process, scratch / "sshd.log")
            yield Sshd(config, key, known, process.pid)
        finally:
            process.terminate()
            process.wait(10)
            # What they lead to goes with the scratch directory, and nothing can be mounted over what is gone.
            for place in mounted:
                _run("umount", "--lazy", place)


def find(given: str | None) -> str:
    """Path of an sshd. Raises BenchError: there is none."""
    for candidate in (given, shutil.which("sshd"), "/usr/sbin/sshd"):
        if candidate and os.access(candidate, os.X_OK):
            return str(Path(candidate).resolve())
    raise BenchError(
        "there is no sshd here: apt-get install openssh-server (it need not run), or name one with --sshd, "
        "or measure the rest with --only rollout"
    )


def _commands(hosts: Hosts, scratch: Path) -> None:
    """A directory by address: how the host is called, and its commands below a root of its own."""
    base = scratch / "by-address"
    local = scratch / "local"
    cli = Path(__file__).with_name("hostcli.py")
    for place, name in (("sbin", "ktls-off"), ("bin", "ktls-agent")):
        (local / place).mkdir(parents=True)
        _script(local / place / name, _COMMAND.format(cli=cli, base=base, name=name))
    for number, name in enumerate(hosts.names):
        root = base / address(number)
        (root / "usr").mkdir(parents=True)
        (root / "usr/local").symlink_to(local)
        (root / "agent.sock").symlink_to(hosts.directory / name / "agent.sock")
    _script(scratch / "shell", _SHELL.format(base=base))


def _script(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def _mounts(scratch: Path) -> tuple[str, ...]:
    """Only in this namespace: commands of a host at their usual place, and what sshd asks of a machine.

    :returns: what is to be unmounted.
    """
    _run("mount", "--bind", str(scratch / "local"), "/usr/local")
    _run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run")
    Path("/run/sshd").mkdir(mode=0o755)
    passwd = Path("/etc/passwd").read_text()
    if "\nsshd:" in passwd:
        return "/usr/local", "/run"
    (scratch / "passwd").write_text(passwd + "sshd:x:65533:65534::/run/sshd:/usr/sbin/nologin\n")
    _run("mount", "--bind", str(scratch / "passwd"), "/etc/passwd")
    return "/usr/local", "/run", "/etc/passwd"


def _wait(process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 10
    while time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection((address(0), PORT), 1) as sock:
            if sock.recv(4) == b"SSH-":
                return
        if process.poll() is not None:
            break
        time.sleep(0.05)
    lines = log.read_text(errors="replace").strip().splitlines() or ["no message"]
    raise BenchError(f"sshd did not start: {lines[-1]}")


def _run(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BenchError(f"`{' '.join(argv)}` failed: {(done.stderr.strip().splitlines() or ['no reason given'])[-1]}")

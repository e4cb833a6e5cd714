# SPDX-License-Identifier: Apache-2.0
"""One command on many hosts, with bounded parallelism and a time limit for each host."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any

import invoke
import paramiko

from .inventory import Host
from .ssh import connect, privileged

DEFAULT_POOL = 64
DEFAULT_TIMEOUT_S = 20.0


@dataclass(frozen=True)
class Answer:
    """What one host said.

    :param reached: the command ran to its end on the host.
    :param error: one line when it was not reached, else None.
    :param at: control node's ``time.time()`` when the answer was complete.
    """

    host: Host
    reached: bool
    exit_status: int | None
    stdout: str
    stderr: str
    error: str | None
    at: float

    @property
    def ok(self) -> bool:
        """Reached, and the command exited with 0."""
        return self.reached and self.exit_status == 0

    def json(self) -> dict[str, Any] | None:
        """The last line of the output as a JSON object, None when it is none."""
        lines = self.stdout.strip().splitlines()
        try:
            data = json.loads(lines[-1]) if lines else None
        except ValueError:
            return None
        return data if isinstance(data, dict) else None

    @property
    def complaint(self) -> str:
        """Why this answer is not ok, in one line."""
        if self.error:
            return self.error
        lines = (self.stderr.strip() or self.stdout.strip() or f"exit status {self.exit_status}").splitlines()
        return lines[-1]


def each(
    hosts: Sequence[Host],
    work: Callable[[Host], Answer],
    pool: int = DEFAULT_POOL,
) -> Iterator[Answer]:
    """Answers of ``work`` as they come in; at most ``pool`` hosts at a time."""
    if not hosts:
        return
    with ThreadPoolExecutor(max_workers=min(pool, len(hosts))) as executor:
        for future in as_completed([executor.submit(work, host) for host in hosts]):
            yield future.result()


def run(
    hosts: Sequence[Host],
    command: str,
    *,
    pool: int = DEFAULT_POOL,
    timeout_s: float = DEFAULT_TIMEOUT_S,
) -> Iterator[Answer]:
    """Run ``command`` as root on each host over a connection of its own."""
    return each(hosts, lambda host: run_one(host, command, timeout_s=timeout_s), pool)


def run_one(host: Host, command: str, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> Answer:
    """Run ``command`` as root on one host; never raises for what a network or a host can do."""
    connection = None
    try:
        connection = connect(host)
        return ask(connection, host, command, timeout_s=timeout_s)
    except UNREACHABLE as error:
        return unreached(host, error)
    finally:
        if connection is not None:
            _close(connection)


def ask(connection: Any, host: Host, command: str, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> Answer:
    """Run ``command`` as root over an existing connection.

    :raises: what :data:`UNREACHABLE` lists when the host does not answer within ``timeout_s`` seconds.
    """
    done = connection.run(
        privileged(host, command), hide=True, warn=True, in_stream=False, timeout=timeout_s, pty=False
    )
    return Answer(host, True, done.exited, done.stdout, done.stderr, None, time.time())


def unreached(host: Host, error: BaseException) -> Answer:
    """The answer of a host that did not answer."""
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, invoke.exceptions.CommandTimedOut):
        text = f"no answer within {error.timeout:g} s"
    elif isinstance(error, paramiko.ssh_exception.NoValidConnectionsError):
        text = f"cannot connect to {host.address} port {host.port or 22}"
    return Answer(host, False, None, "", "", f"{host.name} unreachable: {text}", time.time())


def stream(host: Host, command: str, stop: threading.Event) -> Iterator[str]:
    """Lines of a command that runs until ``stop`` is set; ends when the host goes away."""
    connection = None
    try:
        connection = connect(host)
        connection.open()
        channel = connection.transport.open_session(timeout=DEFAULT_TIMEOUT_S)
        channel.settimeout(0.5)
        channel.exec_command(privileged(host, command))
        pending = b""
        while not stop.is_set():
            try:
                chunk = channel.recv(65536)
            except TimeoutError:
                continue
            if not chunk:
                return
            *lines, pending = (pending + chunk).split(b"\n")
            for line in lines:
                yield line.decode("utf-8", "replace")
    except UNREACHABLE:
        return
    finally:
        if connection is not None:
            _close(connection)


def _close(connection: Any) -> None:
    transport = connection.transport
    if transport is not None:
        # Not connection.close(): that waits for a peer which may be gone.
        transport.close()


#: What a host that cannot be reached, or stops answering, makes fabric and paramiko raise.
UNREACHABLE = (
    OSError,
    EOFError,
    paramiko.SSHException,
    invoke.exceptions.CommandTimedOut,
    invoke.exceptions.ThreadException,
)

# SPDX-License-Identifier: Apache-2.0
"""Questions to the agents of many hosts, outside of Ansible: over SSH, or a socket of this machine.

A host whose ``ansible_connection`` is ``local``, or that says ``ktls_reach: socket``, is asked over its
``ktls_agent_socket`` right here; every other one over an SSH session that stays open from one question to the next, so
that a wave which is looked at every few seconds costs one handshake a host.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from typing import Any

from ktls_host.errors import KtlsError
from ktls_host.jsonsock import call

from . import openssh
from .children import Child, Children
from .inventory import Host

AGENT = "/usr/local/bin/ktls-agent"
AGENT_SOCKET = "/run/ktls-agent/agent.sock"
#: Hosts that are asked at the same time, and sessions that stay open between questions.
DEFAULT_POOL, DEFAULT_KEEP = 96, 400

_LOCAL_POOL = 16
_ARGUMENT = re.compile(r"[A-Za-z0-9._:+-]+")
# One line a question, "NUMBER VERB OPTIONS"; after its output "@NUMBER STATUS". One line, for any login shell.
_LOOP = (
    's=; [ "$(id -u)" = 0 ] || s="sudo -n"; set -f; while read -r n line; do '
    '$s "${{KTLS_OFF_PREFIX:-}}{program}" $line </dev/null 2>&1; c=$?; echo; echo "@$n $c"; done'
)


@dataclass(frozen=True)
class Reply:
    """What one agent said.

    :param data: its answer; None when there was none, and ``error`` says in one line why.
    :param reached: the host answered, if only with a refusal.
    :param at: control node's ``time.time()`` when the answer was complete.
    """

    host: str
    data: dict[str, Any] | None
    error: str | None
    code: str | None
    reached: bool
    at: float


@dataclass(eq=False)
class _Session:
    """An SSH session, and the question that it has not answered yet."""

    child: Child
    number: int = 0
    pending: bool = False
    answered: int = 0
    said: list[str] = field(default_factory=list)


class Reach:
    """Asks hosts, at most ``pool`` at a time, each within ``timeout_s`` seconds. Use as a context manager.

    :param keep: sessions that stay open between questions; the others are opened anew.
    :param program: what is asked over SSH; ``socket``: the variable of a host with the path of its socket, and that
        path where there is none.
    """

    def __init__(
        self,
        hosts: Sequence[Host],
        *,
        pool: int = DEFAULT_POOL,
        timeout_s: float = 20.0,
        keep: int = DEFAULT_KEEP,
        program: str = AGENT,
        socket: tuple[str, str] = ("ktls_agent_socket", AGENT_SOCKET),
    ) -> None:
        self._loop = _LOOP.format(program=program)
        self._socket = socket
        self._hosts = {host.name: host for host in hosts}
        self._pool, self._timeout_s, self._keep = pool, timeout_s, keep
        self._sessions: dict[str, _Session] = {}
        self._children = Children(self._line, self._ended)
        self._waiting: deque[str] = deque()
        self._asking: set[str] = set()
        self._replies: deque[Reply] = deque()
        self._question = ""

    def __enter__(self) -> Reach:
        return self

    def __exit__(self, *exc: object) -> None:
        """Close what is open."""
        self._children.__exit__(*exc)
        self._sessions.clear()

    def ask(self, names: Sequence[str], verb: str, **arguments: Any) -> Iterator[Reply]:
        """The answers of ``names`` to ``verb`` (``status`` or ``series``), as they come in, one for each name.

        ``arguments`` are keys of the request; over SSH they become options (``since_s=5`` is ``--since-s 5``).
        """
        hosts = [self._hosts[name] for name in names]
        local = [host for host in hosts if _is_local(host)]
        if local:
            with ThreadPoolExecutor(min(_LOCAL_POOL, len(local))) as executor:
                asked = [executor.submit(self._ask_here, host, {"verb": verb, **arguments}) for host in local]
                for future in as_completed(asked):
                    yield future.result()
        yield from self._ask_there([host.name for host in hosts if not _is_local(host)], question(verb, arguments))

    def _ask_here(self, host: Host, request: dict[str, Any]) -> Reply:
        try:
            data = call(str(host.vars.get(*self._socket)), request, self._timeout_s)
        except KtlsError as error:
            lost = error.code in ("unreachable", "timeout")
            return Reply(host.name, None, f"{host.name}: {error.message}", error.code, not lost, time.time())
        return Reply(host.name, data, None, None, True, time.time())

    def _ask_there(self, names: Sequence[str], words: str) -> Iterator[Reply]:
        # What an earlier caller did not wait for is forgotten: its session cannot be trusted to be in step.
        for name in self._asking:
            self._drop(name)
        self._asking.clear()
        self._replies.clear()
        self._question, self._waiting = words, deque(names)
        while self._waiting or self._asking or self._replies:
            while self._waiting and len(self._asking) < self._pool:
                self._begin(self._waiting.popleft())
            if self._asking and not self._replies:
                self._children.step(1.0)
            while self._replies:
                yield self._replies.popleft()

    def _begin(self, name: str) -> None:
        self._asking.add(name)
        session = self._sessions.get(name)
        if session is None or not self._send(session):
            self._open(name)

    def _open(self, name: str) -> None:
        self._drop(name)
        argv = openssh.argv(self._hosts[name], ["sh", "-c", self._loop])
        try:
            child = self._children.start(name, argv, time.monotonic() + self._timeout_s)
        except OSError as error:
            self._reply(name, None, f"{name} unreachable: {argv[0]} cannot be run here: {error.strerror}", "cut_off")
            return
        session = self._sessions[name] = _Session(child)
        self._send(session)

    def _send(self, session: _Session) -> bool:
        session.number += 1
        session.pending, session.said = True, []
        self._children.set_deadline(session.child, time.monotonic() + self._timeout_s)
        return self._children.write(session.child, f"{session.number} {self._question}\n".encode())

    def _drop(self, name: str) -> None:
        session = self._sessions.pop(name, None)
        if session is not None:
            self._children.stop(session.child)

    def _line(self, child: Child, line: str) -> None:
        session = self._sessions.get(child.name)
        if session is None or session.child is not child or not session.pending:
            return
        status = line.removeprefix(f"@{session.number} ")
        if status == line:
            if line.strip():
                session.said.append(line)
            return
        session.pending = False
        session.answered += 1
        self._children.set_deadline(child, math.inf)
        # As the one that was used last it goes to the end; the first is the oldest.
        self._sessions[child.name] = self._sessions.pop(child.name)
        self._answer(child.name, status, session.said)
        if len(self._sessions) > self._keep:
            oldest = next((name for name, each in self._sessions.items() if not each.pending), None)
            if oldest is not None:
                self._drop(oldest)

    def _answer(self, name: str, status: str, said: Sequence[str]) -> None:
        data = _object(said[-1]) if said else None
        if data is not None and data.get("ok"):
            self._reply(name, data, None, None)
            return
        problem = (data or {}).get("error")
        problem = problem if isinstance(problem, dict) else {}
        text = problem.get("message") or (said[-1] if said and data is None else f"exit status {status}")
        self._reply(name, None, f"{name}: {text}", problem.get("code"), reached=True)

    def _ended(self, child: Child) -> None:
        session = self._sessions.get(child.name)
        if session is None or session.child is not child:
            return
        del self._sessions[child.name]
        if not session.pending:
            return
        if session.answered and not child.timed_out:
            # It died between two questions, or at this one; a new connection tells whether the host did.
            self._open(child.name)
            return
        why = f"no answer within {self._timeout_s:g} s" if child.timed_out else openssh.why(child.stderr, child.status)
        self._reply(child.name, None, f"{child.name} unreachable: {why}", "cut_off")

    def _reply(
        self,
        name: str,
        data: dict[str, Any] | None,
        error: str | None,
        code: str | None,
        *,
        reached: bool | None = None,
    ) -> None:
        self._asking.discard(name)
        self._replies.append(
            Reply(name, data, error, code, data is not None if reached is None else reached, time.time())
        )


def question(verb: str, arguments: dict[str, Any]) -> str:
    """The words of ``ktls-agent`` for a request. Pure.

    :raises ValueError: for a value that could be more than one word.
    """
    words = [verb, "--json"]
    for key, value in arguments.items():
        text = str(value)
        if not _ARGUMENT.fullmatch(text):
            raise ValueError(f"{key}={text!r} is no plain word")
        words += [f"--{key.replace('_', '-')}", text]
    return " ".join(words)


def _is_local(host: Host) -> bool:
    return host.vars.get("ansible_connection") == "local" or host.vars.get("ktls_reach") == "socket"


def _object(text: str) -> dict[str, Any] | None:
    try:
        data = json.loads(text)
    except ValueError:
        return None
    return data if isinstance(data, dict) else None

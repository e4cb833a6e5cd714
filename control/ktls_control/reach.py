# SPDX-License-Identifier: Apache-2.0
"""Questions to the agents of many hosts during a rollout, outside of Ansible: over SSH, or a socket of this machine.

A host whose ``ansible_connection`` is ``local``, or that says ``ktls_reach: socket``, is asked over its
``ktls_agent_socket`` right here; every other one over SSH.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ktls_host.errors import KtlsError
from ktls_host.jsonsock import call

from . import fanout
from .inventory import Host

AGENT = "/usr/local/bin/ktls-agent"
AGENT_SOCKET = "/run/ktls-agent/agent.sock"


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


class Reach:
    """Asks hosts, at most ``pool`` at a time, each within ``timeout_s`` seconds. Use as a context manager."""

    def __init__(self, hosts: Sequence[Host], *, pool: int = fanout.DEFAULT_POOL, timeout_s: float = 20.0) -> None:
        self._hosts = {host.name: host for host in hosts}
        self._pool = pool
        self._timeout_s = timeout_s

    def __enter__(self) -> Reach:
        return self

    def __exit__(self, *_exc: object) -> None:
        """Close what is open."""

    def ask(self, names: Sequence[str], verb: str, **arguments: Any) -> Iterator[Reply]:
        """The answers of ``names`` to ``verb`` (``status`` or ``series``), as they come in.

        ``arguments`` are keys of the request; over SSH they become options (``since_s=5`` is ``--since-s 5``).
        """
        hosts = [self._hosts[name] for name in names]
        remote = [host for host in hosts if not _is_local(host)]
        for host in hosts:
            if _is_local(host):
                yield self._ask_here(host, {"verb": verb, **arguments})
        options = " ".join(f"--{key.replace('_', '-')} {shlex.quote(str(value))}" for key, value in arguments.items())
        for answer in fanout.run(
            remote, f"{AGENT} {verb} --json {options}".rstrip(), pool=self._pool, timeout_s=self._timeout_s
        ):
            yield _reply(answer)

    def _ask_here(self, host: Host, request: dict[str, Any]) -> Reply:
        try:
            data = call(str(host.vars.get("ktls_agent_socket", AGENT_SOCKET)), request, self._timeout_s)
        except KtlsError as error:
            lost = error.code in ("unreachable", "timeout")
            return Reply(host.name, None, f"{host.name}: {error.message}", error.code, not lost, time.time())
        return Reply(host.name, data, None, None, True, time.time())


def _is_local(host: Host) -> bool:
    return host.vars.get("ansible_connection") == "local" or host.vars.get("ktls_reach") == "socket"


def _reply(answer: fanout.Answer) -> Reply:
    name = answer.host.name
    if not answer.reached:
        return Reply(name, None, answer.error, "cut_off", False, answer.at)
    data = answer.json()
    if data is None or not data.get("ok"):
        code = ((data or {}).get("error") or {}).get("code")
        return Reply(name, None, f"{name}: {answer.complaint}", code, True, answer.at)
    return Reply(name, data, None, None, True, answer.at)

# SPDX-License-Identifier: Apache-2.0
"""From results of the probe's task, as events or as registered variables, to answers of hosts. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from .preflight import Answer, HostRow, Preflight, Unanswered, assemble, host_row

#: Name of the play that asks the hosts, in ``playbooks/preflight.yml``.
PLAY = "Preflight | Read every host"
_NOISE = (
    re.compile(r"^Task failed: "),
    re.compile(r"Failed to connect to the host via ssh: "),
    # OpenSSH says so on standard error the first time, before what it really has to say.
    re.compile(r"Warning: Permanently added .{1,300}? to the list of known hosts\. ?"),
)


class Survey:
    """Fed with the events of a run, it keeps of each host what the fleet's view needs and drops the rest.

    :param addresses: the hosts asked, by name, with the address that messages about them may hold.
    """

    def __init__(self, phase: str, addresses: Mapping[str, str]) -> None:
        self._phase = phase
        self._addresses = addresses
        self._rows: dict[str, HostRow] = {}

    @property
    def answered(self) -> int:
        """Hosts about which something is known, be it only that they cannot be reached."""
        return len(self._rows)

    def feed(self, event: Mapping[str, Any]) -> bool:
        """Take one event; True when it was a host's answer."""
        name = str(event.get("host"))
        if event.get("play") != PLAY or name not in self._addresses:
            return False
        if event["event"] not in ("ok", "failed", "ignored", "unreachable"):
            return False
        result = {**event, "unreachable": event["event"] == "unreachable"}
        self._rows[name] = host_row(answer(result, name, self._addresses[name]))
        return True

    def result(self) -> Preflight:
        """The fleet's answer; a host of which nothing was heard has not answered."""
        silent = host_row(Unanswered("no_answer", "the run ended before the host answered"))
        return assemble(self._phase, {name: self._rows.get(name, silent) for name in self._addresses})


def answer(result: Mapping[str, Any], name: str, address: str) -> Answer:
    """One host's answer from the result of ``ktls_info``, or why there is none.

    Name and address are left out of messages, so that hosts with the same trouble say the same.
    """
    info = result.get("info")
    if isinstance(info, Mapping) and not result.get("unreachable"):
        return info
    message = " ".join(str(result.get("msg") or "no reason given").split())
    for noise in _NOISE:
        message = noise.sub("", message)
    message = _without(message, (address, name))
    if result.get("unreachable"):
        return Unanswered("cut_off", message)
    code = result.get("error_code")
    return Unanswered("no_answer", f"the probe failed ({code}): {message}" if code else f"the probe failed: {message}")


def registered(
    hostvars: Mapping[str, Mapping[str, Any]],
    hosts: Iterable[str],
    variable: str,
    address: Callable[[Mapping[str, Any]], str | None],
) -> dict[str, Answer]:
    """Answers from the variable in which each host's result was registered.

    :param address: a host's address from its variables, None when there is none to be had.
    """
    answers: dict[str, Answer] = {}
    for name in hosts:
        result = hostvars[name].get(variable)
        if isinstance(result, Mapping):
            answers[name] = answer(result, name, address(hostvars[name]) or name)
        else:
            answers[name] = Unanswered("no_answer", "the host was not asked")
    return answers


def _without(message: str, words: Iterable[str]) -> str:
    for word in words:
        message = re.sub(rf"(?<![\w.-]){re.escape(word)}(?![\w-])", "HOST", message)
    return message

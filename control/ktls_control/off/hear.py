# SPDX-License-Identifier: Apache-2.0
"""Understands what ``off_host.sh`` says of one host, line by line. Pure: the clock comes with the lines."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ktls_host import datapath_status
from ktls_host.datapath_status import Datapath

from .latency import drained
from .model import AGENT, KERNEL, RESTART_NEEDED, OffResult

_LAST_NEW, _NONE_LEFT = "last_ktls_tx_established_age_s", "ktls_tx_zero_age_s"


@dataclass
class Hearing:
    """One host's words. Times are seconds since off began.

    The host dates its lines with its own clock, which runs since its boot: only differences are used, so clocks need
    not agree. The first line's way back is in all figures: they err on the late side.
    """

    host: str
    flag_s: float | None = None
    ended: bool = False
    #: What was wrong with an answer that could not be understood.
    confused: str | None = None
    _flag_up: float = 0.0
    _code: int = 0
    _text: str = ""
    _flags: tuple[str, ...] = ()
    _kernel: list[tuple[float, int | None, int | None]] = field(default_factory=list)
    _agent: list[tuple[float, int]] = field(default_factory=list)
    _status: Mapping[str, Any] | None = None
    _status_s: float = 0.0
    _agent_error: str | None = None

    def feed(self, line: str, at: float) -> None:
        """Take a line that arrived at ``at``; one that is none of ours (a banner) is left alone."""
        if not line.startswith("@"):
            return
        kind, _, rest = line.partition(" ")
        up_text, _, rest = rest.partition(" ")
        try:
            up = float(up_text)
        except ValueError:
            return
        if kind == "@off":
            code, _, self._text = rest.partition(" ")
            self._code, self._flag_up, self.flag_s = _number(code) or 0, up, at
        elif self.flag_s is not None:
            self._later(kind, self.flag_s + max(0.0, up - self._flag_up), rest)

    def _later(self, kind: str, at: float, rest: str) -> None:
        if kind == "@flag":
            self._flags = tuple(rest.split())
        elif kind == "@kernel":
            tx, _, opened = rest.partition(" ")
            self._kernel.append((at, _number(tx), _number(opened)))
        elif kind == "@agent":
            self._hear_agent(at, rest)
        elif kind == "@end":
            self.ended = True

    def _hear_agent(self, at: float, rest: str) -> None:
        code, _, text = rest.partition(" ")
        status = _object(text)
        if code != "0" or status is None or not status.get("ok"):
            problem = (status or {}).get("error")
            said = (problem.get("message") if isinstance(problem, dict) else problem) or text
            self._agent_error = f"the agent did not answer: {said or f'exit status {code}'}"
            return
        sidecar = status.get("sidecar")
        if sidecar is not None:
            # All that is read later is read here: what cannot be is found out while only this host is at stake.
            ages = {key: _age(sidecar.get(key)) for key in (_LAST_NEW, _NONE_LEFT)}
            (status.get("off") or {}).get("flag")
            if datapath_status.of(status).is_sidecar:
                self._agent.append((at, int((status.get("connections") or {}).get("ktls_tx", 0))))
            else:
                self._hear_other(at, status, sidecar)
            status = {**status, "sidecar": ages}
        self._status, self._status_s, self._agent_error = status, at, None

    def _hear_other(self, at: float, status: Mapping[str, Any], served: Mapping[str, Any]) -> None:
        """Of another datapath: what it knows of its connections, and what the kernel counts on the whole host.

        What it does not know is not made up: without its count the kernel's has to do, which may have others' in it.
        """
        stat = status.get("tls_stat")
        if isinstance(stat, Mapping) and status.get("tls_stat_available") is not False:
            tx = sum(int(count) for name, count in stat.items() if name.startswith("TlsCurrTx"))
            self._kernel.append((at, tx, sum(int(stat.get(name, 0)) for name in ("TlsTxSw", "TlsTxDevice"))))
        own = served.get("connections")
        left = own.get("ktls_tx") if isinstance(own, Mapping) else None
        known = [found for found in (left, self._kernel[-1][1] if self._kernel else None) if isinstance(found, int)]
        if known:
            # What the kernel told the agent is some seconds old; none on the whole host is none here either.
            self._agent.append((at, min(known)))

    @property
    def settled(self) -> bool:
        """Nothing that is waited for is missing: nothing is left, or nothing will change by waiting."""
        result = self.result()
        if result.code == RESTART_NEEDED:
            return True
        return result.off and result.by == AGENT and result.left == 0 and not result.old_processes

    def result(self) -> OffResult:
        """What is known by now."""
        if self.flag_s is None:
            return OffResult(self.host, False, False, False, None, None, None, None)
        if self._code != 0 and not self._flags:
            why = self._text or f"exit status {self._code}"
            return self._result(False, False, error=f"the off flag could not be raised: {why}", code="flag_failed")
        sidecar = (self._status or {}).get("sidecar")
        if self._status is not None and self._agent_error is None and sidecar is not None:
            return self._by_agent(self._status, sidecar)
        return self._by_kernel(self._agent_error or self._no_sidecar())

    def _no_sidecar(self) -> str:
        if self.confused:
            return f"the agent's answer makes no sense: {self.confused}"
        if self._status is None:
            return "the agent was not asked in time"
        return f"the sidecar did not answer: {self._status.get('sidecar_error') or 'no reason given'}"

    def _by_agent(self, status: Mapping[str, Any], sidecar: Mapping[str, Any]) -> OffResult:
        flag = bool((status.get("off") or {}).get("flag"))
        datapath = datapath_status.of(status)
        if not datapath.is_sidecar:
            return self._by_other(status, sidecar, datapath, flag)
        left = self._agent[-1][1]
        last_new = self._since(sidecar[_LAST_NEW])
        none_left = None if left else self._since(sidecar[_NONE_LEFT])
        if status.get("phase") != "userspace" or not flag:
            missing = "the agent sees no flag" if not flag else f"phase {status.get('phase')} is in force"
            why = f"flag raised, but {missing}" if self._flags else "no flag is there"
            return self._result(bool(self._flags), False, left=left, by=AGENT, error=why, code="not_confirmed")
        return self._result(
            True, True, left=left, by=AGENT, last_new_s=last_new, none_left_s=none_left, curve=tuple(self._agent)
        )

    def _by_other(
        self, status: Mapping[str, Any], ages: Mapping[str, Any], datapath: Datapath, flag: bool
    ) -> OffResult:
        """What the agent says of nginx or a service, and what follows of it. Times that nobody knows stay unknown."""
        left = self._agent[-1][1] if self._agent else None
        old = datapath.draining_processes
        about: dict[str, Any] = {"datapath": datapath.name, "old_processes": old, "left": left, "by": AGENT}
        name = datapath.unit or datapath.kind
        if datapath.switch == "restart" and old and not datapath.restart_consent:
            many = "1 process keeps" if old == 1 else f"{old} processes keep"
            return self._result(
                bool(self._flags), False, code=RESTART_NEEDED,
                error=f"configuration off, {many} kTLS until restart: systemctl restart {name}", **about,
            )  # fmt: skip
        if status.get("phase") != "userspace" or not flag:
            missing = "the agent sees no flag" if not flag else f"phase {status.get('phase')} is in force"
            why = f"flag raised, but {missing}" if self._flags else "no flag is there"
            if datapath.problem:
                why += f"; {datapath.problem}"
            return self._result(bool(self._flags), False, error=why, code="not_confirmed", **about)
        last_new, none_left = ages[_LAST_NEW], ages[_NONE_LEFT]
        done = None
        if left == 0:
            done = self._since(none_left) if none_left is not None else _first_of(self._agent)
        return self._result(
            True, True, curve=tuple(self._agent), none_left_s=done,
            last_new_s=self._last_opened() if last_new is None else self._since(last_new), **about,
        )  # fmt: skip

    def _last_opened(self) -> float | None:
        """When the kernel opened the last transmit session of the host, as far as it was looked at; None: it was not.

        Not later than that: another program may have opened it.
        """
        seen = [(at, opened) for at, _tx, opened in self._kernel if opened is not None]
        if not seen:
            return None
        grown = [at for (at, opened), before in zip(seen[1:], seen, strict=False) if opened > before[1]]
        return grown[-1] if grown else (seen[0][0] if seen[0][1] else 0.0)

    def _by_kernel(self, blind: str) -> OffResult:
        flag = bool(self._flags)
        seen = [(at, tx, opened) for at, tx, opened in self._kernel if tx is not None and opened is not None]
        if not flag:
            return self._result(False, False, error=f"no flag is there; {blind}", code="not_confirmed")
        if not seen:
            why = f"flag is up, but nothing could be read back: {blind}; /proc/net/tls_stat cannot be read"
            return self._result(True, False, error=why, code="not_confirmed")
        left = seen[-1][1]
        curve = tuple((at, tx) for at, tx, _opened in seen)
        # Opened after the first look: growth. Before it: the counter cannot say when, so not later than that look.
        grown = [at for (at, _tx, opened), before in zip(seen[1:], seen, strict=False) if opened > before[2]]
        last_new = grown[-1] if grown else (seen[0][0] if seen[0][2] else 0.0)
        if left:
            why = f"flag is up, but the kernel counts {left} kTLS connections; {blind}"
            return self._result(True, False, left=left, by=KERNEL, error=why, code="not_confirmed")
        first = next(at for index, (at, _tx) in enumerate(curve) if not any(tx for _at, tx in curve[index:]))
        none_left = first if seen[0][2] else 0.0
        note = f"read back from the kernel's counters alone; {blind}"
        return self._result(
            True, True, left=0, by=KERNEL, last_new_s=last_new, none_left_s=none_left, curve=curve, note=note
        )

    def _since(self, age_s: float | None) -> float:
        return 0.0 if age_s is None else max(0.0, self._status_s - age_s)

    def _result(
        self,
        flag: bool,
        off: bool,
        *,
        left: int | None = None,
        by: str | None = None,
        last_new_s: float | None = None,
        none_left_s: float | None = None,
        curve: tuple[tuple[float, int], ...] = (),
        error: str | None = None,
        code: str | None = None,
        note: str | None = None,
        datapath: str | None = None,
        old_processes: int | None = None,
    ) -> OffResult:
        return OffResult(
            host=self.host,
            reachable=True,
            flag=flag,
            off=off,
            last_new_s=last_new_s,
            none_left_s=none_left_s,
            left=left,
            error=None if error is None else f"{self.host}: {error}",
            drained_90_s=drained(curve, none_left_s) if off else None,
            flag_s=self.flag_s if flag else None,
            by=by,
            code=code,
            note=note,
            datapath=datapath,
            old_processes=old_processes,
            curve=curve,
        )


def _first_of(curve: Sequence[tuple[float, int]]) -> float:
    """When there was none, and stayed so."""
    return next(at for index, (at, _left) in enumerate(curve) if not any(left for _at, left in curve[index:]))


def _age(value: Any) -> float | None:
    return None if value is None else float(value)


def _number(text: str) -> int | None:
    return int(text) if text.strip().isdigit() else None


def _object(text: str) -> dict[str, Any] | None:
    try:
        data = json.loads(text)
    except ValueError:
        return None
    return data if isinstance(data, dict) else None

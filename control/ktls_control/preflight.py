# SPDX-License-Identifier: Apache-2.0
"""What a fleet's answers to the probe mean: who is ready for a phase, who is not, why, and what to do about it. Pure.

Answers are reduced one by one (:func:`host_row`), so that a large fleet's never have to be held together.
Texts come from hosts that nobody here vouches for: each is made one printable line before it goes anywhere.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from .preflight_names import natural
from .request import PHASES

#: Worst first.
VERDICTS = ("refused", "unknown", "ready")
_COUNTED = ("ready", "refused", "unknown")
_LONGEST = 600


@dataclass(frozen=True)
class Reason:
    """Why a host is not ready, or what to know before it is used: ``message`` found, ``cure`` to apply.

    :param link: page of the documentation and anchor in it; None where the host's release did not give one.
    """

    code: str
    message: str
    cure: str
    link: str | None


@dataclass(frozen=True)
class Unanswered:
    """A host without an answer.

    :param code: ``cut_off`` (it could not be reached) or ``no_answer`` (it was, and the probe failed or never ended).
    """

    code: str
    message: str

    def reason(self) -> Reason:
        """The same with its cure."""
        return Reason(self.code, _line(self.message), _CURES[self.code], f"docs/diagnostics.md#{self.code}")


_CURES: Mapping[str, str] = {
    "cut_off": "see that it is up and that Ansible reaches it (ansible -m ping), then ask again",
    "no_answer": "the message says what failed on the host; ansible-playbook -vvv playbooks/preflight.yml says more",
}

Answer = Mapping[str, Any] | Unanswered


@dataclass(frozen=True)
class PhaseRow:
    """One host's verdict on one phase, one of :data:`VERDICTS`."""

    verdict: str
    reasons: tuple[Reason, ...] = ()
    notes: tuple[Reason, ...] = ()

    @property
    def codes(self) -> tuple[str, ...]:
        """Codes of the reasons, each once, sorted."""
        return tuple(sorted({reason.code for reason in self.reasons}))


@dataclass(frozen=True)
class HostRow:
    """What is kept of one host's answer. None: the host did not say.

    :param cpus: online CPUs; ``busy``: share of them in use when it was asked.
    """

    phases: Mapping[str, PhaseRow]
    kernel: str | None = None
    distribution: Mapping[str, str | None] = field(default_factory=lambda: {"id": None, "version_id": None})
    openssl: str | None = None
    gnutls: str | None = None
    nics: tuple[Mapping[str, str | None], ...] = ()
    datapaths: tuple[Mapping[str, str | None], ...] = ()
    cpus: int | None = None
    busy: float | None = None

    def as_dict(self, phase: str) -> dict[str, Any]:
        """Plain JSON types; see :meth:`Preflight.as_dict`."""
        return {
            "verdict": self.phases[phase].verdict,
            "phases": {
                name: {
                    "verdict": row.verdict,
                    "reasons": list(row.codes),
                    "notes": sorted({note.code for note in row.notes}),
                }
                for name, row in self.phases.items()
            },
            "kernel": self.kernel,
            "distribution": dict(self.distribution),
            "openssl": self.openssl,
            "gnutls": self.gnutls,
            "nics": [dict(nic) for nic in self.nics],
            "datapaths": [dict(path) for path in self.datapaths],
            "cpu": {"online": self.cpus, "busy": self.busy},
        }


@dataclass(frozen=True)
class Variant:
    """One wording of a reason, and how many hosts gave it."""

    message: str
    cure: str
    hosts: int


@dataclass(frozen=True)
class Finding:
    """One reason code over several hosts; ``variants`` are its distinct wordings, the commonest first."""

    code: str
    link: str | None
    variants: tuple[Variant, ...]
    hosts: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON types; see :meth:`Preflight.as_dict`."""
        messages = [asdict(variant) for variant in self.variants]
        return {"code": self.code, "cure": self.variants[0].cure, "link": self.link, "messages": messages}


@dataclass(frozen=True)
class Group:
    """Hosts with the same verdict for the same set of reason codes."""

    verdict: str
    codes: tuple[str, ...]
    hosts: tuple[str, ...]
    reasons: tuple[Finding, ...]


@dataclass(frozen=True)
class Preflight:
    """The fleet's answer for ``phase``. Hosts are in natural order (web2 before web10) everywhere.

    :param counts: hosts by verdict for every phase, in the order of the ladder.
    :param groups: worst verdict first, then the larger group, then by codes; each host is in exactly one.
    :param notes: what to know before the phase, of the hosts that are ready for it, the most frequent first.
    """

    phase: str
    hosts: Mapping[str, HostRow]
    counts: Mapping[str, Mapping[str, int]]
    groups: tuple[Group, ...]
    notes: tuple[Finding, ...]

    @property
    def ready(self) -> int:
        """How many hosts are ready."""
        return self.counts[self.phase]["ready"]

    @property
    def all_ready(self) -> bool:
        """Every host is ready, and there is at least one."""
        return 0 < self.ready == len(self.hosts)

    @property
    def unanswered(self) -> tuple[str, ...]:
        """Hosts that gave no answer."""
        return tuple(name for group in self.groups if set(group.codes) & set(_CURES) for name in group.hosts)

    @property
    def summary(self) -> str:
        """The last word."""
        return f"{self.ready:,} of {len(self.hosts):,} hosts ready for {self.phase}"

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON types. Later releases add keys and change none.

        ::

            {"phase": "tx", "ready": 7, "total": 12,
             "phases": {PHASE: {"ready": 7, "refused": 3, "unknown": 2}},
             "groups": [{"verdict": "refused", "codes": [CODE], "hosts": [NAME],
                         "reasons": [{"code", "cure", "link", "messages": [{"message", "cure", "hosts": 3}]}]}],
             "notes": [{"code", "cure", "link", "messages": [...], "hosts": [NAME]}],
             "hosts": {NAME: {"verdict": "ready",
                              "phases": {PHASE: {"verdict", "reasons": [CODE], "notes": [CODE]}},
                              "kernel": "6.12.48", "distribution": {"id": "debian", "version_id": "13"},
                              "openssl": "OpenSSL 3.5.1 1 Jul 2025", "gnutls": "3.8.9",
                              "nics": [{"name", "driver"}], "datapaths": [{"name", "kind", "ktls"}],
                              "cpu": {"online": 8, "busy": 0.31}}}}

        Verdicts are ``ready``, ``refused`` and ``unknown``. ``cure`` of a reason is that of its commonest message.
        ``notes`` are of hosts that are ready. What a host did not say is null or an empty list.
        """
        return {
            "phase": self.phase,
            "ready": self.ready,
            "total": len(self.hosts),
            "phases": {phase: dict(counts) for phase, counts in self.counts.items()},
            "groups": [
                {
                    "verdict": group.verdict,
                    "codes": list(group.codes),
                    "hosts": list(group.hosts),
                    "reasons": [finding.as_dict() for finding in group.reasons],
                }
                for group in self.groups
            ],
            "notes": [{**note.as_dict(), "hosts": list(note.hosts)} for note in self.notes],
            "hosts": {name: row.as_dict(self.phase) for name, row in self.hosts.items()},
        }


def summarise(phase: str, hosts: Mapping[str, Answer]) -> Preflight:
    """Judge the fleet from ``info`` of ``ktls_info``, or from why there is none, by host name."""
    return assemble(phase, {name: host_row(answer) for name, answer in hosts.items()})


def host_row(answer: Answer) -> HostRow:
    """Reduce one host's answer to what a fleet's view needs of it. Never fails, whatever the host said."""
    if isinstance(answer, Unanswered):
        lost = PhaseRow("unknown", (answer.reason(),))
        return HostRow(dict.fromkeys(PHASES, lost))
    said = _mapping(answer.get("phases"))
    distribution, cpu = _mapping(answer.get("distribution")), _mapping(answer.get("cpu"))
    cpus, busy = _number(cpu.get("online")), _number(cpu.get("busy"))
    return HostRow(
        phases={phase: _phase_row(phase, said.get(phase)) for phase in PHASES},
        kernel=_text(answer.get("kernel")),
        distribution={key: _text(distribution.get(key)) for key in ("id", "version_id")},
        openssl=_text(_mapping(answer.get("openssl")).get("version")),
        gnutls=_text(_mapping(answer.get("gnutls")).get("version")),
        nics=_pick(answer.get("nics"), ("name", "driver")),
        datapaths=_pick(answer.get("datapaths"), ("name", "kind", "ktls")),
        cpus=int(cpus) if cpus and cpus >= 1 else None,
        busy=busy if busy is not None and busy <= 1 else None,
    )


def assemble(phase: str, rows: Mapping[str, HostRow]) -> Preflight:
    """Group rows by why they are not ready, worst first; the order of ``rows`` does not matter."""
    names = sorted(rows, key=natural)
    counts = {step: Counter(rows[name].phases[step].verdict for name in names) for step in PHASES}
    members: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for name in names:
        row = rows[name].phases[phase]
        members.setdefault((row.verdict, row.codes), []).append(name)
    groups = [
        Group(verdict, codes, tuple(hosts), _findings({name: rows[name].phases[phase].reasons for name in hosts}))
        for (verdict, codes), hosts in members.items()
    ]
    groups.sort(key=lambda group: (VERDICTS.index(group.verdict), -len(group.hosts), group.codes))
    ready = {name: rows[name].phases[phase].notes for name in names if rows[name].phases[phase].verdict == "ready"}
    notes = sorted(_findings(ready), key=lambda note: (-len(note.hosts), note.code))
    return Preflight(
        phase,
        {name: rows[name] for name in names},
        {step: {verdict: counts[step][verdict] for verdict in _COUNTED} for step in PHASES},
        tuple(groups),
        tuple(notes),
    )


def _findings(given: Mapping[str, Sequence[Reason]]) -> tuple[Finding, ...]:
    """One finding for each code, by code; a host counts once for each of its distinct messages."""
    hosts: dict[str, dict[str, None]] = {}
    wordings: dict[str, Counter[tuple[str, str]]] = {}
    links: dict[str, Counter[str]] = {}
    for name, reasons in given.items():
        for code, message, cure in dict.fromkeys((reason.code, reason.message, reason.cure) for reason in reasons):
            hosts.setdefault(code, {})[name] = None
            wordings.setdefault(code, Counter())[message, cure] += 1
        for code, link in {(reason.code, reason.link) for reason in reasons if reason.link}:
            links.setdefault(code, Counter())[link] += 1
    return tuple(
        Finding(code, _commonest(links.get(code, {})), _variants(wordings[code]), tuple(hosts[code]))
        for code in sorted(hosts)
    )


def _variants(wordings: Mapping[tuple[str, str], int]) -> tuple[Variant, ...]:
    ordered = sorted(wordings.items(), key=lambda item: (-item[1], item[0]))
    return tuple(Variant(message, cure, hosts) for (message, cure), hosts in ordered)


def _commonest(links: Mapping[str, int]) -> str | None:
    return min(links, key=lambda link: (-links[link], link), default=None)


def _phase_row(phase: str, said: object) -> PhaseRow:
    given = _mapping(said)
    if given.get("verdict") not in VERDICTS:
        silent = Unanswered("no_answer", f"the host's answer holds no verdict on phase {phase}")
        return PhaseRow("unknown", (silent.reason(),))
    return PhaseRow(str(given["verdict"]), _reasons(given.get("reasons")), _reasons(given.get("notes")))


def _reasons(given: object) -> tuple[Reason, ...]:
    return tuple(
        Reason(
            _line(reason.get("code") or "no_code"),
            _line(reason.get("message") or "no reason given"),
            _line(reason.get("cure") or ""),
            _text(reason.get("link")),
        )
        for reason in _each(given)
    )


def _pick(given: object, keys: Iterable[str]) -> tuple[Mapping[str, str | None], ...]:
    return tuple({key: _text(entry.get(key)) for key in keys} for entry in _each(given))


def _each(given: object) -> list[Mapping[str, Any]]:
    return [entry for entry in given if isinstance(entry, Mapping)] if isinstance(given, Sequence) else []


def _mapping(given: object) -> Mapping[str, Any]:
    return given if isinstance(given, Mapping) else {}


def _number(given: object) -> float | None:
    """A finite number that is not negative; None for anything else."""
    good = isinstance(given, int | float) and not isinstance(given, bool) and 0 <= given < float("inf")
    return float(given) if good else None  # type: ignore[arg-type]


def _text(given: object) -> str | None:
    return None if given is None or given == "" else _line(given)


def _line(given: object) -> str:
    """One printable line: no newline, no escape sequence, nothing that turns text around."""
    text = " ".join(str(given).split())
    if not text.isprintable():
        text = re.sub(r"\s+", " ", "".join(char if char.isprintable() else " " for char in text)).strip()
    if len(text) > _LONGEST:
        text = f"{text[:_LONGEST]}..."
    # Thousands of hosts say the same few things.
    return sys.intern(text)

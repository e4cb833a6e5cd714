# SPDX-License-Identifier: Apache-2.0
"""The interface of a datapath, and the plain data that goes over it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Callable, Protocol

from ..errors import KtlsError

USERSPACE = "userspace"
TX = "tx"
RX = "rx"
HW = "hw"
TX_RX = "tx+rx"
"""What phase tx really is where one option means both directions: OpenSSL 3.2 and later (CHANGES of 3.2)."""

Status = dict[str, Any]
"""The status of a server with the keys of the sidecar's (``ktls_sidecar/report.py``): ``mode`` is what was ordered,
``effective_mode`` what new connections get. What is not known is absent or None, never invented."""


def fulfils(effective: object, phase: str) -> bool:
    """Return whether ``effective`` is what ``phase`` ordered; tx+rx is it only where it was consented to before."""
    return effective == phase or (phase == TX and effective == TX_RX)


HelperCall = Callable[[str, "dict[str, Any]", float], "dict[str, Any]"]
"""``call(path, request, timeout_s)``: the answer on a Unix socket, or KtlsError."""


@dataclass(frozen=True)
class Wish:
    """What new connections shall get: a phase, for which part of them (0 to 1), and whether by TLS 1.2."""

    mode: str
    share: float = 1.0
    tls12: bool = False


@dataclass(frozen=True)
class Consent:
    """What the operator agreed to: receive together with transmit; a restart, which ends connections."""

    tx_rx: bool = False
    restart: bool = False


@dataclass(frozen=True)
class Draining:
    """What still runs by an earlier configuration. ``connections`` is None where it is not known."""

    processes: int = 0
    connections: int | None = None


@dataclass(frozen=True)
class About:
    """What a datapath is, and what it can: key ``datapath`` of the agent's status.

    ``experiments``: whether each connection can be assigned by lot. ``modes``: what can be ordered, in the words of
    what it means here. ``switch``: what a change takes: ``live``, ``reload`` or ``restart``. ``problem``: one line.
    """

    kind: str
    unit: str
    program: str | None = None
    version: str | None = None
    experiments: bool = False
    modes: tuple[str, ...] = (USERSPACE,)
    consent: Consent = field(default_factory=Consent)
    draining: Draining | None = None
    switch: str = "live"
    problem: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        draining = self.draining
        return {
            "kind": self.kind,
            "unit": self.unit,
            "program": self.program,
            "version": self.version,
            "experiments": self.experiments,
            "modes": list(self.modes),
            "consent": {"tx_rx": self.consent.tx_rx, "restart": self.consent.restart},
            "draining": draining and {"processes": draining.processes, "connections": draining.connections},
            "switch": self.switch,
            "problem": self.problem,
        }


@dataclass(frozen=True)
class Flow:
    """What the kernel shows of one kind of connections, as :class:`ktls_agent.evidence.model.Kind` has it.

    ``connections`` are open now; ``sent`` and ``received`` are bytes of TCP payload since the observer started.
    """

    port: int
    process: str
    version: str
    cipher: str
    tx: str
    rx: str
    connections: int = 0
    sent: int = 0
    received: int = 0


@dataclass(frozen=True)
class Seen:
    """The kernel's view of the host: ``at_s`` is CLOCK_BOOTTIME, ``since_s`` tells one observer from the next."""

    at_s: float
    since_s: float
    flows: tuple[Flow, ...] = ()


@dataclass(frozen=True)
class Tools:
    """What a datapath is given. ``seen`` returns the latest view, None before the first. ``root``: for tests."""

    call: HelperCall
    seen: Callable[[], Seen | None] = lambda: None
    root: str = "/"


class Datapath(Protocol):
    """One serving program that can be switched.

    Every method blocks, and is called in threads, several at a time; none may hang for ever. What fails raises
    :class:`KtlsError`. The off flags are not its business: an order against a flag never comes here, and what acts on
    a flag without the agent is ``ktls-off``.
    """

    def switch(self, wish: Wish) -> Status:
        """Let new connections have ``wish``, and return the status after it. Userspace is never refused."""

    def drain(self) -> Draining | None:
        """Return what still runs by an earlier configuration; None: nothing does, or it cannot be told."""

    def observe(self) -> Status:
        """Return the status now."""

    def reload_needed(self) -> bool:
        """Return whether the running program works by another configuration than the one on disk."""

    def restart_needed(self) -> bool:
        """Return whether only a restart would bring the running program to the configuration on disk."""

    def refusal(self, mode: str) -> KtlsError | None:
        """Return why ``mode`` cannot be ordered, before anything is changed: what it means, consent, its own check."""

    def about(self) -> About:
        """Return what it is, and what it can. Does not raise, and waits for nothing."""


class Kind(Protocol):
    """What the module of a kind offers."""

    def parse(self, raw: Mapping[str, Any], source: str) -> Any:
        """Check the settings under key ``datapath`` of the agent's configuration. Raises KtlsError: bad_config."""

    def make(self, settings: Any, tools: Tools) -> Datapath:
        """Return the datapath of this host. Looks at nothing yet."""


def bad_config(source: str, what: str) -> KtlsError:
    """Return the error for settings that cannot be used."""
    return KtlsError("bad_config", f"{source}: datapath{what}; correct it and restart the agent")


def text(raw: dict[str, Any], key: str, source: str, default: str | None = None) -> str:
    """Take a text out of ``raw``. Raises KtlsError: bad_config."""
    value = raw.pop(key, default)
    if not isinstance(value, str) or not value:
        raise bad_config(source, f".{key} is missing or not a text")
    return value


def flag(raw: dict[str, Any], key: str, source: str, default: bool = False) -> bool:
    """Take true or false out of ``raw``. Raises KtlsError: bad_config."""
    value = raw.pop(key, default)
    if not isinstance(value, bool):
        raise bad_config(source, f".{key} is not true or false")
    return value


def only(raw: Mapping[str, Any], source: str) -> None:
    """Refuse what nobody took. Raises KtlsError: bad_config."""
    if raw:
        raise bad_config(source, f" has unknown key {sorted(map(str, raw))[0]}")


def tx_means_rx(consent: Consent, name: str, openssl: Sequence[int]) -> KtlsError | None:
    """Return the refusal of phase tx where the library has one option for both directions, unless consented to."""
    if tuple(openssl[:2]) < (3, 2) or consent.tx_rx:
        return None
    numbers = ".".join(map(str, openssl))
    message = (
        f"{name} runs with OpenSSL {numbers}, whose one option gives transmit and receive together: phase tx would be"
        " tx+rx; consent with ktls_tx_rx_consent, or stay in userspace"
    )
    return KtlsError("tx_means_rx", message)

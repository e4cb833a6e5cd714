# SPDX-License-Identifier: Apache-2.0
"""The crypto policy as it stands: crypto-policies of Fedora and RHEL, and what ktls-fleet itself has put there."""

from __future__ import annotations

import contextlib
import os
from dataclasses import asdict, dataclass, field
from typing import Any

from . import originals, textfile

DIRECTORY = "/etc/crypto-policies"
_BACKENDS = {"gnutls": "gnutls.config", "openssl": "opensslcnf.config"}


@dataclass(frozen=True)
class PolicyState:
    """``crypto_policies`` is true where update-crypto-policies(8) rules; ``policy`` is then the one in force.

    ``backends`` maps ``gnutls`` and ``openssl`` to what the generated file leads to; ``local`` are the files of
    ``local.d``, which are appended to it. ``levers`` are our own that have something to put back.
    """

    crypto_policies: bool = False
    policy: str | None = None
    backends: dict[str, str] = field(default_factory=dict)
    local: tuple[str, ...] = ()
    levers: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {**asdict(self), "local": list(self.local), "levers": list(self.levers)}


def probe(root: str = "/") -> PolicyState:
    """Read the files; starts no program."""
    base = textfile.under(root, DIRECTORY)
    if not os.path.isdir(base):
        return PolicyState(levers=originals.levers(root))
    local: list[str] = []
    with contextlib.suppress(OSError):
        local = sorted(name for name in os.listdir(os.path.join(base, "local.d")) if name.endswith(".config"))
    backends = {}
    for name, file in _BACKENDS.items():
        path = os.path.join(base, "back-ends", file)
        if os.path.lexists(path):
            backends[name] = os.readlink(path) if os.path.islink(path) else f"{DIRECTORY}/back-ends/{file}"
    policy = _policy(root)
    return PolicyState(True, policy, backends, tuple(local), originals.levers(root))


def parse_policy(text: str) -> str | None:
    """Return the policy that ``config`` or ``state/current`` names (crypto-policies(7)): the last line that counts."""
    lines = [line.strip() for line in text.splitlines()]
    named = [line for line in lines if line and not line.startswith("#")]
    return named[-1] if named else None


def _policy(root: str) -> str | None:
    texts = (textfile.read(root, f"{DIRECTORY}/{place}") for place in ("state/current", "config"))
    return next((parse_policy(text) for text in texts if text is not None), None)

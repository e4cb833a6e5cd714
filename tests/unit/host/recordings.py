# SPDX-License-Identifier: Apache-2.0
"""What real kernels said: written by tests/fixtures/host/record.py on hosts of the lab."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from ktls_host.verdict import kernel_version

DIRECTORY = Path(__file__).parents[2] / "fixtures" / "host"
_TLS_STAT_NAMES = {(6, 1): 12, (6, 12): 12, (7, 2): 17}


@dataclass(frozen=True)
class Recording:
    """One kernel. ``messages`` are sock_diag messages by case, ``unprivileged`` the same without capabilities."""

    release: str
    messages: dict[str, bytes]
    unprivileged: dict[str, bytes]
    tls_stat: str
    proc_modules: str
    modules_dep: str
    modules_builtin: str
    tcp_available_ulp: str

    @property
    def version(self) -> tuple[int, int]:
        """(major, minor) of the kernel."""
        return kernel_version(self.release)

    @property
    def tls_stat_names(self) -> int:
        """How many counters this kernel has."""
        return _TLS_STAT_NAMES[self.version]


def load(path: Path) -> Recording:
    """Read one recording."""
    data = json.loads(path.read_text())
    for name in ("messages", "unprivileged"):
        data[name] = {case: bytes.fromhex(message) for case, message in data[name].items()}
    return Recording(**data)


def paths() -> list[Path]:
    """All recordings, one a kernel."""
    return sorted(DIRECTORY.glob("kernel-*.json"))

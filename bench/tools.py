# SPDX-License-Identifier: Apache-2.0
"""The programs that a benchmark needs, and which Debian packages have them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence

from bench.errors import BenchError

PACKAGES = {
    "nginx": "nginx-light",
    "wrk": "wrk",
    "openssl": "openssl",
    "ss": "iproute2",
    "ip": "iproute2",
    "taskset": "util-linux",
    "unshare": "util-linux",
}


def missing(
    programs: Sequence[str] = tuple(PACKAGES), which: Callable[[str], str | None] = shutil.which
) -> dict[str, str]:
    """Return the programs that are not in PATH, each with the Debian package that has it."""
    return {name: PACKAGES[name] for name in programs if which(name) is None}


def require(programs: Sequence[str] = tuple(PACKAGES), which: Callable[[str], str | None] = shutil.which) -> None:
    """Raise BenchError that names what is missing and the command that installs it."""
    lacking = missing(programs, which)
    if lacking:
        packages = " ".join(sorted(set(lacking.values())))
        raise BenchError(
            f"not installed: {', '.join(sorted(lacking))}; as root: apt-get install --no-install-recommends {packages}"
        )

# SPDX-License-Identifier: Apache-2.0
"""What this control node runs: version, commit and locked dependencies, from a checkout or from a wheel."""

from __future__ import annotations

from pathlib import Path

from ktls_host.buildinfo import FILE, BuildInfo, of_file, of_tree


def info() -> BuildInfo:
    """What the wheel says that this was built from, else what the checkout says; all of it may be unknown."""
    here = Path(__file__).resolve()
    return of_file(here.parent / FILE) or of_tree(here.parents[2], "control.lock")

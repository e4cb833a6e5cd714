# SPDX-License-Identifier: Apache-2.0
"""What the programs on a host have in common when they end: words, JSON and exit status."""

from __future__ import annotations

import json
import os
import sys

from .errors import KtlsError

OK, FAILED, UNREACHABLE = 0, 1, 3


def refused(program: str, error: KtlsError, *, as_json: bool) -> int:
    """Say what was refused or failed, in one line that names the host, and return the exit status."""
    if as_json:
        print(json.dumps({"ok": False, "error": error.as_dict()}))
    print(f"{program}: {os.uname().nodename}: {error.message}", file=sys.stderr)
    return UNREACHABLE if error.code in ("unreachable", "timeout", "protocol") else FAILED


def reader_gone() -> int:
    """The reader of our output is gone: nothing to report, and nobody to report it to."""
    sys.stdout = open(os.devnull, "w", encoding="ascii")  # noqa: SIM115
    return OK

# SPDX-License-Identifier: Apache-2.0
"""Headless Chromium with a home of its own, which trusts our CA through an NSS database and nothing else special."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

from .clients import Done, Endpoint, environment

FLAGS = (
    "--headless",
    "--no-sandbox",  # tests may run as root
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-default-apps",
    "--no-proxy-server",
)
BUDGET_MS = 60_000
TIMEOUT_S = 120


def dump_dom(endpoint: Endpoint, path: str, home: Path, trust: bool = True) -> Done:
    """Load ``path`` and return the page as it is when all that it waits for has come."""
    database = home / ".pki" / "nssdb"
    database.mkdir(parents=True)
    nss = f"sql:{database}"
    _certutil("-N", "-d", nss, "--empty-password")
    if trust:
        _certutil("-A", "-d", nss, "-n", "conformance", "-t", "C,,", "-i", str(endpoint.ca))
    argv = [_chromium(), *FLAGS, f"--user-data-dir={home / 'profile'}", f"--virtual-time-budget={BUDGET_MS}"]
    done = subprocess.run(
        [*argv, "--dump-dom", endpoint.url(path)],
        capture_output=True,
        timeout=TIMEOUT_S,
        check=False,
        env={**environment(home), "XDG_CONFIG_HOME": str(home / "config"), "XDG_CACHE_HOME": str(home / "cache")},
    )
    return Done(done.returncode, done.stdout, done.stderr.decode("utf-8", "replace"))


def result(done: Done) -> dict[str, Any]:
    """Return what the page's script found (content.SCRIPT)."""
    match = re.search(r'<pre id="result">(.*?)</pre>', done.out.decode("utf-8", "replace"), re.DOTALL)
    assert match is not None, f"{done}\n{done.out[:2000]!r}"
    text = html.unescape(match.group(1))
    assert text != "running", f"the page did not finish: {done}"
    found: dict[str, Any] = json.loads(text)
    return found


def _chromium() -> str:
    found = shutil.which("chromium")
    assert found is not None, "chromium is not installed: run tools/prepare"
    return found


def _certutil(*arguments: str) -> None:
    done = subprocess.run(["certutil", *arguments], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr

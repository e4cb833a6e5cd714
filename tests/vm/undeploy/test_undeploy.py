# SPDX-License-Identifier: Apache-2.0
"""A real host that has served with kernel TLS is what it was before anything of ours was on it: to the last bit."""

from __future__ import annotations

import json
import shlex
import time
from pathlib import Path
from typing import Any

from ..conftest import StartLab
from ..fleet.fleet import Deployed, new_connection_is_ktls
from .looks import BESIDE, Host

HOST = "web1"
#: The lever that a deploy does not pull: the system-wide configuration of OpenSSL asks for kernel TLS.
POLICY = """
import sys
sys.path.insert(0, "/usr/local/lib/ktls/current/ktls.pyz")
from ktls_host.policy import lever
from ktls_host.policy.targets import Request
print(len(lever.run(Request("openssl", scope="system")).steps))
"""


def test_host_is_what_it_was(start_lab: StartLab, tmp_path: Path) -> None:
    fleet = Deployed(start_lab("undeploy"))
    host = Host(fleet, HOST)
    host.on("mkdir -p /srv/ktls && echo theirs >/srv/ktls/page.html")
    before, beside_before = host.listed(), host.beside()

    done = fleet.ktls("deploy")
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(host.on(f"python3 -IS -c {shlex.quote(POLICY)}")) > 0
    fleet.order(HOST, "tx", 1, identity="undeploy-1")
    assert new_connection_is_ktls(fleet, HOST)
    assert "tls" in host.on(BESIDE).partition("ulp\n")[2].split()
    trail = host.on("cat /var/lib/ktls/audit/audit.jsonl")
    assert '"order"' in trail

    started = time.monotonic()
    done = fleet.ktls("undeploy", "--yes", "--drain", "60", "--audit-dir", str(tmp_path))
    took = time.monotonic() - started
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout, f"undeploy took {took:.0f} s")
    assert "stays:" not in done.stdout
    host.assert_only_planted_differs(before, beside_before)

    (copy,) = (tmp_path / HOST).iterdir()
    kept: dict[str, Any] = json.loads((copy / "kept.json").read_text())
    assert kept["whole"] is True
    assert (copy / "audit.jsonl").read_text().startswith(trail)
    assert '"off"' in (copy / "audit.jsonl").read_text()[len(trail) :], "and how it ended"

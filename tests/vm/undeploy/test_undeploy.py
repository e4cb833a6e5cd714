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
from .guest import listing

HOST = "web1"
LISTING = Path(listing.__file__).read_text()
#: Loaded by the kernel itself when somebody lists sockets; a record of who did is nobody's.
BY_THE_KERNEL = {"inet_diag", "tcp_diag", "udp_diag", "unix_diag", "raw_diag", "netlink_diag", "af_packet_diag"}
#: What stands beside files: users and groups as the system sees them, units, and what the kernel offers.
BESIDE = """
echo users; getent passwd; echo groups; getent group
echo units; systemctl list-unit-files --no-legend --no-pager | sort
echo ours; systemctl list-units --all --plain --no-legend --no-pager 'ktls*'
echo ulp; cat /proc/sys/net/ipv4/tcp_available_ulp
echo modules; cut -d' ' -f1 /proc/modules | sort
"""
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

    def on(script: str, timeout: float = 120.0, stdin: str | None = None) -> str:
        done = fleet.lab.ssh(HOST, ["sh", "-c", script], timeout=timeout, stdin=stdin)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def listed() -> dict[str, list[object]]:
        found: dict[str, list[object]] = json.loads(on("python3 -IS - /", 240, LISTING))
        assert len(found) > 5000, "a whole system"
        return found

    def beside() -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for line in on(BESIDE).splitlines():
            if line in ("users", "groups", "units", "ours", "ulp", "modules"):
                found[line] = rows = []
            else:
                rows.append(line)
        return found

    on("mkdir -p /srv/ktls && echo theirs >/srv/ktls/page.html")
    before, beside_before = listed(), beside()

    done = fleet.ktls("deploy")
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(on(f"python3 -IS -c {shlex.quote(POLICY)}")) > 0
    fleet.order(HOST, "tx", 1, identity="undeploy-1")
    assert new_connection_is_ktls(fleet, HOST)
    assert "tls" in on(BESIDE).partition("ulp\n")[2].split()
    trail = on("cat /var/lib/ktls/audit/audit.jsonl")
    assert '"order"' in trail

    started = time.monotonic()
    done = fleet.ktls("undeploy", "--yes", "--drain", "60", "--audit-dir", str(tmp_path))
    took = time.monotonic() - started
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout, f"undeploy took {took:.0f} s")
    assert "stays:" not in done.stdout

    # Two things are planted, so that a listing that sees nothing cannot pass for one that finds nothing.
    on("echo left >/etc/left-over && chmod 0711 /srv/ktls")
    said = listing.differences(before, listed())
    planted = [line.split(":")[0] for line in said]
    assert planted == ["/etc/left-over", "/srv/ktls"], "\n".join(said)
    on("rm /etc/left-over && chmod 0755 /srv/ktls")

    beside_after = beside()
    modules = set(beside_after.pop("modules")) - set(beside_before.pop("modules"))
    assert beside_after == beside_before
    assert not [line for line in beside_after["ours"] if "ktls-lab-" not in line]
    assert modules <= BY_THE_KERNEL

    (copy,) = (tmp_path / HOST).iterdir()
    kept: dict[str, Any] = json.loads((copy / "kept.json").read_text())
    assert kept["whole"] is True
    assert (copy / "audit.jsonl").read_text().startswith(trail)
    assert '"off"' in (copy / "audit.jsonl").read_text()[len(trail) :], "and how it ended"

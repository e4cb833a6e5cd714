# SPDX-License-Identifier: Apache-2.0
"""A host of the lab as it is: the whole file system, and what stands beside files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from ..fleet.fleet import Deployed
from .guest import listing

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
Listing = dict[str, list[object]]


@dataclass(frozen=True)
class Host:
    """One host, by ssh as root."""

    fleet: Deployed
    name: str

    def on(self, script: str, timeout: float = 150.0, stdin: str | None = None) -> str:
        """What a script of sh says there; it must not fail. ``timeout`` in seconds."""
        done = self.fleet.lab.ssh(self.name, ["sh", "-c", script], timeout=timeout, stdin=stdin)
        assert done.returncode == 0, f"{self.name}: {done.stdout}{done.stderr}"
        return done.stdout

    def listed(self) -> Listing:
        """Every path with what it is."""
        found: Listing = json.loads(self.on("python3 -IS - /", 300, LISTING))
        assert len(found) > 5000, "a whole system"
        return found

    def beside(self) -> dict[str, list[str]]:
        """What :data:`BESIDE` prints, by its headings."""
        found: dict[str, list[str]] = {}
        for line in self.on(BESIDE).splitlines():
            if line in ("users", "groups", "units", "ours", "ulp", "modules"):
                found[line] = rows = []
            else:
                rows.append(line)
        return found

    def assert_only_planted_differs(self, before: Listing, beside_before: dict[str, list[str]]) -> None:
        """Two things are planted, so that a listing that sees nothing cannot pass for one that finds nothing."""
        mode = before["/srv"][1]
        self.on("echo left >/etc/left-over && chmod 0711 /srv")
        said = listing.differences(before, self.listed())
        assert [line.split(":")[0] for line in said] == ["/etc/left-over", "/srv"], "\n".join(said)
        self.on(f"rm /etc/left-over && chmod {mode} /srv")
        after = self.beside()
        modules = set(after["modules"]) - set(beside_before["modules"])
        assert modules <= BY_THE_KERNEL
        assert {**after, "modules": []} == {**beside_before, "modules": []}
        assert not [line for line in after["ours"] if "ktls-lab-" not in line]

# SPDX-License-Identifier: Apache-2.0
"""An nginx and a lighttpd that were there before us are theirs again, to the last bit, and have served all along.

The nginx serves by userspace TLS again, by the very master process of before. A lighttpd goes back to what it does by
itself, and that is kernel TLS (docs/service.md).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ..conftest import StartLab
from ..fleet.fleet import Deployed
from .looks import Host, Listing

TESTS = Path(__file__).parents[1]
Json = dict[str, Any]


@dataclass(frozen=True)
class Server:
    """How to set one up and look at it: ``new`` is one connection by the kernel's word, ``same`` hashes a download."""

    kind: str
    unit: str
    new: str
    same: str

    @property
    def guest(self) -> Path:
        return TESTS / self.kind / "guest"


FETCH = "curl -sS --fail --cacert /etc/nginx/site.pem --resolve site:443:127.0.0.1 https://site/large"
SERVERS = {
    "web1": Server("nginx", "nginx", "new", f"{FETCH} | cmp - /srv/www/large"),
    "web2": Server("service", "lighttpd", "new 443", "python3 /root/guest.py get 443 | grep -F '\"same\": true'"),
}
VARIABLES = {
    "ktls_datapath": "{{ {'web1': 'nginx', 'web2': 'service'}[inventory_hostname] }}",
    "ktls_service_unit": "lighttpd",
    "ktls_service_probe_url": "https://files.test/probe.bin",
    "ktls_service_ca_file": "/etc/ssl/files-ca.pem",
    "ktls_tx_rx_consent": True,
    "ktls_restart_ok": True,
}


@dataclass(frozen=True)
class Before:
    """What was seen of a host while nothing of ours was on it."""

    listing: Listing
    beside: dict[str, list[str]]
    ktls: bool
    pid: str


@dataclass(frozen=True)
class Site:
    """A host and its server."""

    host: Host
    server: Server

    def set_up(self) -> Before:
        """A server that serves; then the look."""
        self.host.on("sh -s", stdin=(self.server.guest / "site.sh").read_text())
        self.host.on("cat >/root/guest.py", stdin=(self.server.guest / "guest.py").read_text())
        ktls = self.ktls()
        return Before(self.host.listed(), self.host.beside(), ktls, self.pid())

    def ktls(self) -> bool:
        """Whether a connection that begins now is in the kernel."""
        return bool(json.loads(self.host.on(f"python3 /root/guest.py {self.server.new}"))["ktls"])

    def pid(self) -> str:
        return self.host.on(f"systemctl show --property=MainPID --value {self.server.unit}").strip()

    def order(self) -> None:
        """Phase tx, confirmed."""
        name, fleet = self.host.name, self.host.fleet
        words = f"--id first --epoch 1 --phase tx --lease 300 --plan-sha256 {'0' * 64} --json"
        answer: Json = json.loads(fleet.lab.ssh(name, f"ktls-agent order {words}", timeout=150).stdout)
        assert answer["ok"], answer
        assert fleet.agent(name, "confirm", "--id", "first", "--epoch", "1")["order"] == "committed"
        assert self.ktls()


def each(sites: dict[str, Site], what: str) -> dict[str, Any]:
    """Call a method of all sites at the same time."""
    with ThreadPoolExecutor() as pool:
        return dict(zip(sites, pool.map(lambda site: getattr(site, what)(), sites.values()), strict=True))


@pytest.fixture(scope="module")
def sites(start_lab: StartLab) -> Iterator[dict[str, Site]]:
    """Return the two hosts as they come."""
    fleet = Deployed(start_lab("undeploy-d", hosts=len(SERVERS), image=("debian13-bench",) * len(SERVERS)))
    yield {name: Site(Host(fleet, name), server) for name, server in SERVERS.items()}
    fleet.lab.down()


@pytest.fixture(scope="module")
def undeployed(sites: dict[str, Site], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Before]:
    """Deploy, order, undeploy; return what was there before."""
    before: dict[str, Before] = each(sites, "set_up")
    fleet = sites["web1"].host.fleet
    done = fleet.run("ansible-playbook", "playbooks/deploy.yml", "-e", json.dumps(VARIABLES), timeout_s=600)
    assert done.returncode == 0, done.stdout + done.stderr
    each(sites, "order")
    kept = tmp_path_factory.mktemp("audit")
    words = {**VARIABLES, "ktls_undeploy_ok": True, "ktls_undeploy_audit_dir": str(kept)}
    done = fleet.run("ansible-playbook", "playbooks/undeploy.yml", "-e", json.dumps(words), timeout_s=600)
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout)
    assert sorted(path.name for path in kept.iterdir()) == sorted(SERVERS), "their audit trails are here"
    return before


@pytest.mark.parametrize("name", SERVERS)
def test_server_is_theirs_again(sites: dict[str, Site], undeployed: dict[str, Before], name: str) -> None:
    site, before = sites[name], undeployed[name]
    assert before.ktls == (name == "web2"), "lighttpd asks for kernel TLS by itself, nginx does not"
    assert site.ktls() == before.ktls
    site.host.on(site.server.same)
    if name == "web1":
        assert site.pid() == before.pid, "nginx was never restarted"
    site.host.assert_only_planted_differs(before.listing, before.beside)

# SPDX-License-Identifier: Apache-2.0
"""Bytes of nginx, by its own access log, by clients that count what is on the wire, and by the evidence.

nginx serves one port in userspace and one by kernel TLS. It logs what HTTP sent; TLS adds a handshake to each
connection and 22 bytes to each record of at most 16 KiB (RFC 8446 5.1, 5.2: header, content type, tag), and no more.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from ktls_agent.evidence.model import Snapshot, Volume
from tests.vm import deployed as deployed_hosts
from tests.vm.conftest import StartLab
from tests.vm.evidence.test_attribution import (
    HOST,
    INTERVAL_S,
    LARGE,
    SMALL,
    check_total,
    load,
    moved,
    set_up,
    settled,
    unattributed,
)
from tests.vm.fleet.fleet import Deployed

PLAIN, KTLS = 9445, 9446
HANDSHAKE = 4096  # bytes that a handshake and its tickets take at most, with a certificate of one small key
SERVER = (
    "server {{ listen 10.99.0.1:{port} ssl; root /srv/ktls/ev; access_log /var/log/nginx/{port}.log seen; {more} }}"
)
CONFIG = f"""
log_format seen '$bytes_sent $request_length';
ssl_certificate /root/other.pem;
ssl_certificate_key /root/other.key;
{SERVER.format(port=PLAIN, more="")}
{SERVER.format(port=KTLS, more="ssl_conf_command Options KTLS;")}
"""


@pytest.fixture(scope="module")
def host(start_lab: StartLab) -> Iterator[Deployed]:
    """Return a deployed host with nginx beside the sidecar."""
    fleet = deployed_hosts.start(start_lab, "nginx", ("debian13-bench",))
    set_up(fleet)
    script = (
        "modprobe tls; rm -f /etc/nginx/sites-enabled/default; cat >/etc/nginx/conf.d/witness.conf; nginx -t && "
        "systemctl restart nginx && systemctl is-active nginx"
    )
    done = fleet.lab.ssh(HOST, script, stdin=CONFIG, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    yield fleet
    fleet.lab.down()


def job(port: int, connections: int, size: int = SMALL, requests: int = 1, **more: Any) -> dict[str, Any]:
    path = "/small" if size == SMALL else "/large"
    request = f"GET {path} HTTP/1.1\r\nHost: other\r\nConnection: @\r\n\r\n"
    return {
        "address": "10.99.0.1", "port": port, "name": "other", "ca": "/root/other.pem", "connections": connections,
        "requests": requests, "request": request, "size": size, **more,
    }  # fmt: skip


def logged(host: Deployed, port: int) -> Volume:
    """What nginx says that it sent and received on ``port``, since it was asked last."""
    done = host.lab.ssh(HOST, f"sleep 1; cat /var/log/nginx/{port}.log; : >/var/log/nginx/{port}.log")
    rows = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    return Volume(sum(sent for sent, _ in rows), sum(received for _, received in rows))


def check_log(log: Volume, found: Volume, rest: Volume, connections: int) -> None:
    """The evidence has all of the log's bytes, and no more than TLS adds."""
    sent, received = found.sent + rest.sent, found.received + rest.received
    print(f"  nginx logged {log.sent} sent, {log.received} received; TCP carried {sent} and {received}")
    records = log.sent // 1024 + 4 * connections  # far more than there are
    assert log.sent < sent <= log.sent + 22 * records + HANDSHAKE * connections
    assert log.received < received <= log.received + HANDSHAKE * connections


@pytest.mark.parametrize(("port", "sent_by"), [(PLAIN, "none"), (KTLS, "sw")], ids=["userspace", "kernel TLS"])
def test_the_evidence_has_what_nginx_logged(host: Deployed, port: int, sent_by: str) -> None:
    jobs = [job(port, 10), job(port, 2, LARGE), job(port, 1, LARGE, 2, pause_s=2 * INTERVAL_S)]
    logged(host, port)
    before = settled(host)
    print(f"\nport {port}")
    results = load(host, jobs)
    after: Snapshot = settled(host)
    found, total = moved(before, after, port)
    rest = unattributed(before, after)
    check_total(total, rest, results)
    check_log(logged(host, port), total, rest, sum(result["connections"] for result in results))
    print(f"  {found}; unattributed {rest}")
    assert {kind.process for kind in after.volumes if kind.port == port} == {"nginx"}
    # The long connection is seen, and exact; handshakes that a dump happened to see are userspace.
    by_path: dict[str, int] = {}
    for (tx, _), volume in found.items():
        by_path[tx] = by_path.get(tx, 0) + volume.sent
    assert by_path[sent_by] >= 2 * LARGE
    other = sum(volume for tx, volume in by_path.items() if tx != sent_by)
    assert other <= 13 * HANDSHAKE if sent_by == "sw" else other == 0

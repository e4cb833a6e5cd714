# SPDX-License-Identifier: Apache-2.0
"""GnuTLS does kernel TLS where it was built for it and configured for it, and nowhere else.

The witnesses are ss (sock_diag), /proc/net/tls_stat and the SHA-256 of what arrives; every client checks the server's
certificate and name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import IMAGES, REBUILT, SERVICE_CONFIG, STOCK, SYSTEM_CONFIG, UNIT, UNIT_PORT, Hosts, Session, set_policy

FIXTURES = Path(__file__).parents[2] / "fixtures/host/gnutls"
KINDS = ("echo-gnutls-cli", "echo-openssl", "send-file-curl", "nbdkit-nbdcopy")
SetPolicy = Callable[..., None]


def assert_userspace(session: Session) -> None:
    assert [line for line in session.sockets if "tcp-ulp" in line] == []
    assert session.tls_stat == {}


def assert_ktls(session: Session, ends: int = 1) -> None:
    """Every connection is in the kernel in both directions, at the server's end, or at both."""
    for line in session.sockets:
        found = re.search(r"tcp-ulp-tls version: (\S+) cipher: (\S+) rxconf: (\S+) txconf: (\S+)", line)
        assert found is not None, line
        assert (found[1], found[3], found[4]) == ("1.3", "sw", "sw")
        assert found[2] in {"aes-gcm-128", "aes-gcm-256", "chacha20-poly1305"}
    keys = session.tls_stat["TlsTxSw"], session.tls_stat["TlsRxSw"]
    assert keys[0] == keys[1] >= ends * len(session.sockets)
    assert keys[0] % ends == 0
    assert set(session.tls_stat) <= {"TlsTxSw", "TlsRxSw", "TlsCurrTxSw", "TlsCurrRxSw"}, "an error or a rekey"


@pytest.mark.parametrize("host", IMAGES)
def test_the_library_says_how_it_was_built(hosts: Hosts, host: str) -> None:
    said = hosts.json(host, "library_config")
    assert ("ktls" in said["config"]["hardware-features"].split()) == (host == REBUILT)
    # What other tests take for the word of this image.
    recorded = json.loads((FIXTURES / f"{IMAGES[host]}.json").read_text(encoding="utf-8"))
    assert {"image": IMAGES[host], **said} == recorded
    packages = hosts.lab.ssh(host, ["dpkg-query", "--show", "--showformat=${Version}\n", "libgnutls30t64"]).stdout
    assert packages.strip().endswith("+ktls1") == (host == REBUILT)


@pytest.mark.parametrize("kind", KINDS)
def test_the_policy_decides_for_new_connections(hosts: Hosts, policy: SetPolicy, kind: str) -> None:
    policy(REBUILT, present=False)
    assert_userspace(hosts.session(kind))
    policy(REBUILT, present=True)
    assert_ktls(hosts.session(kind))
    policy(REBUILT, present=False)
    assert_userspace(hosts.session(kind))


@pytest.mark.parametrize("kind", ["echo-gnutls-cli", "nbdkit-nbdcopy"])
def test_both_ends(hosts: Hosts, policy: SetPolicy, kind: str) -> None:
    policy(REBUILT, present=True)
    assert_ktls(hosts.session(kind, client=SERVICE_CONFIG), ends=2)


def test_the_file_of_the_system(hosts: Hosts, policy: SetPolicy) -> None:
    """/etc/gnutls/config is for every program without one of its own; curl here is OpenSSL's."""
    policy(REBUILT, present=True, path=SYSTEM_CONFIG)
    assert_ktls(hosts.session("send-file-curl", server=None))
    policy(REBUILT, present=False, path=SYSTEM_CONFIG)
    assert_userspace(hosts.session("send-file-curl", server=None))


def seen(hosts: Hosts) -> str:
    """What ss says of a connection to the service, by a client that checks its certificate and is answered by it."""
    client = (
        f"openssl s_client -quiet -no_ign_eof -connect localhost:{UNIT_PORT} -CAfile /etc/ktls-test/pki/ca-cert.pem "
        "-verify_return_error -verify_hostname localhost"
    )
    script = (
        f"(echo hello; sleep 4) | {client} >/run/echo & sleep 2; ss -Htien 'sport = :{UNIT_PORT}'; wait; cat /run/echo"
    )
    done = hosts.lab.ssh(REBUILT, script)
    assert "hello" in done.stdout, done.stdout + done.stderr
    return done.stdout


def test_a_running_service_by_our_module_and_back(hosts: Hosts) -> None:
    """A service of systemd, restarted by consent; before and after, /etc is the same to the last bit."""
    lab = hosts.lab
    snapshot = "cd /etc && find . -type d -printf '%p %m %u %g\n' -o -printf '%p %m %u %g %T@ %l\n' | sort; "
    snapshot += "find . -type f -print0 | sort -z | xargs -0 sha256sum"
    lab.ssh(REBUILT, ["systemctl", "start", UNIT])
    try:
        before = lab.ssh(REBUILT, snapshot).stdout
        assert "tcp-ulp" not in seen(hosts)
        there = set_policy(lab, REBUILT, present=True)
        assert there["restarted"] == [UNIT] and there["restart_required"] == []
        assert "tcp-ulp-tls" in seen(hosts)
        back = set_policy(lab, REBUILT, present=False)
        assert back["restarted"] == [UNIT]
        assert "tcp-ulp" not in seen(hosts)
        after = lab.ssh(REBUILT, snapshot).stdout
        assert [line for line in after.splitlines() if line not in before] == []
        assert len(after) == len(before)
    finally:
        lab.ssh(REBUILT, ["systemctl", "stop", UNIT])


def test_what_gnutls_says_agrees_with_the_kernel(hosts: Hosts, policy: SetPolicy) -> None:
    assert hosts.session("send-file-curl").ktls == 0
    policy(REBUILT, present=True)
    assert hosts.session("send-file-curl").ktls == 3


def test_debians_own_library_takes_the_policy_and_does_nothing(hosts: Hosts, policy: SetPolicy) -> None:
    policy(STOCK, present=True)
    session = hosts.session("send-file-curl", host=STOCK)
    assert_userspace(session)
    assert session.ktls == 0


def test_without_the_module_the_client_notices_nothing(hosts: Hosts, policy: SetPolicy) -> None:
    """Last: a policy on a host whose kernel cannot have the module is user space TLS, not an outage."""
    policy(REBUILT, present=True)
    script = "modprobe -r tls && echo 'install tls /bin/false' >/etc/modprobe.d/ktls-test.conf"
    done = hosts.lab.ssh(REBUILT, script)
    assert done.returncode == 0, done.stderr
    try:
        session = hosts.session("send-file-curl")
        assert [line for line in session.sockets if "tcp-ulp" in line] == []
        assert session.ktls == 0
    finally:
        hosts.lab.ssh(REBUILT, "rm /etc/modprobe.d/ktls-test.conf; modprobe tls")

# SPDX-License-Identifier: Apache-2.0
"""The policy lever on real hosts: connections really change, and then the host is as it was, byte for byte.

Two services serve TLS from blocking sockets; whether a connection is in the kernel is said by ss.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from .by_ansible import ByAnsible
from .lever_lab import Levers

IMAGES = ("debian13", "debian12")
REPOSITORY = Path(__file__).parents[3]
FIXTURES = REPOSITORY / "tests/fixtures/host/policy"
PLACE = "/root/policy"
PORTS = {"pol-a": 9441, "pol-b": 9442}
ODD = r"pol\x2dodd.service"
SERVICE: dict[str, Any] = {"backend": "openssl", "scope": "service", "services": ["pol-a"]}
SYSTEM: dict[str, Any] = {"backend": "openssl", "scope": "system"}
GNUTLS_SERVICE: dict[str, Any] = {"backend": "gnutls", "scope": "service", "services": ["pol-a"], "allow_inert": True}
GNUTLS_SYSTEM: dict[str, Any] = {"backend": "gnutls", "scope": "system", "allow_inert": True}
ABSENT = {"present": False}
CHECKED = ("changed", "steps", "diff", "files", "restart_required", "restarted", "left_alone")

SETUP = """set -e
modprobe tls
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost \
  -addext subjectAltName=DNS:localhost -keyout key.pem -out cert.pem 2>/dev/null
unit() { printf '[Service]\\nExecStart=%s\\n' "$2" > "/etc/systemd/system/$1"; }
unit pol-a.service "/usr/bin/python3 $PWD/guest.py serve 9441"
unit pol-b.service "/usr/bin/python3 $PWD/guest.py serve 9442"
unit 'pol\\x2dodd.service' "/bin/sleep infinity"
unit pol-t@.service "/bin/sleep infinity"
systemctl daemon-reload
systemctl start pol-a pol-b pol-t@one 'pol\\x2dodd.service'
"""
CLEAN = """systemctl stop pol-a pol-b 'pol-t@*' 'pol\\x2dodd.service'
rm -rf /etc/systemd/system/pol* /root/policy; systemctl daemon-reload"""


@dataclass(frozen=True)
class Host:
    """One VM with the services on it."""

    levers: Levers
    name: str
    image: str

    @property
    def direction(self) -> str:
        """OpenSSL before 3.2 leaves the receive side of TLS 1.3 in userspace."""
        return "transmit" if self.image == "debian12" else "both"

    def run(self, script: str) -> str:
        return self.levers.run(self.name, script, timeout_s=200).stdout

    def act(self, *actions: tuple[Any, ...]) -> list[Any]:
        """Do them in one process on the host; each is a verb of guest.py with its arguments."""
        wanted = json.dumps([[verb, list(arguments)] for verb, *arguments in actions])
        done = self.levers.run(self.name, ["python3", f"{PLACE}/guest.py", "act"], stdin=wanted, timeout_s=400)
        return [json.loads(line) for line in done.stdout.splitlines()]

    def snapshot(self) -> Any:
        return self.act(("snapshot",))[0]

    def in_kernel(self) -> dict[str, str]:
        """What the connections of the services are, after data went over them both ways."""
        found = self.act(*(("look", port) for port in PORTS.values()))
        assert all(entry["answer"] == "6\n" for entry in found)
        return {name: _kind(entry["ss"]) for name, entry in zip(PORTS, found, strict=True)}


def _kind(shown: str) -> str:
    (line,) = [line for line in shown.splitlines() if line.strip()]
    if "tcp-ulp-tls" not in line or "txconf: sw" not in line:
        # A library from before 3.0.19 or 3.5.5 attaches the ULP to every socket, without keys.
        return "userspace"
    return "both" if "rxconf: sw" in line else "transmit"


@pytest.fixture(scope="module")
def hosts(levers: Levers) -> Iterator[dict[str, Host]]:
    """The services on a host of each image."""
    found = {image: Host(levers, levers.host(image), image) for image in IMAGES}

    def prepare(host: Host) -> None:
        levers.put(host.name, REPOSITORY / "agent/ktls_host", f"{PLACE}/ktls_host")
        for name in ("guest.py", "update-crypto-policies", "fedora-openssl.cnf"):
            levers.put(host.name, FIXTURES / name, f"{PLACE}/{name}")
        levers.put(host.name, FIXTURES / "crypto-policies", f"{PLACE}/crypto-policies")
        host.run(f"mkdir -p /var/lib/ktls-levers; chmod 700 /var/lib/ktls-levers; cd {PLACE} && {SETUP}")

    with ThreadPoolExecutor() as pool:
        list(pool.map(prepare, found.values()))
    yield found
    for host in found.values():
        host.run(CLEAN)


@pytest.fixture(scope="module")
def untouched(hosts: dict[str, Host]) -> dict[str, Any]:
    """What /etc of each host is like without us."""
    return {image: host.snapshot() for image, host in hosts.items()}


@pytest.fixture
def clean(hosts: dict[str, Host], untouched: dict[str, Any]) -> Iterator[None]:
    """All hosts must be left as they were, byte for byte."""
    yield

    def compare(host: Host) -> None:
        left, records = host.act(("snapshot",), ("snapshot", "/var/lib/ktls-levers"))
        assert left == untouched[host.image], host.image
        assert records == {}, host.image

    together(hosts, compare)


def together(hosts: dict[str, Host], test: Callable[[Host], None]) -> None:
    """Do the same on each host at once."""
    with ThreadPoolExecutor() as pool:
        list(pool.map(test, hosts.values()))


@contextmanager
def during(host: Host, make: str, mend: str) -> Iterator[None]:
    """The host is in a bad way for the time of the block."""
    host.run(make)
    try:
        yield
    finally:
        host.run(mend)


@pytest.mark.usefixtures("clean")
def test_one_service(hosts: dict[str, Host]) -> None:
    """Only the service that was named gets kernel TLS, with its restart, and loses it again."""

    def test(host: Host) -> None:
        wish = {**SERVICE, "restart_ok": True}
        present, again = host.act(("bring", wish), ("quickly", wish))
        assert [step["code"] for step in present["steps"]] == ["configure", "drop_in", "daemon_reload", "restart"]
        assert present["effective"][0]["ktls"] is True
        assert (present["restarted"], present["restart_required"]) == (["pol-a.service"], [])
        assert again["changed"] is False
        assert host.in_kernel() == {"pol-a": host.direction, "pol-b": "userspace"}
        (absent,) = host.act(("bring", {**wish, **ABSENT}))
        assert (absent["restarted"], absent["restart_required"]) == (["pol-a.service"], [])
        assert host.in_kernel() == {"pol-a": "userspace", "pol-b": "userspace"}

    together(hosts, test)


@pytest.mark.usefixtures("clean")
def test_by_ansible(hosts: dict[str, Host], levers: Levers, untouched: dict[str, Any]) -> None:
    """As a module, on a host without anything of ours but this: check mode tells what happens."""
    ansible, host = ByAnsible(levers.lab), hosts["debian13"]
    wish: dict[str, Any] = {"backend": "openssl", "service": ["pol-a"], "restart_ok": True}
    for state in ("present", "absent"):
        predicted = ansible(host.name, "ktls_crypto_policy", check=True, state=state, **wish)[host.name]
        if state == "present":
            assert host.snapshot() == untouched[host.image]
        real = ansible(host.name, "ktls_crypto_policy", state=state, **wish)[host.name]
        assert real["changed"] is True
        assert real["restarted"] == ["pol-a.service"]
        for key in CHECKED:
            assert predicted[key] == real[key], (state, key)


@pytest.mark.usefixtures("clean")
def test_the_whole_host(hosts: dict[str, Host]) -> None:
    """Who was not restarted goes on as before, and is named."""

    def test(host: Host) -> None:
        first, second = host.act(("bring", {**SYSTEM, "services": ["pol-b"], "restart_ok": True}), ("quickly", SYSTEM))
        assert [step["code"] for step in first["steps"]] == ["configure", "restart"]
        assert first["restarted"] == ["pol-b.service"]
        assert first["restart_required"] == second["restart_required"] == ["pol-a.service"]
        assert second["changed"] is False
        assert host.in_kernel() == {"pol-a": "userspace", "pol-b": host.direction}
        wish = {**SYSTEM, **ABSENT, "services": ["pol-a", "pol-b"], "restart_ok": True}
        (done,) = host.act(("quickly", wish))
        # The other one started before the last change, too.
        assert done["restarted"] == ["pol-a.service", "pol-b.service"]
        assert host.in_kernel() == {"pol-a": "userspace", "pol-b": "userspace"}

    together(hosts, test)


@pytest.mark.usefixtures("clean")
def test_gnutls_there_and_back(hosts: dict[str, Host]) -> None:
    """Debian's GnuTLS was built without kTLS: refused, and with consent to do nothing, set and taken back."""

    def test(host: Host) -> None:
        refused, system, service, again, *_ = host.act(
            ("bring", {**GNUTLS_SYSTEM, "allow_inert": False}),
            ("bring", GNUTLS_SYSTEM),
            ("bring", GNUTLS_SERVICE),
            ("quickly", GNUTLS_SERVICE),
            ("quickly", {**GNUTLS_SYSTEM, **ABSENT}),
            ("quickly", {**GNUTLS_SERVICE, **ABSENT}),
        )
        assert refused["refused"] == "gnutls_without_ktls"
        assert [step["code"] for step in system["steps"]] == ["configure"]
        assert [step["code"] for step in service["steps"]] == ["configure", "drop_in", "daemon_reload"]
        assert again["changed"] is False
        assert [entry["effective"][0]["built"] for entry in (system, service)] == [False, False]

    together(hosts, test)


@pytest.mark.usefixtures("clean")
@pytest.mark.more
def test_odd_names_and_templates(hosts: dict[str, Host]) -> None:
    """The real systemd reads our drop-ins, whatever is in the name."""

    def test(host: Host) -> None:
        wish = {**SERVICE, "services": [ODD, "pol-t@"]}
        done, again = host.act(("quickly", wish), ("quickly", wish))
        assert done["restart_required"] == ["pol-t@one.service", ODD]
        assert again["changed"] is False
        shown = host.run(rf"systemctl show -P Environment -- '{ODD}' pol-t@one")
        assert shown.count("OPENSSL_CONF=/etc/ktls-fleet/policy/pol") == 2
        (back,) = host.act(("quickly", {**wish, **ABSENT}))
        assert back["changed"] is True

    together(hosts, test)


@pytest.mark.usefixtures("clean")
@pytest.mark.more
def test_crypto_policies(hosts: dict[str, Host]) -> None:
    """The layout of Fedora with a stand-in for its program, and each host's real OpenSSL."""
    make = f"""set -e; cd {PLACE}
cp -a /etc/ssl/openssl.cnf saved.cnf; cp fedora-openssl.cnf /etc/ssl/openssl.cnf
install -m 755 update-crypto-policies /usr/local/sbin/; mkdir -p /usr/share/crypto-policies /etc/crypto-policies/local.d
cp -r crypto-policies/DEFAULT /usr/share/crypto-policies/; echo DEFAULT > /etc/crypto-policies/config
echo touch {PLACE}/RELOADED > /usr/share/crypto-policies/reload-cmds.sh; update-crypto-policies --no-reload"""
    mend = f"""rm -rf /usr/local/sbin/update-crypto-policies /usr/share/crypto-policies /etc/crypto-policies
mv {PLACE}/saved.cnf /etc/ssl/openssl.cnf; ls {PLACE}/RELOADED && exit 1; true"""

    def test(host: Host) -> None:
        with during(host, make, mend):
            before, there, again, back, after = host.act(
                ("snapshot",), ("bring", SYSTEM), ("quickly", SYSTEM), ("bring", {**SYSTEM, **ABSENT}), ("snapshot",)
            )
        assert [step["code"] for step in there["steps"]] == ["configure", "regenerate"]
        assert there["effective"][0]["ktls"] is True
        assert again["changed"] is False
        assert back["effective"][0]["ktls"] is False
        assert after == before

    together(hosts, test)


HOSTILE = {
    "debian13": ("mount --bind /etc /etc && mount -o remount,ro,bind /etc", "umount /etc"),
    "debian12": (
        "fallocate -l $(stat -f -c '%f*%S' / | sed 's/.*/echo $((&))/' | sh) /fill; cat /dev/zero > /fill2 || true",
        "rm -f /fill /fill2",
    ),
}


@pytest.mark.usefixtures("clean")
@pytest.mark.more
def test_a_disk_that_does_not_take_it(hosts: dict[str, Host]) -> None:
    """/etc is read-only on one host, the disk of the other is full."""

    def test(host: Host) -> None:
        with during(host, *HOSTILE[host.image]):
            system, service, back, checked = host.act(
                ("quickly", SYSTEM),
                ("quickly", SERVICE),
                ("quickly", {**SYSTEM, **ABSENT}),
                ("quickly", {**SYSTEM, "check_only": True}),
            )
        assert [system["refused"], service["refused"]] == ["write_failed"] * 2, (system, service)
        assert "as before" in system["message"] or "nothing was changed" in system["message"]
        assert back["changed"] is False
        assert checked["changed"] is True

    together(hosts, test)


@pytest.mark.usefixtures("clean")
@pytest.mark.more
def test_edited_by_hand(hosts: dict[str, Host]) -> None:
    host = hosts["debian12"]
    host.act(("quickly", SYSTEM))
    with during(
        host,
        "cp -a /etc/ssl/openssl.cnf /root/ours; echo '# mine' >> /etc/ssl/openssl.cnf",
        "tail -1 /etc/ssl/openssl.cnf | grep -q mine; mv /root/ours /etc/ssl/openssl.cnf",
    ):
        refused, kept = host.act(
            ("quickly", {**SYSTEM, **ABSENT}),
            ("quickly", {**SYSTEM, **ABSENT, "keep_edited": True, "check_only": True}),
        )
    assert refused["refused"] == "edited_meanwhile"
    assert kept["left_alone"] == ["/etc/ssl/openssl.cnf"]
    assert host.act(("quickly", {**SYSTEM, **ABSENT}))[0]["changed"] is True


@pytest.mark.usefixtures("clean")
@pytest.mark.more
def test_two_at_once_change_it_once(hosts: dict[str, Host]) -> None:
    host = hosts["debian13"]
    with ThreadPoolExecutor() as pool:
        found = [answer for (answer,) in pool.map(lambda _: host.act(("quickly", SYSTEM)), range(2))]
    assert sorted(entry["changed"] for entry in found) == [False, True], found
    assert host.act(("quickly", {**SYSTEM, **ABSENT}))[0]["changed"] is True


@pytest.mark.usefixtures("clean")
@pytest.mark.more
def test_killed_on_the_way(hosts: dict[str, Host], untouched: dict[str, Any]) -> None:
    """There on one host, back on the other, at some points; the fast tests take every one, without this systemd."""

    def test(host: Host) -> None:
        absent = {**SERVICE, **ABSENT}
        wish, start = (SERVICE, []) if host.image == "debian13" else (absent, [("quickly", SERVICE)])
        *_, points, _ = host.act(*start, ("points", wish), ("quickly", absent))
        assert points > 30
        for nth in (points // 2, points - 5):
            *_, died, back, after = host.act(*start, ("killed", wish, nth), ("quickly", absent), ("snapshot",))
            assert died is True
            assert after == untouched[host.image], (nth, back)
        *_, died, there, again, back = host.act(
            *start,
            ("killed", wish, points // 2),
            ("quickly", SERVICE),
            ("quickly", SERVICE),
            ("quickly", absent),
        )
        assert died is True
        assert (there["files"], again["changed"], back["changed"]) == (again["files"], False, True)

    together(hosts, test)

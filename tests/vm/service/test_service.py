# SPDX-License-Identifier: Apache-2.0
"""A lighttpd that was there before is switched by orders, restarted by consent alone, and let go as it was found."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ..conftest import StartLab
from ..fleet.fleet import Deployed

GUEST = Path(__file__).with_name("guest")
HOST, UNIT, PORT = "web1", "lighttpd.service", 443
VARIABLES = {
    "ktls_datapath": "service",
    "ktls_service_unit": "lighttpd",
    "ktls_service_probe_url": "https://files.test/probe.bin",
    "ktls_service_ca_file": "/etc/ssl/files-ca.pem",
    "ktls_tx_rx_consent": True,
    "ktls_restart_ok": True,
}
Json = dict[str, Any]
# An operator who takes a consent back deploys again. This is what that changes for the helper and `ktls-off`.
CONSENT = """python3 - <<'X'
import json, pathlib
def change(path, act):
    found = json.loads(pathlib.Path(path).read_text())
    act(found)
    pathlib.Path(path).write_text(json.dumps(found))
change("/etc/ktls/service.json", lambda config: config.update(restart_ok={given}))
words = pathlib.Path("/etc/ktls/datapath").read_text().splitlines()[:-1]
pathlib.Path("/etc/ktls/datapath").write_text("\\n".join([*words, "restart={word}"]) + "\\n")
X
"""


def shell(host: Deployed, script: str, stdin: str | None = None) -> str:
    done = host.lab.ssh(HOST, script, stdin=stdin, timeout=150)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def guest(host: Deployed, *words: object) -> Json:
    found: Json = json.loads(shell(host, f"python3 /root/guest.py {' '.join(map(str, words))}"))
    return found


def consent(host: Deployed, *, given: bool) -> None:
    shell(host, CONSENT.format(given=given, word="yes" if given else "no"))


def switched_on(host: Deployed, identity: str, epoch: int) -> None:
    """Order tx, look at what kernel and curl say of new connections, and confirm."""
    answer = host.order(HOST, "tx", epoch, lease_s=120, identity=identity)
    assert answer["ok"], answer
    assert (answer["ordered_phase"], answer["phase"]) == ("tx", "tx+rx"), "never tx alone with this OpenSSL"
    probe = answer["probe"]
    assert (probe["ok"], probe["sha256_ok"], probe["ktls_tx"], probe["ktls_rx"]) == (True, True, True, True), probe
    assert guest(host, "new", PORT) == {"ktls": True, "tx": "sw", "rx": "sw"}
    assert guest(host, "get", PORT) == {"rc": 0, "same": True, "bytes": 8000000}
    assert host.agent(HOST, "confirm", "--id", identity, "--epoch", str(epoch))["order"] == "committed"


def in_userspace(host: Deployed) -> bool:
    """Whether it serves, and by userspace TLS; while it is restarted it does not serve."""
    done = host.lab.ssh(HOST, f"python3 /root/guest.py new {PORT}", timeout=150)
    return done.returncode == 0 and not json.loads(done.stdout)["ktls"]


@pytest.fixture(scope="module")
def host(start_lab: StartLab) -> Iterator[Deployed]:
    """Return a host with Debian's lighttpd, which serves, and nothing of ours."""
    fleet = Deployed(start_lab("service", image=("debian13-bench",)))
    shell(fleet, "cat >/root/site.sh", (GUEST / "site.sh").read_text())
    shell(fleet, "sh /root/site.sh")
    shell(fleet, "cat >/root/guest.py", (GUEST / "guest.py").read_text())
    yield fleet
    fleet.lab.down()


@pytest.fixture(scope="module")
def found(host: Deployed) -> Json:
    """What its configuration is like before anything of ours is there."""
    return guest(host, "etc")


@pytest.fixture(scope="module")
def deployed(host: Deployed, found: Json) -> Deployed:
    """The same host, deployed with that lighttpd as its datapath and both consents."""
    # It asks for kernel TLS, and loads the module for it, without a word from anybody.
    assert guest(host, "new", PORT)["ktls"]
    done = host.run("ansible-playbook", "playbooks/deploy.yml", "-e", json.dumps(VARIABLES))
    assert done.returncode == 0, done.stdout + done.stderr
    return host


def test_it_is_in_userspace_once_it_is_taken(deployed: Deployed) -> None:
    status = deployed.agent(HOST, "status")
    datapath = status["datapath"]
    assert (datapath["kind"], datapath["unit"], datapath["program"]) == ("service", UNIT, "/usr/sbin/lighttpd")
    assert (datapath["modes"], datapath["switch"]) == (["userspace", "tx+rx", "rx"], "restart")
    assert datapath["consent"] == {"tx_rx": True, "restart": True}
    assert (status["phase"], datapath["problem"]) == ("userspace", None)
    assert not guest(deployed, "new", PORT)["ktls"]


def test_on_and_off_by_ktls_off(deployed: Deployed) -> None:
    switched_on(deployed, "first", 1)
    pid = guest(deployed, "pid", UNIT)
    said = shell(deployed, "ktls-off by-hand; cat /run/ktls/revert")
    # ktls-off, the path unit and the agent are at it together; whoever was last says that nothing was left to do.
    assert "OFF is set" in said
    assert "\ndatapath " in said
    deployed.wait("userspace", lambda: in_userspace(deployed), 90)
    assert guest(deployed, "pid", UNIT) != pid

    def reverted() -> bool:
        status = deployed.agent(HOST, "status")
        return (status["order"], status["phase"], status["datapath"]["problem"]) == ("reverted", "userspace", None)

    deployed.wait("reverted", reverted, 90)
    assert not deployed.agent(HOST, "status")["stuck"]
    assert deployed.agent(HOST, "clear")["ok"]


def test_without_consent_off_names_what_runs_on_and_no_order_comes_through(deployed: Deployed) -> None:
    switched_on(deployed, "second", 2)
    consent(deployed, given=False)
    pid = guest(deployed, "pid", UNIT)
    deployed.agent(HOST, "off", "--reason", "no-consent")

    def named() -> bool:
        status = deployed.agent(HOST, "status")
        return status["phase"] == "tx+rx" and any("runs on with kernel TLS" in text for text in status["problems"])

    deployed.wait("what runs on is named", named, 60)
    assert guest(deployed, "pid", UNIT) == pid, "nobody consented to a restart"
    assert guest(deployed, "new", PORT)["ktls"]
    shell(deployed, f"systemctl restart {UNIT}")
    deployed.wait("its configuration had been taken away", lambda: in_userspace(deployed), 60)
    deployed.wait("it is seen", lambda: deployed.agent(HOST, "status")["phase"] == "userspace", 60)
    assert deployed.agent(HOST, "clear")["ok"]

    pid = guest(deployed, "pid", UNIT)
    answer = deployed.order(HOST, "tx", 3, identity="third")
    assert answer["error"]["code"] == "no_restart_consent", answer
    assert (guest(deployed, "pid", UNIT), guest(deployed, "new", PORT)["ktls"]) == (pid, False)
    consent(deployed, given=True)


def test_an_nginx_obeys_openssl_conf_as_any_service(deployed: Deployed) -> None:
    """It overwrites its environment, so what it runs by follows from times. Root's part alone, without an agent."""
    script = "import json, sys; from ktls_host.service import switch as s; "
    script += "a = s.Asked('nginx.service', 'openssl', sys.argv[2] == 'yes'); r = getattr(s, sys.argv[1])(a); "
    script += "print(json.dumps({n: r[n] for n in ('asks', 'configured', 'stale', 'restarted')}))"

    def act(verb: str, consented: str) -> Json:
        words = f'PYTHONPATH=/usr/local/lib/ktls/current/ktls.pyz python3 -c "{script}" {verb} {consented}'
        done: Json = json.loads(shell(deployed, words))
        return done

    unit = ["nginx.service"]
    shell(deployed, "systemctl start nginx")
    assert not guest(deployed, "new", 8443)["ktls"]
    assert act("on", "yes") == {"asks": True, "configured": True, "stale": 0, "restarted": unit}
    assert guest(deployed, "new", 8443)["ktls"]
    left = act("off", "no")
    assert (left["asks"], left["configured"], left["restarted"]) == (True, False, [])
    assert left["stale"] >= 2
    assert guest(deployed, "new", 8443)["ktls"]
    assert act("off", "yes") == {"asks": False, "configured": False, "stale": 0, "restarted": unit}
    assert not guest(deployed, "new", 8443)["ktls"]
    shell(deployed, "systemctl stop nginx")


def test_it_is_let_go_as_it_was_found(deployed: Deployed, found: Json) -> None:
    arguments = "unit=lighttpd restart_ok=true state=absent"
    done = deployed.run("ansible", HOST, "-i", "inventory/lab", "-b", "-m", "ktls.fleet.ktls_service", "-a", arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert guest(deployed, "etc") == found
    assert guest(deployed, "new", PORT)["ktls"], "as it did before anybody asked it"

# SPDX-License-Identifier: Apache-2.0
"""The sentinel on another machine, against a card that encrypts, and then leaks."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from ktls_control import sentinel as control
from ktls_control.inventory import Host, host_from_vars
from ktls_host.probe_object import PROBE_SIZE

from .pair import CARD, PORT, ROOT, Pair


def playbook(pair: Pair, scratch: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``sentinel.yml`` over the lab, the peer in group ktls_sentinels."""
    extra = scratch / "sentinels.yml"
    served = {"hosts": {pair.server: {"ktls_sidecar_port": PORT}}}
    variables = {
        "ktls_group": "hw_served", "ktls_sentinel_ca": str(pair.authority.path), "ktls_sentinel_interface": CARD,
        "ktls_sentinel_interval_s": 3.0,
    }  # fmt: skip
    watching = {"hosts": {pair.peer: {}}, "vars": variables}
    extra.write_text(yaml.safe_dump({"hw_served": served, control.GROUP: watching}))
    argv = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", "inventory/lab", "-i", str(extra)]
    return subprocess.run(
        [*argv, "playbooks/sentinel.yml", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        cwd=ROOT,
        env={**os.environ, "KTLS_LAB": pair.lab.name, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")},
    )


@pytest.fixture(scope="module")
def watching(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """The pair, with the sentinel on the peer."""
    done = playbook(pair, tmp_path_factory.mktemp("inventory"))
    assert done.returncode == 0, done.stdout + done.stderr
    return pair


def peer(pair: Pair) -> Host:
    return host_from_vars(pair.peer, pair.lab.inventory()["_meta"]["hostvars"][pair.peer])


def wait(pair: Pair, what: Callable[[dict[str, Any]], bool], limit_s: float = 180.0) -> dict[str, Any]:
    deadline = time.monotonic() + limit_s
    while True:
        status = pair.sentinel("status")
        if what(status):
            return status
        assert time.monotonic() < deadline, status
        time.sleep(0.5)


def verdict(pair: Pair, since: float) -> tuple[str, str]:
    return control.judge(control.ask([peer(pair)]), [pair.server], since, time.time())


def test_a_card_that_encrypts_is_clean(watching: Pair) -> None:
    wait(watching, lambda status: bool(status["armed"]))
    card, stat, began = watching.card(), watching.tls_stat(), time.time()
    before = watching.sentinel("status")["targets"][watching.server]["probes"]
    status = wait(watching, lambda status: status["targets"][watching.server]["probes"] >= before + 2)
    entry = status["targets"][watching.server]
    assert status["armed"] and status["leaks"] == [] and entry["error"] is None, status
    assert entry["tls"] == "TLSv1.2" and "GCM" in entry["cipher"]
    assert entry["payload_bytes"] > entry["probes"] * PROBE_SIZE and entry["packets"] > entry["probes"]
    # It was the card, not software, that was watched.
    assert watching.card()["tx_tls_encrypted_bytes"] - card["tx_tls_encrypted_bytes"] > PROBE_SIZE
    assert watching.tls_stat()["TlsTxDevice"] > stat["TlsTxDevice"]
    assert verdict(watching, began) == ("clean", f"watched by {watching.peer}")
    assert verdict(watching, time.time() + 3600)[0] == "blind", "nothing was seen after such an order"


def test_the_service_has_one_capability_and_children_none(watching: Pair) -> None:
    # CAP_NET_RAW is bit 13 (linux/capability.h).
    script = "grep -E '^(Uid|CapEff|CapBnd|CapAmb)' /proc/$(systemctl show -P MainPID ktls-sentinel)/status"
    found = dict(line.split(":\t") for line in watching.run(watching.peer, script).stdout.splitlines())
    assert found["CapEff"] == found["CapBnd"] == "0000000000002000"
    assert found["CapAmb"] == "0000000000000000", "what on_leak starts has none"
    assert "0" not in found["Uid"].split()


def test_a_card_that_leaks_is_found_latched_and_cleared(watching: Pair) -> None:
    wait(watching, lambda status: bool(status["armed"]))
    before = watching.card()
    entry = watching.sentinel("status")["targets"][watching.server]
    with watching.knob("leak_every", 4):
        status = wait(watching, lambda status: bool(status["leaks"]))
    tries = status["targets"][watching.server]
    assert tries["probes"] + tries["failures"] - entry["probes"] - entry["failures"] <= 2, "by the first or the second"
    after = watching.card()
    assert after["sim_leaked"] > before["sim_leaked"]
    assert after["tx_tls_encrypted_bytes"] > before["tx_tls_encrypted_bytes"], "the card's own counters tell nothing"
    (leak,) = status["leaks"]
    assert leak["src"] == f"{watching.address}:{PORT}"
    assert leak["dst"].startswith(f"{watching.lab.host(watching.peer).address}:")
    assert 0 <= leak["block"] < PROBE_SIZE // 32
    sight, why = verdict(watching, 0.0)
    assert sight == "leak" and f"{watching.peer} saw plaintext of {leak['src']}" in why

    watching.run(watching.peer, ["systemctl", "restart", "ktls-sentinel"])
    assert pytest.approx(leak["at"], abs=0.01) == watching.sentinel("status")["leaks"][0]["at"]
    said = watching.run(watching.peer, ["journalctl", "-u", "ktls-sentinel", "-o", "cat"]).stdout
    assert f"PLAINTEXT on the wire: block {leak['block']} of the probe file, {leak['src']}" in said
    refused = watching.run(
        watching.peer, ["setpriv", "--reuid=65534", "--clear-groups", "ktls-sentinel", "clear"], check=False
    )
    assert refused.returncode != 0
    assert watching.sentinel("clear")["cleared"] == 1
    began, known = time.time(), watching.sentinel("status")["targets"][watching.server]["probes"]
    # One may be under way now, or have ended before the clear: it is no proof of what came after.
    wait(watching, lambda status: status["targets"][watching.server]["probes"] >= known + 2)
    assert verdict(watching, began) == ("clean", f"watched by {watching.peer}")


def test_a_link_that_is_down_is_not_a_clean_wire(watching: Pair) -> None:
    wait(watching, lambda status: bool(status["armed"]))
    # Of the peer: a link that goes down with sessions open is another test's matter.
    watching.run(watching.peer, ["ip", "link", "set", CARD, "down"])
    try:
        status = wait(watching, lambda status: not status["armed"])
        assert status["why"] == f"interface {CARD} is down"
        sight, why = verdict(watching, 0.0)
        assert sight == "blind" and f"{watching.peer} is not armed: interface {CARD} is down" in why
    finally:
        watching.run(watching.peer, ["ip", "link", "set", CARD, "up"])
    wait(watching, lambda status: bool(status["armed"]))


def test_the_playbook_takes_it_away(watching: Pair, tmp_path: Path) -> None:
    gone = playbook(watching, tmp_path, "-e", "ktls_sentinel_state=absent")
    assert gone.returncode == 0, gone.stdout + gone.stderr
    places = "/etc/ktls/sentinel* /etc/systemd/system/ktls-sentinel* /usr/local/bin/ktls* /usr/local/lib/ktls"
    # A pattern without a match stays as it is, and is not there.
    left = watching.run(watching.peer, f'for place in {places}; do [ ! -e "$place" ] || echo "$place"; done')
    assert left.stdout == ""

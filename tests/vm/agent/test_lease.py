# SPDX-License-Identifier: Apache-2.0
"""The lease without the agent, on a real kernel and a real systemd: timer, boot check, helpers, ``ktls-off``."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from ..fleet.fleet import Deployed
from ..fleet.test_host_safety import new_connection_is_ktls

GUEST = (Path(__file__).parent / "guest.py").read_text()
HOST = "web1"


def shell(deployed: Deployed, script: str) -> str:
    """Output of a script on the host."""
    done = deployed.lab.ssh(HOST, script)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def guest(deployed: Deployed, verb: str) -> dict[str, Any]:
    """What a verb of the guest's script found."""
    put = f"cat >/run/guest.py <<'EOF'\n{GUEST}\nEOF\n"
    answer: dict[str, Any] = json.loads(shell(deployed, f"{put}python3 /run/guest.py {verb}"))
    return answer


def steps(deployed: Deployed) -> dict[str, str]:
    """The record of ``ktls-off``."""
    lines = shell(deployed, "cat /run/ktls/revert").splitlines()
    return {step: rest for step, _, rest in (line.partition(" ") for line in lines)}


def pending(deployed: Deployed, identity: str) -> None:
    """An order for tx that nobody confirms, in force."""
    epoch = deployed.settle([HOST])
    shell(deployed, "rm -f /run/ktls/lapsed /run/ktls/revert /var/lib/ktls/lease*")
    status = deployed.order(HOST, "tx", epoch + 1, lease_s=600, identity=identity)
    assert status["order"] == "pending", status
    assert new_connection_is_ktls(deployed, HOST)


def kill_agent(deployed: Deployed) -> None:
    """Dead, and nobody starts it again."""
    shell(deployed, "systemctl mask --runtime -q ktls-agent; systemctl kill --signal=SIGKILL ktls-agent")
    deployed.wait("the agent is dead", lambda: shell(deployed, "pgrep -u ktls-agent -c || true").strip() == "0", 20)


def start_agent(deployed: Deployed) -> None:
    """As it was."""
    shell(deployed, "systemctl unmask --runtime -q ktls-agent; systemctl start ktls-agent; rm -f /run/ktls/lapsed")
    deployed.wait("the agent answers", lambda: bool(deployed.agent(HOST, "status")["ok"]), 30)


def test_helpers_work_for_the_agent_and_for_nobody_else(deployed: Deployed) -> None:
    deployed.settle()
    found = guest(deployed, "helpers")
    assert found["lease arm"] == {"ok": True, "timer": "active"}, found
    assert found["after arm"] == "active"
    assert found["lease disarm"] == {"ok": True, "timer": "inactive"}
    assert found["after disarm"] == "inactive"
    assert (found["module load"]["loaded"], found["after load"]) == (True, True), found["module load"]
    assert (found["module unload"]["loaded"], found["after unload"]) == (False, False), found["module unload"]
    # A virtual card has no such feature to change: nothing done, and nothing wrong.
    assert (found["nic off"]["ok"], found["nic off"]["interfaces"]) == (True, {}), found["nic off"]
    assert found["nic restore"]["ok"] is True, found["nic restore"]
    assert "Permission denied" in found["nobody"], found["nobody"]
    assert found["nobody past the mode"]["error"]["code"] == "not_permitted"


def test_lease_ends_without_the_agent_whatever_the_clock_says(deployed: Deployed) -> None:
    pending(deployed, "dies")
    # An interface that the lever has changed, as far as its records go: ethtool must work in the unit's sandbox.
    card = shell(deployed, "ls -d /sys/class/net/e* | head -n 1 | xargs basename").strip()
    shell(deployed, f"touch /var/lib/ktls-levers/offload:{shlex.quote(card)}.json")
    kill_agent(deployed)
    try:
        assert new_connection_is_ktls(deployed, HOST), "dead, and the order still in force"
        found = guest(deployed, "lapse")
        print(f"\nlapse: flag {found['late_s']:.2f} s after the deadline, all steps {found['all_s']:.2f} s")
        assert found["armed"]["ok"], found
        assert (found["before"], found["too_early"]) == (False, False)
        assert -0.01 <= found["late_s"] < 8, "an emulated CPU takes its time; a tick is a second"
        assert not new_connection_is_ktls(deployed, HOST)
        record = steps(deployed)
        assert record["order"].startswith("lapsed id=by-hand epoch=7 ")
        assert record["nic"] == f"ok off: {card}"
        assert record["lease"] == "reverted /var/lib/ktls/lease.reverted"
        assert "its lease is over; reverted" in shell(deployed, "journalctl -q -b -u ktls-lease.service -o cat")
    finally:
        shell(deployed, f"rm -f /var/lib/ktls-levers/offload:{shlex.quote(card)}.json; systemctl stop ktls-lease.timer")
        start_agent(deployed)
    assert deployed.agent(HOST, "status")["order"] == "reverted"


def test_a_full_disk_and_a_read_only_var_do_not_hold_it_up(deployed: Deployed) -> None:
    pending(deployed, "full")
    kill_agent(deployed)
    try:
        found = guest(deployed, "hard")
        print(f"\nfull and read-only: all steps {found['late_s']:.2f} s after deadline and arming")
        assert found["armed"]["ok"], found
        assert found["lapsed"], found
        assert found["lease"], "it cannot be renamed, and the agent accounts for it"
        assert found["record"][-1].startswith("lease left "), found
        assert found["quiet"], "what is done is not said again each second"
        assert found["state"] == "success"
        assert not new_connection_is_ktls(deployed, HOST)
    finally:
        start_agent(deployed)


def test_off_alone_says_what_drains_and_unloads_only_what_nobody_uses(deployed: Deployed) -> None:
    pending(deployed, "off")
    kill_agent(deployed)
    try:
        slow = (
            "name=$(hostname -f); curl -sS -o /dev/null --limit-rate 200k --cacert /etc/ktls/tls/ca.pem "
            '--resolve "$name:8443:127.0.0.1" "https://$name:8443/medium.bin"'
        )
        shell(deployed, f"systemd-run -q --unit=slow sh -c {shlex.quote(slow)}; sleep 2")
        took = shell(
            deployed, "s=$(date +%s%N); ktls-off --unload-module why >/dev/null; echo $((($(date +%s%N)-s)/1000000))"
        )
        print(f"\nktls-off: {int(took)} ms with all its steps")
        record = steps(deployed)
        assert record["tx"].startswith("draining flag; TlsCurrTxSw=1 "), record
        assert record["module"].startswith("kept in use by "), record
        assert not new_connection_is_ktls(deployed, HOST)
        shell(deployed, "systemctl stop slow")
        deployed.wait("nobody uses it", lambda: shell(deployed, "cat /sys/module/tls/refcnt").strip() == "0", 30)
        shell(deployed, "ktls-off --unload-module why")
        assert steps(deployed)["module"] == "ok unloaded"
        assert steps(deployed)["tx"] == "ok no kernel TLS here"
    finally:
        shell(deployed, "modprobe tls")
        start_agent(deployed)
    assert deployed.agent(HOST, "status")["off"]["flag"] is True


def test_after_a_power_cut_the_boot_check_is_done_before_anything_serves(deployed: Deployed) -> None:
    pending(deployed, "power")
    guest(deployed, "put 600")
    deployed.lab.fault(HOST, "power-cut")
    deployed.lab.fault(HOST, "reboot")
    units = ("ktls-boot", "ktls-agent", "ktls-sidecar")
    deployed.wait("all is up", lambda: deployed.agent(HOST, "status")["ok"], 60)
    shown = shell(
        deployed,
        f"for unit in {' '.join(units)}; do systemctl show --timestamp=us -p ExecMainStartTimestampMonotonic "
        "-p ExecMainExitTimestampMonotonic -p Result $unit; echo; done",
    )
    blocks = [dict(line.split("=", 1) for line in block.splitlines()) for block in shown.strip().split("\n\n")]
    found = dict(zip(units, blocks))
    checked = int(found["ktls-boot"]["ExecMainExitTimestampMonotonic"])
    print(f"\nboot check: ended {checked / 1e6:.2f} s after boot")
    assert found["ktls-boot"]["Result"] == "success"
    assert checked > 0
    for unit in units[1:]:
        assert checked <= int(found[unit]["ExecMainStartTimestampMonotonic"]), found
    assert shell(deployed, "ls /run/ktls/lapsed /var/lib/ktls/lease.reverted").count("\n") == 2
    assert "was not confirmed before this boot" in shell(deployed, "journalctl -q -b -u ktls-boot -o cat")
    assert not new_connection_is_ktls(deployed, HOST)
    status = deployed.agent(HOST, "status")
    assert (status["order"], status["phase"]) == ("reverted", "userspace")

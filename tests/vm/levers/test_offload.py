# SPDX-License-Identifier: Apache-2.0
"""The offload lever with the real ethtool, udev and kernel.

No card with TLS offload is in these hosts. So their drivers are added to the table on the host, and the two directions
are features that these drivers really have; all else is as shipped.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ..conftest import StartLab
from .by_ansible import ByAnsible
from .lever_lab import IMAGES, Levers

AGENT = Path(__file__).parents[3] / "agent"
HERE = "/root/offload"
#: What plays the directions. Turning the first off drags segmentation along, the second is alone.
CSUM, GRO, TSO = "tx-checksum-ip-generic", "rx-gro-list", "tx-tcp-segmentation"
PLAYED = {"tx": CSUM, "rx": GRO}
NOCACHE = "tx-nocache-copy"
ALONE = {"tx": NOCACHE, "rx": GRO}
RULES = "/etc/udev/rules.d"
AGAIN = "ip link del kv0; ip link add kv0 type veth peer name kv1"
# Does a list of things, each with its answer: one login for a whole story, because a login takes a second here.
GUEST = """
import dataclasses, hashlib, json, os, signal, subprocess, sys
sys.path.insert(0, "/root/offload")
from ktls_host.commands import Runner
from ktls_host.errors import KtlsError
from ktls_host.nic import drivers, lever, restore
from ktls_host.nic.ethtool import parse_features
from ktls_host.nic.targets import DesiredOffload

class Dying(Runner):
    def run(self, argv, stdin=None):
        result = super().run(argv, stdin)
        if tuple(argv[:2]) == ("ethtool", "-K"):
            os.kill(os.getpid(), signal.SIGKILL)
        return result

def pull(state, die=False, check=False, keep=False, **wish):
    if "interfaces" in wish:
        wish["interfaces"] = tuple(wish["interfaces"])
    more = {"check": check, "runner": Dying() if die else Runner()}
    child = os.fork() if die else 0
    if child:
        return {"killed": os.WIFSIGNALED(os.waitpid(child, 0)[1])}
    try:
        if state == "present":
            done = lever.present(DesiredOffload(**wish), **more)
        else:
            done = restore.absent(DesiredOffload(**wish), keep_edited=keep, **more)
    except KtlsError as error:
        return error.as_dict()
    finally:
        if die:
            os._exit(0)
    return {
        "code": None,
        "steps": [step.code for step in done.steps],
        "diff": done.diff,
        "changed": {entry["feature"]: [entry["after"], entry["asked"]] for entry in done.changed_features},
        "left": [entry["what"] for entry in done.left_alone],
    }

def output(*argv):
    return subprocess.run(argv, capture_output=True, text=True).stdout

def features(interface):
    output("udevadm", "settle")
    return {name: state.words for name, state in parse_features(output("ethtool", "-k", interface)).items()}

def snapshot(*interfaces):
    found = {}
    for top, directories, files in os.walk("/etc"):
        for path in (os.path.join(top, name) for name in (".", *directories, *files)):
            state = os.lstat(path)
            content = os.readlink(path) if os.path.islink(path) else ""
            if os.path.isfile(path) and not os.path.islink(path):
                with open(path, "rb") as stream:
                    content = hashlib.sha256(stream.read()).hexdigest()
            found[path] = [oct(state.st_mode), state.st_uid, state.st_gid, content]
    found["records"] = sorted(os.listdir("/var/lib/ktls-levers"))
    found.update({"ethtool " + name: output("ethtool", "-k", name) for name in interfaces})
    return found

def shell(script):
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True)
    return [done.returncode, done.stdout + done.stderr]

asked = json.loads(sys.argv[1])
if asked["features"]:
    drivers.FEATURES.update(asked["features"])
    drivers.NEEDED.update(tx=(frozenset(),), rx=(frozenset(),))
    for name in ("veth", "virtio_net", "dummy"):
        drivers.NOT_IMPLEMENTING.pop(name, None)
        drivers.IMPLEMENTING[name] = dataclasses.replace(
            drivers.IMPLEMENTING["mlx5_core"], name=name, option=None, counters=()
        )
calls = {"pull": pull, "features": features, "snapshot": snapshot, "shell": shell}
print(json.dumps([calls[name](*given, **options) for name, given, options in asked["story"]]))
"""

Part = tuple[str, tuple[Any, ...], dict[str, Any]]


def pull(state: str, **wish: Any) -> Part:
    """The lever. ``die``: killed right after ethtool has changed something; ``check``, ``keep`` as in the module."""
    return "pull", (state,), wish


def features(interface: str) -> Part:
    """Features as ethtool prints them, after udev has done what it was about to do."""
    return "features", (interface,), {}


def snapshot(*interfaces: str) -> Part:
    """Everything below /etc with content, owner and mode, our records, and all features."""
    return "snapshot", interfaces, {}


def shell(script: str) -> Part:
    return "shell", (script,), {}


def tell(levers: Levers, host: str, *story: Part, played: dict[str, str] | None = PLAYED) -> list[Any]:
    """Let all parts of the story happen on the host, in order; return their answers."""
    asked = json.dumps({"features": played, "story": story})
    answers: list[Any] = json.loads(levers.run(host, ["python3", "-", asked], stdin=GUEST, timeout_s=120).stdout)
    return answers


@pytest.fixture(scope="module")
def hosts(levers: Levers) -> Iterator[Levers]:
    """The hosts with the lever's code and a pair of virtual interfaces; both go again."""
    for name in levers.names:
        levers.put(name, AGENT / "ktls_host", f"{HERE}/ktls_host")
        levers.run(name, "mkdir -m 0700 -p /var/lib/ktls-levers; ip link add kv0 type veth peer name kv1")
    yield levers
    for name in levers.names:
        levers.run(name, f"ip link del kv0; rm -rf {HERE}")


@pytest.mark.parametrize("image", IMAGES)
def test_there_and_back_with_a_link_that_is_made_again(hosts: Levers, image: str) -> None:
    wish: dict[str, Any] = {"interfaces": ["kv0"], "tx": False, "rx": True}
    every = snapshot("kv0", "kv1", "eth1")
    before, predicted, untouched, done, again, _, made, peer, back, after, _, unruled = tell(
        hosts,
        hosts.host(image),
        *(every, pull("present", check=True, **wish), every, pull("present", **wish), pull("present", **wish)),
        # The link goes and comes: the driver's defaults, and then the rule.
        *(shell(AGAIN), features("kv0"), features("kv1"), pull("absent"), every),
        *(shell(AGAIN), features("kv0")),
    )
    assert untouched == before, "check mode changed something"
    assert (predicted["code"], predicted["steps"], predicted["diff"]) == (None, done["steps"], done["diff"])
    assert done["steps"] == ["set_features", "persist", "reload_udev"]
    assert done["changed"][CSUM] == ["off", True]
    assert done["changed"][TSO] == ["off [requested on]", False], "dragged along, and said"
    assert again["steps"] == []
    assert (made[CSUM], made[GRO]) == ("off", "on")
    assert peer[GRO] == "off", "the rule is about one link"
    assert back["steps"] == ["restore_file", "reload_udev", "restore_features"] and back["left"] == []
    assert after == before
    assert (unruled[CSUM], unruled[GRO]) == ("on", "off"), "the rule is still at work"


def test_killed_after_ethtool_changed_more_than_was_asked(hosts: Levers) -> None:
    wish: dict[str, Any] = {"interfaces": ["kv0"], "tx": False, "rx": True}
    killed = pull("present", die=True, **wish)
    before, first, changed, _, after_first, second, again, third, _, after_all = tell(
        hosts,
        hosts.host("debian13"),
        *(snapshot("kv0"), killed, features("kv0"), pull("absent"), snapshot("kv0")),
        *(killed, pull("present", **wish), pull("absent", die=True), pull("absent"), snapshot("kv0")),
    )
    assert first["killed"] and second["killed"] and third["killed"], "it came to its end"
    assert (changed[CSUM], changed[TSO]) == ("off", "off [requested on]")
    assert after_first == before
    assert again["steps"] == ["persist", "reload_udev"]
    assert after_all == before


def test_what_somebody_else_changed_stays(hosts: Levers) -> None:
    rule = f"{RULES}/90-ktls-fleet-offload-kv0.rules"
    before, _, _, refused, still, _, back, now, _, after = tell(
        hosts,
        hosts.host("debian12"),
        *(snapshot("kv0"), pull("present", interfaces=["kv0"], tx=False)),
        *(shell(f"ethtool -K kv0 {NOCACHE} on; echo '# mine' >> {rule}"), pull("absent"), features("kv0")),
        *(shell(f"sed -i '$d' {rule}"), pull("absent"), features("kv0")),
        *(shell(f"ethtool -K kv0 {NOCACHE} off"), snapshot("kv0")),
    )
    assert refused["code"] == "edited_meanwhile"
    assert still[CSUM] == "off", "nothing may have changed"
    assert back["left"] == [f"kv0 {NOCACHE}"]
    assert (now[CSUM], now[NOCACHE]) == ("on", "on")
    assert after == before


def test_nothing_is_left_half_done(hosts: Levers) -> None:
    """A read-only /etc, no room for the rule, no room for the record."""
    full = "mount -t tmpfs -o size=64k,mode=0755 tmpfs {0} && dd if=/dev/zero of={0}/fill bs=4k; true"
    states = "/var/lib/ktls-levers"
    wish = pull("present", interfaces=["kv0"], tx=False)
    before, _, read_only, _, _, no_rule, _, _, no_record, _, after = tell(
        hosts,
        hosts.host("debian13"),
        snapshot("kv0"),
        *(shell("mount --bind /etc /etc && mount -o remount,ro,bind /etc"), wish, shell("umount /etc")),
        *(shell(full.format(RULES)), wish, shell(f"umount {RULES}")),
        *(shell(full.format(states)), wish, shell(f"umount {states}")),
        snapshot("kv0"),
    )
    assert [answer["code"] for answer in (read_only, no_rule, no_record)] == ["write_failed"] * 3
    assert "No space left" in no_rule["message"] and "No space left" in no_record["message"]
    assert after == before


def test_module_refuses_what_the_kernel_would_not_do(hosts: Levers) -> None:
    """As shipped, through Ansible; and switching it on anyway shows that the refusal is right."""
    host = hosts.host("debian13")
    refused = ByAnsible(hosts.lab)(host, "ktls_offload", interfaces=["eth1"], tx=True)[host]
    assert refused["error_code"] == "nic_no_tls_offload", refused
    assert "eth1 (driver virtio_net" in refused["msg"] and "mlx5_core" in refused["msg"]
    for name in hosts.names:
        before, refused, off, (tried, _), shown, _, after = tell(
            hosts,
            name,
            *(snapshot("eth1"), pull("present", interfaces=["eth1"], tx=True)),
            pull("present", interfaces=["eth0", "eth1"], tx=False, rx=False),
            *(shell("ethtool -K eth1 tls-hw-tx-offload on"), features("eth1")),
            *(shell("ethtool -K eth1 tls-hw-tx-offload off"), snapshot("eth1")),
            played=None,
        )
        assert refused["code"] == "nic_no_tls_offload"
        assert (off["code"], off["steps"]) == (None, []), "off is so already"
        assert tried != 0 and shown["tls-hw-tx-offload"] == "off [fixed]"
        assert after == before


@pytest.fixture(scope="module")
def own_host(start_lab: StartLab) -> Iterator[Levers]:
    """A host that may be rebooted: other tests keep state on theirs."""
    lab = start_lab("offload")
    own = Levers(lab)
    own.put(own.names[0], AGENT / "ktls_host", f"{HERE}/ktls_host")
    own.run(own.names[0], "mkdir -m 0700 -p /var/lib/ktls-levers")
    yield own
    lab.down()


def test_link_that_is_renamed(own_host: Levers) -> None:
    """The name that udev gives counts, not the one that the kernel gave first; and a change by hand, too."""
    link = "[Match]\\nOriginalName=kd0\\n[Link]\\nName=kd1\\n"
    renaming = (
        "ip link del kd0; ip link del kd1; ip link del kd2; "
        f"printf '{link}' > /etc/systemd/network/10-k.link; udevadm control --reload; "
        "ip link add kd0 type dummy; udevadm settle; ip link add kdx type dummy; udevadm settle; "
        "ip link set kdx name kd2"
    )
    before, _, _, _, by_udev, by_hand, _, unruled, _, after = tell(
        own_host,
        own_host.names[0],
        snapshot(),
        shell("ip link add kd0 type dummy; ip link add kd1 type dummy; ip link add kd2 type dummy"),
        pull("present", interfaces=["kd1", "kd2"], tx=True),
        *(shell(renaming), features("kd1"), features("kd2")),
        shell(
            "ip link del kd1; rm /etc/systemd/network/10-k.link; udevadm control --reload; ip link add kd0 type dummy"
        ),
        *(features("kd0"), pull("absent"), snapshot()),
        played=ALONE,
    )
    assert by_udev[NOCACHE] == "on", "made as kd0, named kd1 by udev"
    assert by_hand[NOCACHE] == "on", "renamed by hand"
    assert unruled[NOCACHE] == "off", "no rule has this name"
    assert after == before


def test_stays_across_driver_and_reboot(own_host: Levers) -> None:
    host = own_host.names[0]
    wish: dict[str, Any] = {"driver": "virtio_net", "tx": True}
    rebind = (
        "device=$(basename $(readlink /sys/class/net/eth1/device)); cd /sys/bus/virtio/drivers/virtio_net; "
        "echo $device > unbind; test ! -e /sys/class/net/eth1 && echo $device > bind"
    )
    before, done, (rebound, said), driven, again, _ = tell(
        own_host,
        host,
        *(snapshot("eth0"), pull("present", **wish), shell(rebind), features("eth1"), pull("present", **wish)),
        shell("sync"),
        played=ALONE,
    )
    assert done["steps"] == ["set_features"] * 2 + ["persist"] * 2 + ["reload_udev"]
    assert rebound == 0, said
    assert driven[NOCACHE] == "on" and again["steps"] == []
    own_host.lab.fault(host, "reboot")
    uptime, first, second, back, after = tell(
        own_host,
        host,
        *(shell("cut -d. -f1 /proc/uptime"), features("eth0"), features("eth1"), pull("absent"), snapshot("eth0")),
        played=ALONE,
    )
    assert first[NOCACHE] == second[NOCACHE] == "on", uptime
    assert back["steps"] == ["restore_file"] * 2 + ["reload_udev"] + ["restore_features"] * 2
    assert after == before

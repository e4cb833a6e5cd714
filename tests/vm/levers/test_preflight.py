# SPDX-License-Identifier: Apache-2.0
"""What preflight says of a real host is what happens there, and looking leaves no trace."""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from .by_ansible import ByAnsible
from .lever_lab import IMAGES, Levers, agree

ROOT = Path(__file__).parents[3]
LIMIT_S = 15.0
#: What each image can take, as docs/compatibility.md has it.
EXPECTED = {
    "debian12": {"userspace": "ready", "tx": "ready", "rx": "refused", "hw": "refused"},
    "debian13": {"userspace": "ready", "tx": "ready", "rx": "refused", "hw": "refused"},
    "debian13-backports": {"userspace": "ready", "tx": "ready", "rx": "ready", "hw": "refused"},
}
REASONS = {
    ("debian12", "rx"): ["no_ktls_receive"],
    ("debian13", "rx"): ["key_update_breaks_rx"],
}


@pytest.fixture(scope="module")
def ansible(levers: Levers) -> ByAnsible:
    return ByAnsible(levers.lab)


@dataclass(frozen=True)
class Looked:
    """One preflight of every image, on hosts without the module loaded."""

    info: dict[str, dict[str, Any]]
    seconds: dict[str, float]
    before: dict[str, str]
    after: dict[str, str]


def state(levers: Levers, host: str) -> str:
    """Everything that looking could change."""
    script = (
        "find /etc /var/lib -xdev -type f ! -path '*/systemd/*' -printf '%p %m %u %T@ %s\\n' | sort; "
        "cut -d' ' -f1 /proc/modules | sort; ip -br addr; ss -Htln; cat /proc/sys/net/ipv4/tcp_available_ulp"
    )
    return levers.run(host, script).stdout


@pytest.fixture(scope="module")
def looked(levers: Levers, ansible: ByAnsible) -> Looked:
    hosts = {image: levers.host(image) for image in IMAGES}
    for host in hosts.values():
        levers.run(host, "modprobe -r tls; modprobe -n tls")
    # Ansible's own directory in the home of root is made by whatever comes first.
    ansible("all", "ktls_info", check=True)
    before = {image: state(levers, host) for image, host in hosts.items()}
    info, seconds = {}, {}
    for image, host in hosts.items():
        started = time.monotonic()
        info[image] = ansible(host, "ktls_info", load_module=True)[host]
        seconds[image] = time.monotonic() - started
    after = {image: state(levers, host) for image, host in hosts.items()}
    return Looked(info, seconds, before, after)


@pytest.mark.parametrize("image", IMAGES)
def test_verdicts(looked: Looked, image: str) -> None:
    phases = looked.info[image]["info"]["phases"]
    assert {phase: found["verdict"] for phase, found in phases.items()} == EXPECTED[image]
    for phase, found in phases.items():
        if (image, phase) in REASONS:
            assert [reason["code"] for reason in found["reasons"]] == REASONS[image, phase]
    assert "nic_no_tls_offload" in [reason["code"] for reason in phases["hw"]["reasons"]]
    gnutls = [note for note in phases["tx"]["notes"] if note["code"] == "gnutls_without_ktls"]
    assert len(gnutls) == 1, "a distribution's GnuTLS is inert, and preflight says so"


@pytest.mark.parametrize("image", IMAGES)
def test_looking_leaves_no_trace(looked: Looked, image: str) -> None:
    result = looked.info[image]
    assert result["changed"] is False
    assert result["info"]["trial"] == {"loaded_module": True, "left_loaded": False, "why": None}
    assert looked.before[image] == looked.after[image]


@pytest.mark.parametrize("image", IMAGES)
def test_in_time(looked: Looked, image: str) -> None:
    print(f"preflight of {image}: {looked.seconds[image]:.1f} s, Ansible and SSH included")
    assert looked.seconds[image] < 4 * LIMIT_S, "hung; the measured figure is in docs/operating.md"


@pytest.mark.parametrize("image", IMAGES)
def test_verdicts_agree_with_the_matrix_cell_by_cell(looked: Looked, levers: Levers, image: str) -> None:
    """The matrix is measured with other means: a real client program, and the kernel's own word."""
    matrix = json.loads((ROOT / "tests/fixtures/compatibility" / f"{image}.json").read_text())
    proof = looked.info[image]["info"]["openssl"]["proof"]
    assert agree({**matrix, "openssl": proof["library"]}, proof) == []
    assert len(proof["cells"]) == 8


def test_without_leave_nothing_is_loaded(levers: Levers, ansible: ByAnsible) -> None:
    host = levers.host("debian13")
    levers.run(host, "modprobe -r tls")
    cases: tuple[tuple[dict[str, Any], bool], ...] = (({}, False), ({"load_module": True}, True))
    for arguments, check in cases:
        info = ansible(host, "ktls_info", check=check, **arguments)[host]["info"]
        assert info["phases"]["tx"]["verdict"] == "unknown"
        assert [reason["code"] for reason in info["phases"]["tx"]["reasons"]] == ["not_proved"]
        assert info["phases"]["userspace"]["verdict"] == "ready"
    assert levers.run(host, "lsmod").stdout.count("\ntls ") == 0


def test_the_counters_of_the_host_do_not_move(levers: Levers, ansible: ByAnsible) -> None:
    host = levers.host("debian13-backports")
    levers.run(host, "modprobe tls")
    before = levers.run(host, "cat /proc/net/tls_stat").stdout
    assert re.search(r"TlsTxSw\s", before)
    assert ansible(host, "ktls_info")[host]["info"]["openssl"]["proof"]["done"]
    assert levers.run(host, "cat /proc/net/tls_stat").stdout == before
    levers.run(host, "modprobe -r tls")


def test_a_refusal_is_real_rx_on_a_kernel_without_rekey(levers: Levers, looked: Looked) -> None:
    """Switched on anyway, what preflight refused breaks as it said, and the same on the kernel it passed does not."""
    suite = ["--cipher", "TLS_AES_256_GCM_SHA384"]
    outcomes = {}
    for image in ("debian13", "debian13-backports"):
        levers.run(levers.host(image), "modprobe tls")
        cells = levers.matrix(levers.host(image), *suite)["cells"]
        cell = next(cell for cell in cells if cell["mode"] == "rx")
        outcomes[image] = {name: said.partition(":")[0] for name, said in cell["key_update"].items()}
        levers.run(levers.host(image), "modprobe -r tls")
    assert outcomes["debian13"]["peer"] == "breaks"
    assert outcomes["debian13-backports"]["peer"] == "ok"


@pytest.mark.parametrize("image", IMAGES)
def test_a_refusal_is_real_hw_on_a_virtual_card(levers: Levers, image: str) -> None:
    done = levers.run(levers.host(image), "ethtool -K eth0 tls-hw-tx-offload on", check=False)
    features = levers.run(levers.host(image), "ethtool -k eth0").stdout
    assert done.returncode != 0 and "tls-hw-tx-offload: off" in features


def test_a_blocked_module_is_refused_and_truly_does_not_load(levers: Levers, ansible: ByAnsible) -> None:
    host = levers.host("debian12")
    levers.run(host, "modprobe -r tls; echo 'install tls /bin/false' > /etc/modprobe.d/zz-test.conf")
    try:
        found = ansible(host, "ktls_info", load_module=True)[host]["info"]["phases"]["tx"]
        assert found["verdict"] == "refused"
        assert [reason["code"] for reason in found["reasons"]] == ["module_blocked"]
        assert "/etc/modprobe.d/zz-test.conf" in found["reasons"][0]["message"]
        assert levers.run(host, "modprobe tls", check=False).returncode != 0
    finally:
        levers.run(host, "rm /etc/modprobe.d/zz-test.conf")


def test_facts_are_kept_for_ansible(levers: Levers, ansible: ByAnsible) -> None:
    host = levers.host("debian13")
    predicted = ansible(host, "ktls_info", check=True, cache_facts=True)[host]
    assert predicted["changed"] and predicted["diff"]
    first = ansible(host, "ktls_info", load_module=True, cache_facts=True)[host]
    again = ansible(host, "ktls_info", load_module=True, cache_facts=True)[host]
    assert (first["changed"], again["changed"]) == (True, False)
    seen = json.loads(levers.run(host, "cat /etc/ansible/facts.d/ktls.fact").stdout)
    assert seen["phases"]["rx"] == {"verdict": "refused", "reasons": ["key_update_breaks_rx"]}
    levers.run(host, "rm -r /etc/ansible")

# SPDX-License-Identifier: Apache-2.0
"""The module lever on real kernels: there and back, and on hosts that do not want it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from .by_ansible import ByAnsible
from .lever_lab import IMAGES, Levers

PERSIST = "/etc/modules-load.d/ktls-fleet.conf"
_FILL = "fallocate -l $(df --output=avail -B1 / | tail -1) /fill; dd if=/dev/zero of=/fill2 bs=64k 2>/dev/null || true"


@pytest.fixture
def ansible(levers: Levers) -> ByAnsible:
    return ByAnsible(levers.lab)


def state(levers: Levers, host: str) -> str:
    """Everything below /etc with content, owner and mode, what is loaded, and our records."""
    script = (
        "cd /etc && find . -printf '%p %y %m %u %g %l\\n' | sort; "
        "find . -type f -print0 | sort -z | xargs -0 sha256sum; "
        "cut -d' ' -f1 /proc/modules | sort; ls -A /var/lib/ktls-levers 2>/dev/null; true"
    )
    return levers.run(host, script).stdout


@contextmanager
def during(levers: Levers, host: str, make: str, mend: str) -> Iterator[None]:
    """The host is in a bad way for the time of the block."""
    levers.run(host, make)
    try:
        yield
    finally:
        levers.run(host, mend)


def names(found: list[dict[str, Any]]) -> list[str]:
    return [entry["code"] for entry in found]


def test_there_and_back(levers: Levers, ansible: ByAnsible) -> None:
    """On every image: check mode tells what happens, and the way back ends where it began."""
    hosts = [levers.host(image) for image in IMAGES]
    for host in hosts:
        levers.run(host, "modprobe -r tls; mkdir -m 0700 -p /var/lib/ktls-levers")
        assert levers.run(host, "modinfo -F parm tls").stdout == "", "the module has a parameter now: support it"
    before = {host: state(levers, host) for host in hosts}
    wish: dict[str, Any] = {"loaded": True, "persistent": True}
    predicted = ansible("all", "ktls_module", check=True, **wish)
    assert {host: state(levers, host) for host in hosts} == before
    real = ansible("all", "ktls_module", **wish)
    again = ansible("all", "ktls_module", **wish)
    predicted_back = ansible("all", "ktls_module", check=True, state="absent")
    back = ansible("all", "ktls_module", state="absent")
    for host in hosts:
        assert names(predicted[host]["steps"]) == names(real[host]["steps"]) == ["load", "persist"]
        assert predicted[host]["diff"] == real[host]["diff"] and real[host]["tls_module"]["ulp_available"]
        assert not again[host]["changed"]
        assert names(predicted_back[host]["steps"]) == names(back[host]["steps"]) == ["unload", "restore"]
        assert predicted_back[host]["diff"] == back[host]["diff"]
        assert state(levers, host) == before[host]


@pytest.mark.parametrize(
    ("make", "mend"),
    [
        ("mount --bind /etc /etc && mount -o remount,ro,bind /etc", "umount /etc"),
        (_FILL, "rm -f /fill /fill2"),
    ],
    ids=["read-only /etc", "full disk"],
)
def test_nothing_is_left_half_done(levers: Levers, ansible: ByAnsible, make: str, mend: str) -> None:
    host = levers.host("debian13")
    levers.run(host, "modprobe -r tls")
    before = state(levers, host)
    # What Ansible copies to the host needs a place that still takes it.
    variables = {"ansible_remote_tmp": "/dev/shm"}
    with during(levers, host, make, mend):
        failed = ansible(host, "ktls_module", variables=variables, loaded=True, persistent=True)[host]
    assert failed["failed"] and failed["error_code"] == "write_failed"
    assert "\n" not in failed["msg"] and "Traceback" not in str(failed)
    after = state(levers, host)
    # A record of what was there may exist: it says that nothing has to go back.
    assert after.replace("module.json\n", "") == before
    assert not ansible(host, "ktls_module", state="absent")[host]["changed"]
    assert state(levers, host) == before


@pytest.mark.more
def test_two_at_a_time_take_turns(levers: Levers, ansible: ByAnsible) -> None:
    host = levers.host("debian13")
    levers.run(host, "modprobe -r tls")
    before = state(levers, host)
    results: list[dict[str, Any]] = []

    def load() -> None:
        results.append(ansible(host, "ktls_module", loaded=True, persistent=True)[host])

    threads = [threading.Thread(target=load) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(result["changed"] for result in results) == [False, False, True]
    assert ansible(host, "ktls_module", state="absent")[host]["changed"]
    assert state(levers, host) == before


def test_a_busy_module_is_not_unloaded(levers: Levers, ansible: ByAnsible) -> None:
    """A socket with the ULP holds it; the refusal says so, and nothing else went back meanwhile."""
    host = levers.host("debian13")
    levers.run(host, "modprobe -r tls")
    ansible(host, "ktls_module", loaded=True, persistent=True)
    holder = (
        "import socket,time; l=socket.create_server(('127.0.0.1',0)); c=socket.create_connection(l.getsockname()); "
        "s=l.accept()[0]; s.setsockopt(6,31,b'tls'); time.sleep(120)"
    )
    levers.run(host, f'systemd-run --quiet --unit=ktls-test-holder python3 -c "{holder}"; sleep 2')
    try:
        refused = ansible(host, "ktls_module", state="absent")[host]
        assert refused["error_code"] == "module_in_use" and "1 references" in refused["msg"]
        assert levers.run(host, f"cat {PERSIST}").stdout.endswith("tls\n")
    finally:
        levers.run(host, "systemctl stop ktls-test-holder; sleep 1")
    assert names(ansible(host, "ktls_module", state="absent")[host]["steps"]) == ["unload", "restore"]

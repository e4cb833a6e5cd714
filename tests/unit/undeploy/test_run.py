# SPDX-License-Identifier: Apache-2.0
"""A host is what it was: after a whole deploy, a half one, an old one, one that somebody has worked on."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from ktls_host import originals, release, release_record
from ktls_host.files import FileSpec
from ktls_host.undeploy import found, trail
from tests.vm.undeploy.guest import listing

from .conftest import Host, deploy, differences, refusal, undeploy, used

Listing = dict[str, list[object]]
Artefacts = dict[str, dict[str, Any]]


def test_host_is_as_it_was(before: Listing, deployed: Host) -> None:
    changed = differences(before, deployed)
    assert len(changed) > 40, "there was something to remove"
    result = undeploy(deployed)
    assert result.changed
    assert differences(before, deployed) == []
    assert (deployed.active, deployed.users, deployed.groups) == (set(), set(), set())
    assert result.left == []
    assert result.drained == {"by": "agent", "ktls": 0}


def test_second_run_changes_nothing(before: Listing, deployed: Host) -> None:
    undeploy(deployed)
    deployed.ran.clear()
    result = undeploy(deployed)
    assert (result.changed, result.steps, deployed.ran) == (False, [], [])


def test_host_that_never_had_us_is_left_alone(before: Listing, host: Host) -> None:
    host.users.add("ktls-agent")  # of somebody else; not as we make it
    result = undeploy(host)
    assert (result.changed, host.ran, host.users) == (False, [], {"ktls-agent"})
    assert differences(before, host) == []


def test_check_mode_says_the_same_and_changes_nothing(before: Listing, deployed: Host) -> None:
    now = listing.listing(str(deployed.root))
    deployed.ran.clear()
    predicted = undeploy(deployed, check=True)
    assert listing.differences(now, listing.listing(str(deployed.root))) == []
    assert deployed.ran == []
    assert undeploy(deployed).steps == predicted.steps
    assert "/usr/local/bin/ktls-agent: remove\n" in predicted.diff[-1]["before"]


def test_off_first_then_drain_then_stop(deployed: Host) -> None:
    deployed.ktls = 5
    deployed.ran.clear()
    undeploy(deployed)
    ran = [line.split("/")[-1] if "ktls-off" in line else line for line in deployed.ran]
    assert ran[0] == "ktls-off undeploy"
    assert ran[1].startswith("systemctl stop ")
    assert "ktls-sidecar.service" not in ran[1], "it serves while the trail is copied"
    assert ran[2] == "systemctl stop ktls-sidecar.service"
    assert deployed.clock >= 1003


def test_connections_that_do_not_end(before: Listing, deployed: Host) -> None:
    deployed.ktls, deployed.drains = 3, False
    now = set(listing.listing(str(deployed.root)))
    error = refusal(deployed, drain_s=20)
    assert error.code == "not_drained"
    assert "3 kTLS connections" in error.message
    assert set(listing.listing(str(deployed.root))) - now <= {"/run/ktls/off"}, "nothing was removed"
    assert (deployed.root / "run/ktls/off").exists()
    assert undeploy(deployed, drain_s=20, cut=True).drained == {"by": "agent", "ktls": 3}
    assert differences(before, deployed) == []


@pytest.mark.parametrize("silent", [{"agent"}, {"agent", "sidecar"}])
def test_dead_agent(before: Listing, deployed: Host, silent: set[str]) -> None:
    deployed.silent = silent
    (deployed.root / "proc/net").mkdir(parents=True)
    (deployed.root / "proc/net/tls_stat").write_text("TlsCurrTxSw 0\nTlsTxSw 9\n")
    deployed.active.discard("ktls-agent.service")
    deployed.failed.add("ktls-agent.service")
    result = undeploy(deployed)
    assert result.drained == {"by": "kernel" if "sidecar" in silent else "sidecar", "ktls": 0}
    assert deployed.failed == set()
    assert [line for line in differences(before, deployed) if "/proc" not in line] == []


def test_kernel_counts_where_nobody_else_speaks(deployed: Host) -> None:
    deployed.silent = {"agent", "sidecar"}
    (deployed.root / "proc/net").mkdir(parents=True)
    (deployed.root / "proc/net/tls_stat").write_text("TlsCurrTxSw 2\nTlsCurrTxDevice 1\nTlsTxSw 9\n")
    assert "3 kTLS connections" in refusal(deployed, drain_s=1).message


def test_agent_that_cannot_reach_what_serves_is_not_believed(deployed: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    real = deployed.call

    def call(path: str, request: dict[str, Any]) -> dict[str, Any]:
        answer = real(path, request)
        if "sidecar" in answer:
            answer.update(sidecar=None, phase="userspace", connections={"ktls_tx": 0, "userspace": 0})
        return answer

    monkeypatch.setattr(deployed, "call", call)
    deployed.ktls = 2
    result = undeploy(deployed)
    assert result.drained == {"by": "sidecar", "ktls": 0}


def test_without_the_off_switch_the_flags_are_made_by_hand(before: Listing, deployed: Host) -> None:
    (deployed.root / "usr/local/sbin/ktls-off").unlink()
    deployed.ktls = 2
    undeploy(deployed)
    assert deployed.ktls == 0, "the sidecar saw a flag"
    assert differences(before, deployed) == []


def test_off_that_fails_stops_it(deployed: Host) -> None:
    deployed.fail_command = str(deployed.root / "usr/local/sbin/ktls-off")
    assert refusal(deployed).code == "off_failed"
    assert (deployed.root / "etc/ktls/agent.json").exists()


@pytest.mark.parametrize("steps", range(1, 14, 3))
def test_half_installed(
    before: Listing, artefacts: Artefacts, host: Host, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    """The deploy dies after some of its steps; the record is there before the first of them."""
    real = release.apply

    def some(planned: Any, *rest: Any) -> Any:
        real(list(planned)[: steps * 3], *rest)
        raise KeyboardInterrupt

    monkeypatch.setattr(release, "apply", some)
    with pytest.raises(KeyboardInterrupt):
        deploy(artefacts["1.0"], host)
    undeploy(host)
    assert differences(before, host) == []
    assert (host.users, host.groups) == (set(), set())


def test_interrupted_anywhere_the_next_run_ends_it(before: Listing, deployed: Host) -> None:
    real = os.unlink
    for count in range(1, 60, 4):
        left = count

        def unlink(path: Any, *rest: Any, **named: Any) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise KeyboardInterrupt
            real(path, *rest, **named)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("os.unlink", unlink)
            try:
                undeploy(deployed)
                break
            except KeyboardInterrupt:
                continue
    assert differences(before, deployed) == []
    assert deployed.users == set()
    assert count > 1


@pytest.mark.parametrize(
    ("path", "change"),
    [
        ("etc/systemd/system/ktls-agent.service", "edit"),
        ("usr/local/sbin/ktls-off", "edit"),
        ("etc/ktls/agent.json", "edit"),
        ("etc/ktls/mine.pem", "add"),
        ("etc/ktls/tls/key.pem", "add"),
        ("etc/systemd/system/ktls-sidecar.service.d/override.conf", "add"),
        ("etc/systemd/system/ktls-sidecar.service", "mask"),
        ("usr/local/bin/ktls-agent", "mask"),
    ],
)
def test_what_somebody_else_wrote(before: Listing, deployed: Host, path: str, change: str) -> None:
    place = deployed.root / path
    place.parent.mkdir(parents=True, exist_ok=True)
    if change == "mask":
        place.unlink()
        place.symlink_to("/dev/null")
    else:
        place.write_text("theirs now\n")
    now = listing.listing(str(deployed.root))
    deployed.ran.clear()
    error = refusal(deployed)
    assert error.code == "edited_meanwhile"
    assert f"/{path}" in error.message
    assert listing.differences(now, listing.listing(str(deployed.root))) == []
    assert deployed.ran == [], "refused before anything changed"
    result = undeploy(deployed, edited="keep")
    assert any(f"/{path}" in entry for entry in result.left)
    directories = {str(parent) for parent in Path(f"/{path}").parents}
    stays = {line.split(":")[0] for line in differences(before, deployed)}
    assert f"/{path}" in stays
    assert stays <= {f"/{path}", *directories}, "and nothing else"
    if change != "mask":
        assert place.read_text() == "theirs now\n"


def test_file_of_before_comes_back(artefacts: Artefacts, host: Host) -> None:
    place = host.root / "usr/local/sbin/ktls-off"
    place.write_text("#!/bin/sh\necho another\n")
    place.chmod(0o750)
    before = listing.listing(str(host.root))
    deploy(artefacts["1.0"], host)
    deploy(artefacts["1.1"], host)
    undeploy(host)
    assert differences(before, host) == []


def test_users_of_before_stay(before: Listing, artefacts: Artefacts, host: Host) -> None:
    host.users, host.groups = {"ktls-agent"}, {"ktls-agent", "ktls"}
    deploy(artefacts["1.0"], host)
    result = undeploy(host)
    assert (host.users, host.groups) == ({"ktls-agent"}, {"ktls-agent", "ktls"})
    assert result.left == [
        "user ktls-agent: was here before us", "group ktls: was here before us", "group ktls-agent: was here before us",
    ]  # fmt: skip
    assert differences(before, host) == []


def test_deploy_from_before_there_was_a_record(
    before: Listing, deployed: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    (deployed.root / "var/lib/ktls-levers/release.json").unlink()
    monkeypatch.setattr(found, "looks_ours", lambda name: name != "ktls-pull")
    undeploy(deployed)
    assert deployed.users == {"ktls-pull"}, "not as we make it"
    left = differences(before, deployed)
    # Nobody noted which directories there were: empty ones outside our own places stay.
    assert {line.split(":")[0] for line in left} <= {
        "/etc/sysusers.d", "/etc/tmpfiles.d", "/usr/local/lib", "/usr/local/sbin", "/var", "/var/lib",
        "/etc/systemd/system/services.target.wants", "/etc/systemd/system/sockets.target.wants",
    }  # fmt: skip


def test_upgrade_of_such_a_deploy_adopts_what_is_there(
    before: Listing, deployed: Host, artefacts: Artefacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    (deployed.root / "var/lib/ktls-levers/release.json").unlink()
    monkeypatch.setattr(found, "looks_ours", lambda name: True)
    deploy(artefacts["1.1"], deployed)
    assert originals.load("release", str(deployed.root)).facts["late"] is True  # type: ignore[union-attr]
    undeploy(deployed)
    assert not [line for line in differences(before, deployed) if "'-'" in line], "no file, only directories"
    assert deployed.users == set()


def test_key_that_we_made_goes(before: Listing, artefacts: Artefacts, host: Host) -> None:
    spec = FileSpec("/etc/ktls/tls/key.pem", b"ours", 0o600, str(0), str(0))
    release_record.adopt([spec], str(host.root), host)
    (host.root / "etc/ktls/tls").mkdir(parents=True)
    (host.root / "etc/ktls/tls/key.pem").write_bytes(b"ours")
    deploy(artefacts["1.0"], host)
    undeploy(host)
    assert differences(before, host) == []


def test_record_of_a_lever_without_code_here(before: Listing, deployed: Host) -> None:
    """What a datapath writes by a record of its own needs no entry anywhere."""
    root = str(deployed.root)
    spec = FileSpec("/etc/nginx/conf.d/ktls-fleet.conf", b"ssl_conf_command Options KTLS;\n", 0o644, str(0), str(0))
    originals.commit(originals.plan("nginx:nginx.service", [spec], {}, root))
    assert (deployed.root / "etc/nginx/conf.d/ktls-fleet.conf").exists()
    undeploy(deployed)
    assert differences(before, deployed) == []


def test_edited_file_of_a_lever(deployed: Host) -> None:
    root = str(deployed.root)
    spec = FileSpec("/etc/nginx/conf.d/ktls-fleet.conf", b"ours\n", 0o644, str(0), str(0))
    originals.commit(originals.plan("nginx:nginx.service", [spec], {}, root))
    (deployed.root / "etc/nginx/conf.d/ktls-fleet.conf").write_text("theirs\n")
    deployed.ran.clear()
    assert refusal(deployed).code == "edited_meanwhile"
    assert deployed.ran == []
    result = undeploy(deployed, edited="keep")
    assert "/etc/nginx/conf.d/ktls-fleet.conf: edited by somebody else, and stays" in result.left
    assert not (deployed.root / "var/lib/ktls-levers").exists()


def test_damaged_record_is_refused_before_anything_changed(deployed: Host) -> None:
    (deployed.root / "var/lib/ktls-levers/policy:x.json").write_text("{")
    deployed.ran.clear()
    assert refusal(deployed).code == "record_unreadable"
    assert deployed.ran == []


def test_trail_goes_only_when_it_was_copied(before: Listing, deployed: Host) -> None:
    assert refusal(deployed, audit="verified").code == "audit_not_copied"
    result = undeploy(deployed, audit="verified", stage="prepare")
    assert result.audit is not None
    assert set(result.audit["files"]) == {"audit.jsonl"}
    assert result.audit["anchor"] == trail.ANCHOR
    assert "ktls-agent.service" not in deployed.active, "nobody writes to it now"
    assert "ktls-sidecar.service" in deployed.active
    assert refusal(deployed, audit="verified", stage="remove", copied="0" * 64).code == "audit_not_copied"
    place = deployed.root / "var/lib/ktls/audit/audit.jsonl"
    place.write_text(place.read_text() + "one more\n")
    assert refusal(deployed, audit="verified", stage="remove", copied=result.audit["digest"]).code == "audit_not_copied"
    again = undeploy(deployed, audit="verified", stage="prepare")
    assert again.audit is not None
    undeploy(deployed, audit="verified", stage="remove", copied=again.audit["digest"])
    assert differences(before, deployed) == []


def test_users_that_are_in_use(deployed: Host) -> None:
    deployed.fail_command = "userdel ktls-sidecar"
    error = refusal(deployed)
    assert error.code == "command_failed"
    deployed.fail_command = None
    undeploy(deployed)
    assert deployed.users == set()


def test_served_files_of_others_stay(before: Listing, artefacts: Artefacts, host: Host) -> None:
    shutil.rmtree(host.root / "srv/ktls")
    deploy(artefacts["1.0"], host)
    (host.root / "srv/ktls/film.mp4").write_text("theirs")
    result = undeploy(host)
    assert "/srv/ktls: others have files in it" in result.left
    assert (host.root / "srv/ktls/film.mp4").exists()


def test_used_covers_every_state_directory_of_the_units(deployed: Host) -> None:
    used(deployed)
    assert (deployed.root / "var/lib/ktls/audit/audit.jsonl").exists()

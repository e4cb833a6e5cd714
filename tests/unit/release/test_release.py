# SPDX-License-Identifier: Apache-2.0
"""Installing a release: idempotent, predicted exactly, nothing switched before its proof, finished after a crash."""

from __future__ import annotations

import copy
import errno
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ktls_host import files, release
from ktls_host.commands import CommandResult
from ktls_host.errors import KtlsError
from ktls_host.probe_object import EXPECTED_SHA256

from .conftest import FakeSystem, build, desired, loads, snapshot

Artefacts = dict[str, dict[str, Any]]
BOTH = ["ktls-agent.service", "ktls-sidecar.service"]
SOCKETS = ["ktls-diag.socket", *(f"ktls-{name}-helper.socket" for name in ("lease", "module", "nic"))]


def ensure(wanted: release.DesiredRelease, root: Path, system: FakeSystem, **options: Any) -> release.Result:
    return release.ensure(wanted, root=str(root), system=system, **options)


def code(wanted: release.DesiredRelease, root: Path, system: FakeSystem) -> tuple[str, str]:
    with pytest.raises(KtlsError) as caught:
        ensure(wanted, root, system)
    assert "\n" not in caught.value.message
    return caught.value.code, caught.value.message


def test_first_install(artefacts: Artefacts, root: Path, system: FakeSystem) -> None:
    result = ensure(desired(artefacts["1.0"]), root, system)
    assert result.changed
    assert (result.version, result.previous_version) == ("1.0", None)
    assert result.started == [*SOCKETS, *BOTH]
    assert os.readlink(root / "usr/local/lib/ktls/current") == "1.0"
    for name in ("ktls-agent", "ktls-sidecar"):
        link = root / "usr/local/bin" / name
        assert link.resolve() == root / "usr/local/lib/ktls/1.0/ktls.pyz"
    assert (root / "usr/local/sbin/ktls-off").stat().st_mode & 0o777 == 0o755
    assert not (root / "usr/local/sbin/ktls-off").is_symlink()
    assert release._digest(str(root / "srv/ktls/ktls-probe.bin")) == EXPECTED_SHA256
    assert loads(root / "etc/ktls/agent.json")["state_dir"] == "/var/lib/ktls"
    assert system.enabled == {*SOCKETS, *BOTH, "ktls-boot.service"}
    order = [line.split()[0] + " " + line.split()[1] for line in system.ran]
    assert order.index("systemd-sysusers /etc/sysusers.d/ktls.conf") < order.index("systemctl daemon-reload")
    assert "systemd-tmpfiles --create /etc/tmpfiles.d/ktls.conf" in system.ran
    assert (root / "etc/ktls/tls/key.pem").read_text() == "a key"


def test_lease_timer_is_the_agents_and_the_boot_check_is_for_the_next_boot(
    artefacts: Artefacts, root: Path, system: FakeSystem
) -> None:
    wanted = desired(artefacts["1.0"])
    ensure(wanted, root, system)
    units = root / "etc/systemd/system"
    for name in ("ktls-lease.timer", "ktls-lease.service", "ktls-boot.service", "ktls-nic-helper@.service"):
        assert (units / name).exists()
        assert name not in system.active
    assert not any("ktls-lease.timer" in line or "@." in line for line in system.ran)
    # An order is pending, and the host was booted since: nothing to do for all that.
    system.active |= {"ktls-lease.timer", "ktls-boot.service"}
    assert not ensure(wanted, root, system).changed
    (units / "ktls-lease-helper@.service").write_text("[Service]\n")
    result = ensure(wanted, root, system)
    assert result.restarted == ["ktls-agent.service"]
    assert "systemctl daemon-reload" in system.ran
    result = ensure(release.DesiredRelease(state="absent"), root, system)
    stopped = [unit for unit in result.stopped if unit != "ktls-sidecar.service"]
    assert stopped == ["ktls-agent.service", "ktls-boot.service", "ktls-lease.timer", *reversed(SOCKETS)]
    assert not system.enabled


def test_upgrade_from_a_release_without_helpers(artefacts: Artefacts, root: Path, system: FakeSystem) -> None:
    """The layout of release 0.1: no helper, timer or boot check, and /run/ktls-agent made by the agent's unit."""
    ensure(desired(artefacts["1.0"]), root, system)
    for path in (root / "etc/systemd/system").glob("ktls-*"):
        if "helper" in path.name or "lease" in path.name or "boot" in path.name:
            path.unlink()
            system.active.discard(path.name)
            system.enabled.discard(path.name)
    shutil.rmtree(root / "var/lib/ktls-levers")
    (root / "etc/tmpfiles.d/ktls.conf").write_text("d /run/ktls 0775 root ktls -\n")
    system.ran.clear()
    result = ensure(desired(artefacts["1.1"]), root, system)
    assert result.started == SOCKETS[1:]
    assert result.restarted == BOTH
    assert system.enabled == {*SOCKETS, *BOTH, "ktls-boot.service"}
    ran = [line for line in system.ran if "reset-failed" not in line]
    order = ["systemd-tmpfiles", "systemctl daemon-reload", "systemctl start", "systemctl restart"]
    places = [next(index for index, line in enumerate(ran) if line.startswith(start)) for start in order]
    assert places == sorted(places)
    assert not ensure(desired(artefacts["1.1"]), root, system).changed


def test_records_of_levers_outlive_the_release(artefacts: Artefacts, root: Path, system: FakeSystem) -> None:
    ensure(desired(artefacts["1.0"]), root, system)
    record = root / "var/lib/ktls-levers/module.json"
    record.write_text("{}")
    ensure(release.DesiredRelease(state="absent", purge=True), root, system)
    assert record.exists(), "it says what the host was like before"
    record.unlink()
    sidecar = desired(artefacts["1.0"]).sidecar_config
    ensure(release.DesiredRelease(state="absent", purge=True, sidecar_config=sidecar), root, system)
    assert (record.parent / "release.json").exists(), "our users are there, and it says who made them"
    ensure(release.DesiredRelease(state="absent", purge=True, remove_users=True), root, system)
    assert not record.parent.exists()


def test_second_run_changes_nothing(artefacts: Artefacts, root: Path, system: FakeSystem) -> None:
    ensure(desired(artefacts["1.0"]), root, system)
    before = snapshot(root)
    system.ran.clear()
    result = ensure(desired(artefacts["1.0"]), root, system)
    assert (result.changed, result.steps, result.diff) == (False, [], [])
    assert system.ran == []
    assert snapshot(root) == before


@pytest.mark.parametrize("state", ["new", "same", "config", "version", "stopped", "absent", "purge"])
def test_check_mode_predicts_exactly(artefacts: Artefacts, root: Path, system: FakeSystem, state: str) -> None:
    wanted = desired(artefacts["1.0"])
    if state != "new":
        ensure(wanted, root, system)
    if state == "config":
        wanted = replace(wanted, agent_config={**(wanted.agent_config or {}), "x": 1})
    if state == "version":
        wanted = desired(artefacts["1.1"])
    if state == "stopped":
        system.active.discard("ktls-sidecar.service")
    if state in ("absent", "purge"):
        wanted = release.DesiredRelease(state="absent", purge=state == "purge")
    before = snapshot(root)
    system.ran.clear()
    predicted = ensure(wanted, root, system, check=True)
    assert snapshot(root) == before
    assert system.ran == []
    done = ensure(wanted, root, system)
    assert predicted == done
    assert predicted.changed == (state != "same")


def test_check_mode_without_the_artefact(artefacts: Artefacts, root: Path, system: FakeSystem) -> None:
    wanted = desired(artefacts["1.0"])
    missing = replace(wanted, src="/nowhere/ktls.pyz")
    predicted = ensure(missing, root, system, check=True)
    assert predicted.changed
    assert predicted.notes
    assert predicted.started == [*SOCKETS, *BOTH]
    assert code(missing, root, system)[0] == "not_found"
    ensure(wanted, root, system)
    assert not ensure(missing, root, system, check=True).changed, "installed already: the answer is exact"
    assert not ensure(missing, root, system).changed


def test_restart_only_for_a_reason(artefacts: Artefacts, root: Path, system: FakeSystem) -> None:
    wanted = desired(artefacts["1.0"])
    ensure(wanted, root, system)
    changed = replace(wanted, agent_config={**(wanted.agent_config or {}), "x": 1})
    assert ensure(changed, root, system).restarted == ["ktls-agent.service"], "the sidecar keeps its connections"
    (root / "etc/ktls/tls/cert.pem").write_text("renewed")
    assert ensure(changed, root, system).restarted == ["ktls-sidecar.service"]
    (root / "srv/ktls/ktls-probe.bin").write_bytes(b"damaged")
    result = ensure(changed, root, system)
    assert (result.changed, result.restarted) == (True, [])
    (root / "usr/local/sbin/ktls-off").chmod(0o644)
    result = ensure(changed, root, system)
    assert (result.changed, result.restarted) == (True, [])
    (root / "etc/systemd/system/ktls-sidecar.service").write_text("[Service]\n")
    result = ensure(changed, root, system)
    assert result.restarted == ["ktls-sidecar.service"]
    assert "systemctl daemon-reload" in system.ran
    # Changed and perhaps restarted by hand: who knows what runs now.
    (root / "etc/ktls/agent.json").write_text("{}")
    assert ensure(changed, root, system).restarted == ["ktls-agent.service"]
    (root / "usr/local/lib/ktls/current").unlink()
    assert ensure(changed, root, system).restarted == BOTH
    system.active.discard("ktls-agent.service")
    assert ensure(changed, root, system).started == ["ktls-agent.service"]


def test_upgrade_keeps_the_previous_version_and_goes_back(artefacts: Artefacts, root: Path, system: FakeSystem) -> None:
    for version in ("1.0", "1.1", "1.2"):
        result = ensure(desired(artefacts[version]), root, system)
    assert (result.previous_version, result.version) == ("1.1", "1.2")
    assert result.restarted == BOTH
    kept = sorted(path.name for path in (root / "usr/local/lib/ktls").iterdir() if path.is_dir())
    assert kept == ["1.1", "1.2", "current"]
    back = replace(desired(artefacts["1.1"]), src=None)
    result = ensure(back, root, system)
    assert (result.previous_version, result.version) == ("1.2", "1.1")
    assert os.readlink(root / "usr/local/lib/ktls/current") == "1.1"


def older(tree: Path, tmp_path: Path) -> dict[str, Any]:
    """A release of before ``ktls-nic-helper`` and ``ktls-pull`` came."""
    copied = tmp_path / "older"
    shutil.copytree(tree, copied)
    for path in (copied / "agent/units").iterdir():
        if path.name.startswith(("ktls-nic-helper", "ktls-pull")):
            path.unlink()
    meta: dict[str, Any] = build.build(copied, tmp_path / "older.pyz", "0.9")
    return meta


def test_back_to_a_release_with_fewer_units(
    artefacts: Artefacts, root: Path, system: FakeSystem, tree: Path, tmp_path: Path
) -> None:
    """What the older release has never heard of would call it with verbs that it does not know."""
    wanted = desired(older(tree, tmp_path))
    ensure(desired(artefacts["1.0"]), root, system)
    system.active.add("ktls-pull.service")
    system.enabled.add("ktls-pull.service")
    predicted = ensure(wanted, root, system, check=True)
    system.ran.clear()
    result = ensure(wanted, root, system)
    assert result.steps == predicted.steps
    assert sorted(result.stopped) == ["ktls-nic-helper.socket", "ktls-pull.service"]
    gone = {"ktls-nic-helper.socket", "ktls-pull.service"}
    assert not system.active & gone and not system.enabled & gone
    units = {path.name for path in (root / "etc/systemd/system").iterdir()}
    assert not {name for name in units if name.startswith(("ktls-nic-helper", "ktls-pull"))}
    # Stopped while systemd still knows it, and forgotten before anything of the older release starts.
    order = ["systemctl stop ktls-nic-helper.socket", "systemctl daemon-reload", "systemctl restart ktls-agent.service"]
    assert [line for line in system.ran if line in order] == order
    assert not ensure(wanted, root, system).changed
    result = ensure(desired(artefacts["1.0"]), root, system)
    assert result.started == ["ktls-nic-helper.socket"]


def test_a_release_without_its_service_is_none(root: Path, system: FakeSystem, tree: Path, tmp_path: Path) -> None:
    copied = tmp_path / "broken"
    shutil.copytree(tree, copied)
    (copied / "agent/units/ktls-sidecar.service").unlink()
    meta = build.build(copied, tmp_path / "broken.pyz", "1.0")
    found, message = code(desired(meta), root, system)
    assert found == "bad_release"
    assert "has no share/ktls-sidecar.service" in message


def test_one_component_leaves_the_other_alone(artefacts: Artefacts, root: Path, system: FakeSystem) -> None:
    ensure(desired(artefacts["1.0"], components=("agent",), sidecar_config=None), root, system)
    assert system.active == {*SOCKETS, "ktls-agent.service"}
    assert not (root / "etc/ktls/sidecar.json").exists()
    result = ensure(desired(artefacts["1.0"], components=("sidecar",), agent_config=None), root, system)
    assert result.started == ["ktls-sidecar.service"]
    assert result.restarted == []
    ensure(release.DesiredRelease(state="absent", components=("sidecar",)), root, system)
    assert system.active == {*SOCKETS, "ktls-agent.service"}
    assert (root / "usr/local/lib/ktls/current").exists()


def test_the_sidecars_socket_is_there_and_left_to_the_operator(
    artefacts: Artefacts, root: Path, system: FakeSystem
) -> None:
    socket, unit = "ktls-sidecar.socket", root / "etc/systemd/system/ktls-sidecar.socket"
    wanted = desired(artefacts["1.0"])
    assert socket not in str(ensure(wanted, root, system, check=True).started)
    ensure(wanted, root, system)
    assert unit.exists()
    assert socket not in system.active | system.enabled
    # The operator's choice stays, and is no reason to do anything.
    system.active.add(socket)
    system.enabled.add(socket)
    assert not ensure(wanted, root, system).changed
    unit.write_text("[Socket]\n")
    system.ran.clear()
    assert ensure(wanted, root, system).restarted == ["ktls-sidecar.service"]
    acts = [line for line in system.ran if line.split()[1] in ("stop", "start", "restart")]
    assert acts == [
        f"systemctl stop {socket} ktls-sidecar.service",
        f"systemctl start {socket}",
        "systemctl restart ktls-sidecar.service",
    ]
    system.active.add(socket)
    result = ensure(release.DesiredRelease(state="absent"), root, system)
    assert result.stopped.index(socket) < result.stopped.index("ktls-sidecar.service"), "or a client starts it again"
    assert not system.enabled
    assert not unit.exists()


def test_any_of_several_certificates_is_a_reason(artefacts: Artefacts, root: Path, system: FakeSystem) -> None:
    wanted = desired(artefacts["1.0"])
    more = root / "etc/ktls/tls/more.pem"
    more.write_text("another")
    entry = {"certificate": "/etc/ktls/tls/more.pem", "key": "more.key"}
    wanted = replace(wanted, sidecar_config={**(wanted.sidecar_config or {}), "certificates": [entry]})
    ensure(wanted, root, system)
    assert not ensure(wanted, root, system).changed
    more.write_text("renewed")
    assert ensure(wanted, root, system).restarted == ["ktls-sidecar.service"]


def test_absent_removes_all_but_users_keys_and_state(artefacts: Artefacts, root: Path, system: FakeSystem) -> None:
    ensure(desired(artefacts["1.0"]), root, system)
    (root / "var/lib/ktls").mkdir(parents=True)
    (root / "var/lib/ktls/off").touch()
    result = ensure(release.DesiredRelease(state="absent"), root, system)
    assert result.stopped[-1] == "ktls-diag.socket"
    assert set(snapshot(root)) == {
        "etc/ktls/tls/cert.pem", "etc/ktls/tls/key.pem", "srv/ktls/ktls-probe.bin", "var/lib/ktls/off",
        "var/lib/ktls-levers/release.json",
    }  # fmt: skip
    assert system.users
    assert not ensure(release.DesiredRelease(state="absent"), root, system).changed
    sidecar = desired(artefacts["1.0"]).sidecar_config
    purge = release.DesiredRelease(state="absent", purge=True, remove_users=True, sidecar_config=sidecar)
    ensure(purge, root, system)
    assert snapshot(root) == {}
    assert not system.users
    assert not ensure(purge, root, system).changed


def test_failed_service_is_reported_with_its_own_words(artefacts: Artefacts, root: Path, system: FakeSystem) -> None:
    system.fail = "ktls-sidecar.service"
    system.journal = "ktls-sidecar: cannot listen on 0.0.0.0:8443 (Address already in use): stop what listens there\n"
    kind, message = code(desired(artefacts["1.0"]), root, system)
    assert kind == "service_failed"
    assert "0.0.0.0:8443 (Address already in use)" in message
    assert any(line.startswith("journalctl") and "--since=@999" in line for line in system.ran)
    # Cured: the next run goes on from there.
    system.fail = None
    assert ensure(desired(artefacts["1.0"]), root, system).started == ["ktls-sidecar.service"]


def test_service_that_never_answers_and_one_of_another_version(
    artefacts: Artefacts, root: Path, system: FakeSystem
) -> None:
    system.hang = "ktls-agent.service"
    kind, message = code(desired(artefacts["1.0"]), root, system)
    assert kind == "service_failed"
    assert "cannot connect to /run/ktls-agent/agent.sock" in message
    assert system.clock >= 1005
    system.hang = None
    # It runs by now, but was never seen to answer: started again rather than believed.
    assert "ktls-agent.service" in ensure(desired(artefacts["1.0"]), root, system).restarted


def test_artefact_that_does_not_run_switches_nothing(
    artefacts: Artefacts, root: Path, system: FakeSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ensure(desired(artefacts["1.0"]), root, system)
    before = snapshot(root)
    monkeypatch.setattr(release, "PYTHON", "/bin/false")
    monkeypatch.setattr(system, "run", _python_fails(system))
    kind, message = code(desired(artefacts["1.1"]), root, system)
    assert kind == "artefact_broken"
    assert "does not run here" in message
    assert snapshot(root) == before


def _python_fails(system: FakeSystem) -> Any:
    real = system.run

    def run(*argv: str) -> Any:
        if argv[0] == "/bin/false":
            return CommandResult(1, "", "/bin/false: no such interpreter")
        return real(*argv)

    return run


def test_interrupted_at_every_step_is_finished_by_the_next_run(
    artefacts: Artefacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stop after n steps of an upgrade, for every n; the next run ends where an undisturbed one does."""

    def prepare(name: str) -> tuple[Path, FakeSystem]:
        root = shutil.copytree(first, tmp_path / name, symlinks=True)
        system = copy.deepcopy(first_system)
        system.root = root
        return root, system

    first = tmp_path / "first"
    (first / "etc/ktls/tls").mkdir(parents=True)
    (first / "etc/ktls/tls/cert.pem").write_text("a certificate")
    first_system = FakeSystem(first)
    ensure(desired(artefacts["1.0"]), first, first_system)
    root, system = prepare("whole")
    upgrade = replace(desired(artefacts["1.1"]), agent_config={"socket": "/run/ktls-agent/agent.sock", "new": True})
    steps = release.plan(release.probe(upgrade, str(root), system), upgrade)
    ensure(upgrade, root, system)
    whole = snapshot(root)
    for count in range(len(steps)):
        root, system = prepare(str(count))
        planned = release.plan(release.probe(upgrade, str(root), system), upgrade)
        release.apply(planned[:count], str(root), system)
        assert (root / "usr/local/lib/ktls/current/ktls.pyz").exists(), "there is always a release to run"
        ensure(upgrade, root, system)
        assert snapshot(root) == whole, planned[count]
        assert system.versions["ktls-agent.service"] == system.versions["ktls-sidecar.service"] == "1.1"
        assert not ensure(upgrade, root, system).changed


@pytest.mark.parametrize("where", [(os, "makedirs"), (files, "_write_new")])
def test_full_disk_is_named_and_leaves_the_old_release(
    artefacts: Artefacts, root: Path, system: FakeSystem, monkeypatch: pytest.MonkeyPatch, where: tuple[Any, str]
) -> None:
    ensure(desired(artefacts["1.0"]), root, system)
    before = snapshot(root)

    def full(path: str, *_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", path)

    with monkeypatch.context() as patched:
        patched.setattr(*where, full)
        kind, message = code(desired(artefacts["1.1"]), root, system)
    assert kind == "disk_full"
    assert "free space" in message
    assert snapshot(root) == before
    assert ensure(desired(artefacts["1.1"]), root, system).version == "1.1"


@pytest.mark.parametrize("damage", ["truncate", "flip", "append_member", "empty", "text"])
def test_damaged_artefact_is_refused(
    artefacts: Artefacts, root: Path, system: FakeSystem, tmp_path: Path, damage: str
) -> None:
    import zipfile

    bad = tmp_path / "bad.pyz"
    content = bytearray(Path(artefacts["1.0"]["path"]).read_bytes())
    if damage == "truncate":
        content = content[: len(content) // 2]
    if damage == "flip":
        content[content.index(b"def main") + 4] ^= 1
    if damage == "empty":
        content.clear()
    if damage == "text":
        content[:] = b"#!/bin/sh\necho hello\n"
    bad.write_bytes(content)
    if damage == "append_member":
        with zipfile.ZipFile(bad, "a") as archive:
            archive.writestr("sitecustomize.py", "evil = True\n")
    with pytest.raises(KtlsError) as caught:
        release.inspect(str(bad))
    assert caught.value.code == "bad_release"
    assert code(desired(artefacts["1.0"], src=str(bad)), root, system)[0] == "bad_release"
    assert not (root / "usr").exists()


def test_other_release_than_wanted_is_refused(artefacts: Artefacts, root: Path, system: FakeSystem) -> None:
    kind, message = code(desired(artefacts["1.0"], src=artefacts["1.1"]["path"]), root, system)
    assert kind == "bad_release"
    assert "1.1" in message
    assert not (root / "usr").exists()


def test_damaged_installation_is_repaired(artefacts: Artefacts, root: Path, system: FakeSystem) -> None:
    ensure(desired(artefacts["1.0"]), root, system)
    installed = root / "usr/local/lib/ktls/1.0/ktls.pyz"
    installed.write_bytes(b"damaged")
    assert ensure(desired(artefacts["1.0"]), root, system).changed
    assert installed.read_bytes() == Path(artefacts["1.0"]["path"]).read_bytes()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"state": "latest"}, "bad_request"),
        ({"components": ()}, "bad_request"),
        ({"components": ("nginx",)}, "bad_request"),
        ({"version": "../../etc"}, "bad_request"),
        ({"version": None}, "bad_request"),
        ({"sha256": "x"}, "bad_request"),
        ({"agent_config": None}, "bad_request"),
        ({"sidecar_config": {}}, "bad_request"),
        ({"sidecar_config": {"root": "relative"}}, "bad_request"),
        ({"src": None}, "not_found"),
    ],
)
def test_bad_requests(
    artefacts: Artefacts, root: Path, system: FakeSystem, changes: dict[str, Any], expected: str
) -> None:
    assert code(desired(artefacts["1.0"], **changes), root, system)[0] == expected
    assert not (root / "usr").exists()


def test_host_without_systemd_and_failing_commands(artefacts: Artefacts, root: Path, system: FakeSystem) -> None:
    system.fail_command = "systemctl show"
    assert code(desired(artefacts["1.0"]), root, system)[0] == "no_systemd"
    assert not (root / "usr").exists()
    system.fail_command = "systemd-sysusers"
    kind, message = code(desired(artefacts["1.0"]), root, system)
    assert kind == "command_failed"
    assert "systemd-sysusers" in message
    assert "it broke" in message


def test_plan_is_pure(artefacts: Artefacts, root: Path, system: FakeSystem) -> None:
    wanted = desired(artefacts["1.0"])
    installed = release.probe(wanted, str(root), system)
    assert release.plan(installed, wanted) == release.plan(installed, wanted)
    assert not (root / "usr").exists()

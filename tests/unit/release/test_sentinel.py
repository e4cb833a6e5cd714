# SPDX-License-Identifier: Apache-2.0
"""The sentinel as a component: alone on a machine beside the hosts, or with the others on one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ktls_host import release
from ktls_host.errors import KtlsError

from .conftest import FakeSystem, desired, loads, snapshot

Artefacts = dict[str, dict[str, Any]]
UNIT = "ktls-sentinel.service"


def sentinel(meta: dict[str, Any]) -> release.DesiredRelease:
    config = {"interface": "eth0", "targets": []}
    return desired(meta, components=("sentinel",), agent_config=None, sidecar_config=None, sentinel_config=config)


def test_alone_it_is_a_program_a_configuration_and_a_unit(artefacts: Artefacts, root: Path, system: FakeSystem) -> None:
    before = snapshot(root)
    result = release.ensure(sentinel(artefacts["1.0"]), root=str(root), system=system)
    assert result.started == [UNIT]
    assert system.enabled == {UNIT}
    assert system.users == set(), "it has none of its own"
    ours = {name for name in snapshot(root) if name not in before and "usr/local/lib" not in name}
    assert ours == {
        "etc/ktls/sentinel.json", f"etc/systemd/system/{UNIT}", "usr/local/bin/ktls-sentinel",
        "var/lib/ktls-levers/release.json",
    }  # fmt: skip
    assert loads(root / "etc/ktls/sentinel.json") == {"interface": "eth0", "targets": []}
    assert not release.ensure(sentinel(artefacts["1.0"]), root=str(root), system=system).changed
    moved = release.ensure(sentinel(artefacts["1.1"]), root=str(root), system=system)
    assert moved.restarted == [UNIT]
    (root / "etc/ktls/sentinel-ca.pem").write_text("a certificate")
    (root / "var/lib/ktls-sentinel").mkdir(parents=True)
    gone = release.DesiredRelease(state="absent", components=("sentinel",))
    assert release.ensure(gone, root=str(root), system=system).stopped == [UNIT]
    assert snapshot(root) == before
    assert (root / "var/lib/ktls-sentinel").exists(), "what was found is not forgotten with the program"
    purge = release.DesiredRelease(state="absent", components=("sentinel",), purge=True)
    release.ensure(purge, root=str(root), system=system)
    assert not (root / "var/lib/ktls-sentinel").exists()
    assert not release.ensure(purge, root=str(root), system=system).changed


@pytest.mark.parametrize("first", ["sentinel", "others"])
def test_on_one_machine_each_leaves_the_other_alone(
    artefacts: Artefacts, root: Path, system: FakeSystem, first: str
) -> None:
    release.ensure(sentinel(artefacts["1.0"]), root=str(root), system=system)
    both = snapshot(root)
    release.ensure(desired(artefacts["1.0"]), root=str(root), system=system)
    components = ("sentinel",) if first == "sentinel" else release.SERVING
    release.ensure(
        release.DesiredRelease(state="absent", components=components, purge=True), root=str(root), system=system
    )
    left = snapshot(root)
    assert "usr/local/lib/ktls/1.0/ktls.pyz" in left
    if first == "sentinel":
        assert {"etc/ktls/agent.json", "usr/local/bin/ktls-agent", "etc/sysusers.d/ktls.conf"} <= left.keys()
        assert UNIT not in system.active
        assert "ktls-agent.service" in system.active
    else:
        assert {"etc/ktls/sentinel.json", f"etc/systemd/system/{UNIT}", "usr/local/bin/ktls-sentinel"} <= left.keys()
        gone = {name for name in both if "etc/ktls/tls/" in name}
        assert {*left, *gone, "usr/local/lib/ktls/started.json"} >= both.keys()
        assert UNIT in system.active
    rest = tuple(name for name in release.COMPONENTS if name not in components)
    release.ensure(release.DesiredRelease(state="absent", components=rest, purge=True), root=str(root), system=system)
    assert not (root / "usr/local/lib/ktls").exists()


def test_it_needs_its_configuration(artefacts: Artefacts, root: Path, system: FakeSystem) -> None:
    with pytest.raises(KtlsError, match="component sentinel needs sentinel_config"):
        release.ensure(desired(artefacts["1.0"], components=("sentinel",)), root=str(root), system=system)

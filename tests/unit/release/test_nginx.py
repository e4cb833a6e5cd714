# SPDX-License-Identifier: Apache-2.0
"""Component nginx: units and two files, and no program of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ktls_host import release
from ktls_host.errors import KtlsError

from .conftest import FakeSystem, desired

CONFIG = {"probe_port": 8444, "server_name": "web1"}
Artefacts = dict[str, dict[str, Any]]


def nginx(meta: dict[str, Any]) -> release.DesiredRelease:
    return desired(meta, components=("nginx",), nginx_config=CONFIG, agent_config=None, sidecar_config=None)


def test_units_and_what_the_shell_reads(artefacts: Artefacts, root: Path, system: FakeSystem) -> None:
    wanted = nginx(artefacts["1.0"])
    result = release.ensure(wanted, root=str(root), system=system)
    assert "ktls-nginx-watch.service" in result.started
    assert {"ktls-nginx-helper.socket", "ktls-nginx-log.socket", "ktls-datapath.path"} <= set(result.started)
    assert "ktls-datapath.service" not in result.started, "a flag starts it"
    assert json.loads((root / "etc/ktls/nginx.json").read_text()) == CONFIG
    assert "on=/etc/nginx/conf.d/ktls-on.conf" in (root / "etc/ktls/datapath").read_text().splitlines()
    assert not (root / "usr/local/bin").exists()
    assert not release.ensure(wanted, root=str(root), system=system).changed
    gone = release.DesiredRelease(state="absent", components=("nginx",))
    assert release.ensure(gone, root=str(root), system=system).changed
    assert not (root / "etc/ktls/datapath").exists()
    assert not list((root / "etc/systemd/system").glob("ktls-*"))


def test_settings_that_make_no_sense_change_nothing(artefacts: Artefacts, root: Path, system: FakeSystem) -> None:
    wanted = desired(artefacts["1.0"], components=("nginx",), nginx_config={**CONFIG, "directory": "/etc/cron.d"})
    with pytest.raises(KtlsError) as caught:
        release.ensure(wanted, root=str(root), system=system)
    assert caught.value.code == "bad_config"
    assert not (root / "etc/ktls/nginx.json").exists()
    assert system.ran == []

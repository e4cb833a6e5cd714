# SPDX-License-Identifier: Apache-2.0
"""What switches a service as a component: a helper behind a socket, a path unit, and what `ktls-off` reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ktls_host import release
from ktls_host.errors import KtlsError

from .conftest import FakeSystem, desired, loads, snapshot

Artefacts = dict[str, dict[str, Any]]
CONFIG = {"unit": "web.service", "backend": "lighttpd", "restart_ok": False}
ENABLED = {"ktls-datapath.path", "ktls-service-helper.socket"}


def service(meta: dict[str, Any], **config: Any) -> release.DesiredRelease:
    given = {**CONFIG, **config}
    return desired(meta, components=("service",), agent_config=None, sidecar_config=None, service_config=given)


def test_it_comes_and_goes(artefacts: Artefacts, root: Path, system: FakeSystem) -> None:
    before = snapshot(root)
    release.ensure(service(artefacts["1.0"]), root=str(root), system=system)
    assert system.enabled == ENABLED == system.active
    assert loads(root / "etc/ktls/service.json") == CONFIG
    assert (root / "etc/ktls/datapath").read_text().splitlines() == [
        "kind=service",
        "unit=web.service",
        "on=/etc/systemd/system/web.service.d/zz-ktls-fleet-lighttpd.conf",
        "restart=no",
    ]
    assert not release.ensure(service(artefacts["1.0"]), root=str(root), system=system).changed
    changed = release.ensure(service(artefacts["1.0"], restart_ok=True), root=str(root), system=system)
    assert changed.changed
    assert "restart=yes" in (root / "etc/ktls/datapath").read_text()
    gone = release.DesiredRelease(state="absent", components=("service",))
    release.ensure(gone, root=str(root), system=system)
    assert snapshot(root) == before
    assert system.active == set()


def test_beside_the_agent_it_goes_alone(artefacts: Artefacts, root: Path, system: FakeSystem) -> None:
    release.ensure(desired(artefacts["1.0"], components=("agent",), sidecar_config=None), root=str(root), system=system)
    agent = snapshot(root)
    release.ensure(service(artefacts["1.0"]), root=str(root), system=system)
    release.ensure(release.DesiredRelease(state="absent", components=("service",)), root=str(root), system=system)
    assert snapshot(root).keys() == agent.keys()


@pytest.mark.parametrize(
    ("config", "said"), [(None, "service_config"), ({**CONFIG, "backend": "auto"}, "backend is not one of")]
)
def test_configurations_that_will_not_do(
    artefacts: Artefacts, root: Path, system: FakeSystem, config: Any, said: str
) -> None:
    wish = desired(artefacts["1.0"], components=("service",), service_config=config)
    with pytest.raises(KtlsError, match=said):
        release.ensure(wish, root=str(root), system=system)

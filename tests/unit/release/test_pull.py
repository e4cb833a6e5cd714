# SPDX-License-Identifier: Apache-2.0
"""ktls-pull.service comes with every release and runs only where somebody enabled it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ktls_host import release

from .conftest import FakeSystem, desired

UNIT = "ktls-pull.service"


def test_it_is_installed_and_left_alone(artefacts: dict[str, Any], root: Path, system: FakeSystem) -> None:
    result = release.ensure(desired(artefacts["1.0"]), root=str(root), system=system)
    assert (root / "etc/systemd/system" / UNIT).is_file()
    assert UNIT not in system.enabled
    assert UNIT not in result.started
    assert "ktls-pull" in system.users


def test_where_it_runs_it_gets_the_new_release(artefacts: dict[str, Any], root: Path, system: FakeSystem) -> None:
    release.ensure(desired(artefacts["1.0"]), root=str(root), system=system)
    system._start(UNIT)
    system.enabled.add(UNIT)
    result = release.ensure(desired(artefacts["1.1"]), root=str(root), system=system)
    assert UNIT in result.restarted
    assert system.versions[UNIT] == "1.1"
    assert not release.ensure(desired(artefacts["1.1"]), root=str(root), system=system).changed
    release.ensure(release.DesiredRelease(state="absent"), root=str(root), system=system)
    assert UNIT not in system.active | system.enabled
    assert not (root / "etc/systemd/system" / UNIT).exists()

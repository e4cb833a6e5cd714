# SPDX-License-Identifier: Apache-2.0
"""A lab that is kept: what is put away is what another lab goes on with."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from ktls_lab import kept, state
from ktls_lab.errors import LabError
from ktls_lab.state import HostState, LabState

HOSTS = tuple(
    HostState(
        f"web{index}", index, f"web{index}.lab", f"192.168.150.{index}", "52:54:00:96:00:0b", f"{index:032x}",
        f"u{index}", "debian13", "/k", "/i", 1024, 1000 + index, 2000 + index,
    )
    for index in (1, 2)
)  # fmt: skip
LAB = LabState("t", 1.0, "/tmp/ktls-lab-0", "239.0.0.1:2", "tcg", True, HOSTS)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """The directory of a lab whose VMs have ended."""
    place = tmp_path / "lab"
    for host in HOSTS:
        (place / host.name).mkdir(parents=True)
        (place / host.name / "disk.qcow2").write_text(f"disk of {host.name}")
        for name in ("ssh_host_ed25519_key", "ssh_host_ed25519_key.pub"):
            (place / host.name / name).write_text(f"{name} of {host.name}")
            (place / host.name / name).chmod(0o600)
    for name in ("id_ed25519", "id_ed25519.pub"):
        (place / name).write_text(name)
        (place / name).chmod(0o600)
    (place / "ca").mkdir()
    (place / "ca" / "ca.pem").write_text("authority")
    return place


def test_what_is_put_away_comes_back(directory: Path, tmp_path: Path) -> None:
    place = tmp_path / "kept"
    kept.store(LAB, directory, place)
    found = kept.load(place)
    assert found == LAB
    assert [own.machine_id for own in kept.identities(found)] == [host.machine_id for host in HOSTS]
    other = tmp_path / "other"
    kept.copy_keys(found.hosts, place, other)
    assert (other / "web2/ssh_host_ed25519_key").read_text() == "ssh_host_ed25519_key of web2"
    assert (other / "id_ed25519").stat().st_mode & 0o777 == 0o600, "ssh refuses a key that others may read"
    assert (place / "web1/disk.qcow2").read_text() == "disk of web1"
    assert (place / "ca/ca.pem").read_text() == "authority"


def test_half_a_kept_lab_is_none(directory: Path, tmp_path: Path) -> None:
    (directory / "web2/ssh_host_ed25519_key").unlink()
    place = tmp_path / "kept"
    with pytest.raises(FileNotFoundError):
        kept.store(LAB, directory, place)
    with pytest.raises(LabError, match="no lab is kept in"):
        kept.load(place)


def test_what_nobody_starts_from_goes(tmp_path: Path) -> None:
    said: list[str] = []
    for name, age_s in (("old", 7200.0), ("young", 60.0), (".making", 7200.0)):
        (tmp_path / name).mkdir()
        (tmp_path / name / state.FILE).write_text(state.dumps(replace(LAB, name=name.strip("."))))
        os.utime(tmp_path / name / state.FILE, (time.time() - age_s,) * 2)
    (tmp_path / "foreign").mkdir()
    kept.prune(tmp_path, 3600.0, said.append)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".making", "foreign", "young"]
    assert len(said) == 1
    kept.prune(tmp_path / "nowhere", 3600.0, said.append)

# SPDX-License-Identifier: Apache-2.0
"""A made-up lab for the pure tests of the lab."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ktls_lab.state import HostState, LabState


def _host(index: int) -> HostState:
    return HostState(
        name=f"web{index}",
        index=index,
        fqdn=f"web{index}.lab.ktls.internal",
        address=f"192.168.150.{10 + index}",
        mac=f"52:54:00:96:00:{10 + index:02x}",
        machine_id=f"{index:032x}",
        uuid=f"00000000-0000-4000-8000-{index:012x}",
        image="debian13",
        kernel="/cache/vmlinuz",
        initrd="/cache/initrd.img",
        memory_mib=512,
        ssh_port=20000 + 2 * index,
        https_port=20001 + 2 * index,
    )


@pytest.fixture
def make_state() -> Callable[[str], LabState]:
    """Return a maker of states of a lab with two hosts."""

    def make(name: str) -> LabState:
        return LabState(
            name=name,
            created_at=1.5,
            run_dir="/tmp/ktls-lab-0123abcd",
            mcast="239.192.1.2:20001",
            accelerator="tcg",
            ready=True,
            hosts=(_host(1), _host(2)),
        )

    return make


@pytest.fixture
def labs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the directory that labs and cache are in during the test."""
    monkeypatch.setenv("KTLS_LAB_DIR", str(tmp_path / "labs"))
    monkeypatch.setenv("KTLS_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "labs"

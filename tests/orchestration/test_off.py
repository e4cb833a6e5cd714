# SPDX-License-Identifier: Apache-2.0
"""Off over real SSH to hosts that are well, and to some that are not."""

from __future__ import annotations

from pathlib import Path

from .sshfleet import ssh_fleet


def test_every_host_is_read_back(tmp_path: Path) -> None:
    with ssh_fleet(tmp_path, 3) as fleet:
        done = fleet.ktls("off")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "3 of 3 hosts read back on userspace TLS" in done.stdout
        assert all(fleet.flags().values())
        print(done.stdout)

# SPDX-License-Identifier: Apache-2.0
"""A host of each image with the stories of ``guest`` on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..levers.lever_lab import IMAGES, Levers

__all__ = ["GUEST", "IMAGES", "PLACE", "Rig"]

GUEST = Path(__file__).with_name("guest")
PLACE = "/root/rig-stories"


class Rig(Levers):
    """The hosts; stories are told on them."""

    def start(self) -> None:
        """Put the stories on the hosts, and look at each as it comes from its image."""
        self.at_start: dict[str, list[str]] = {}
        for host in self.lab.hosts:
            self.put(host.name, GUEST, f"{PLACE}/guest")
            look = (
                "uname -r; cat /usr/lib/ktls-lab/tlssim; ls /lib/modules/$(uname -r)/extra; grep tlssim /proc/modules"
            )
            self.at_start[host.image] = self.run(host.name, f"{look}; true").stdout.split()

    def tell(self, image: str, story: str, *arguments: str, timeout_s: float = 150) -> dict[str, Any]:
        """Let a story happen on the host of an image; the kernel must not have complained of itself."""
        told = self.guest(self.host(image), "stories", story, *arguments, timeout_s=timeout_s)
        assert told.pop("complaints") == [], told
        left = {name: value for name, value in told.pop("curr").items() if name.startswith("TlsCurr")}
        assert set(left.values()) <= {0}, left
        return told

    def guest(self, host: str, module: str, *arguments: str, timeout_s: float = 150) -> dict[str, Any]:
        """Run a module of ``guest`` on a host; return the JSON that it printed."""
        command = ["env", f"PYTHONPATH={PLACE}", "python3", "-m", f"guest.{module}", *arguments]
        done = self.run(host, command, timeout_s=timeout_s)
        told: dict[str, Any] = json.loads(done.stdout)
        return told

# SPDX-License-Identifier: Apache-2.0
"""Network namespaces that hang on one switch. As root; everything has the name of this process and is removed."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from types import TracebackType

from bench.errors import BenchError

SERVER_ADDRESS = "10.231.0.1"


class Network:
    """``server`` is the namespace with the switch and the web server, ``hosts`` are those of the fleet."""

    def __init__(self, count: int) -> None:
        """Name them; nothing is made before ``with``."""
        self.server = f"ktlspull{os.getpid()}"
        self.hosts = [f"{self.server}-{number}" for number in range(1, count + 1)]

    def __enter__(self) -> Network:
        """Make them."""
        try:
            _ip("netns", "add", self.server)
            self._inside(self.server, "link", "set", "lo", "up")
            self._inside(self.server, "link", "add", "switch", "type", "bridge")
            self._inside(self.server, "addr", "add", f"{SERVER_ADDRESS}/16", "dev", "switch")
            self._inside(self.server, "link", "set", "switch", "up")
            for number, name in enumerate(self.hosts, 1):
                _ip("netns", "add", name)
                port = f"port{number}"
                # Made where it is used: no name ever shows outside of our namespaces.
                self._inside(
                    self.server, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", name
                )  # fmt: skip
                self._inside(self.server, "link", "set", port, "master", "switch", "up")
                self._inside(name, "addr", "add", f"10.231.1.{number}/16", "dev", "eth0")
                self._inside(name, "link", "set", "eth0", "up")
                self._inside(name, "link", "set", "lo", "up")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove them; links go with their namespaces."""
        for name in [*self.hosts, self.server]:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)

    def command(self, name: str, argv: Sequence[str]) -> list[str]:
        """Return the command line that runs ``argv`` inside."""
        return ["ip", "netns", "exec", name, *argv]

    def _inside(self, name: str, *arguments: str) -> None:
        _ip("-n", name, *arguments)


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or ["no reason given"]
        raise BenchError(f"`ip {' '.join(arguments)}` failed: {said[-1]}; run this as root on a machine of your own")

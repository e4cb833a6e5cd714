# SPDX-License-Identifier: Apache-2.0
"""TLS counters of network interfaces, as ``ethtool -S`` has them. Names are the drivers' own.

Only interfaces whose driver counts TLS are asked again and again: on most hosts there are none.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from ktls_host.commands import Runner
from ktls_host.errors import KtlsError
from ktls_host.nic import drivers, tls_features
from ktls_host.nic.ethtool import parse_statistics

_NET = "/sys/class/net"
_LOOK_AGAIN = 30  # readings
_MOST_COUNTERS = 128  # an interface; the answer of the helper has a limit


class NicCounters:
    """Reads them; knows which interfaces have any."""

    def __init__(self, runner: Runner | None = None, net: str = _NET) -> None:
        """``net``: where the interfaces are listed."""
        self._runner = runner or Runner()
        self._net = net
        self._drivers: dict[str, str | None] = {}
        self._readings = 0
        self.problem: str | None = None

    def read(self) -> Mapping[str, Mapping[str, int]]:
        """Return the TLS counters by interface. ``problem`` says what could not be read."""
        if self._readings % _LOOK_AGAIN == 0:
            self._drivers = {name: driver for name in self._names() if (driver := self._driver(name)) is not None}
        first, self._readings = self._readings % _LOOK_AGAIN == 0, self._readings + 1
        self.problem = None
        found: dict[str, Mapping[str, int]] = {}
        for name, driver in list(self._drivers.items()):
            try:
                answer = self._runner.run(("ethtool", "-S", name))
            except KtlsError as error:
                if any(drivers.implements(driver).values()):
                    self.problem = f"TLS counters of {name}: {error.message}"
                continue
            counters = drivers.tls_counters(driver, parse_statistics(answer.stdout))
            if counters:
                found[name] = dict(list(counters.items())[:_MOST_COUNTERS])
            elif first and not any(drivers.implements(driver).values()):
                del self._drivers[name]
        return found

    def _names(self) -> list[str]:
        try:
            return sorted(os.listdir(self._net))
        except OSError:
            return []

    def _driver(self, name: str) -> str | None:
        try:
            return os.path.basename(os.readlink(f"{self._net}/{name}/device/driver"))
        except OSError:
            # A virtual interface; of these only the lab's test device counts TLS.
            return tls_features.driver_of(name) if drivers.in_lab() else None

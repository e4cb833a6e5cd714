# SPDX-License-Identifier: Apache-2.0
"""The sidecar, with key and certificate where we made them. What it serves is the operator's, but for one file."""

from __future__ import annotations

from ... import certificate, release
from ..footprint import Footprint

FOOTPRINT = Footprint(
    "sidecar",
    units=release.units("sidecar"),
    files=("/etc/ktls/sidecar.json", *(f"/etc/systemd/system/{unit}" for unit in release.units("sidecar"))),
    guests=tuple(
        f"{certificate.DIRECTORY}/{name}" for name in (certificate.KEY, certificate.CERTIFICATE, certificate.CA)
    ),
    links=release.links("sidecar"),
    state=("/run/ktls-sidecar",),
    directories=("/etc/ktls", certificate.DIRECTORY),
)

# SPDX-License-Identifier: Apache-2.0
"""The sidecar, with key and certificate where we made them. What it serves is the operator's, but for one file."""

from __future__ import annotations

from dataclasses import replace

from ... import certificate
from . import component

FOOTPRINT = replace(
    component.of("sidecar"),
    guests=tuple(
        f"{certificate.DIRECTORY}/{name}" for name in (certificate.KEY, certificate.CERTIFICATE, certificate.CA)
    ),
    directories=("/etc/ktls", certificate.DIRECTORY),
)

# SPDX-License-Identifier: Apache-2.0
"""Settings of this machine's apt that an image build must share to reach the same mirrors."""

from __future__ import annotations

import re
import subprocess

# Only how to get there and how much to trust a clock. Never a switch that turns verification off
# (Verify-Peer, AllowInsecureRepositories): signatures are checked whatever this machine does.
_TAKE_OVER = re.compile(
    r"Acquire::(Check-Valid-Until|Check-Date|(http|https|ftp)::Proxy(::[^:\s]+)?|(http|https)::Proxy-Auto-Detect"
    r"|https::(CaInfo|CaPath|SslCert|SslKey)|ForceIPv[46])\Z",
    re.IGNORECASE,
)
_LINE = re.compile(r'(?P<key>\S+) "(?P<value>.*)";\Z')


def options_from_dump(dump: str) -> list[str]:
    """Return apt.conf(5) lines to hand to the build, from the output of ``apt-config dump``."""
    options = []
    for line in dump.splitlines():
        match = _LINE.match(line)
        if match and match["value"] and _TAKE_OVER.match(match["key"]):
            options.append(f'{match["key"]} "{match["value"]}"')
    return list(dict.fromkeys([*options, 'Acquire::Retries "3"']))


def options() -> list[str]:
    """apt.conf(5) lines of this machine; only the retries when apt-config is missing."""
    try:
        run = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return options_from_dump("")
    return options_from_dump(run.stdout)

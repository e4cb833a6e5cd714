# SPDX-License-Identifier: Apache-2.0
"""What a kernel's source says of TLS offload, as JSON: files that set ``tlsdev_ops``, features, counters, ciphers.

    apt-get download linux-source-6.12   # or a tree of kernel.org
    .venv/bin/python -m tools.tls_drivers PATH/linux-source-6.12 >tests/fixtures/host/nic/drivers-6.12.json

``tests/unit/host/nic/test_drivers_source.py`` holds the table of drivers against what is recorded there.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

_SETS = re.compile(r"->tlsdev_ops\s*=\s*&\w+")
_FEATURE = re.compile(r"->(features|hw_features)\s*\|=\s*NETIF_F_HW_TLS_(TX|RX)\b")
_COUNTER = re.compile(r"\b((?:tx|rx|hw)_tls_[a-z_]+)")
_CIPHER = re.compile(r"case TLS_CIPHER_(\w+):")
_PLACES = ("drivers/net", "drivers/infiniband/ulp", "net")
#: Where each driver's counters are; and its ciphers, without those of a full TLS engine (chtls).
_DIRECTORIES = {
    "mlx5_core": "drivers/net/ethernet/mellanox/mlx5/core",
    "nfp": "drivers/net/ethernet/netronome/nfp",
    "cxgb4": "drivers/net/ethernet/chelsio",
    "funeth": "drivers/net/ethernet/fungible/funeth",
}


_CIPHERS = {"cxgb4": "drivers/net/ethernet/chelsio/inline_crypto/ch_ktls"}


def look(tree: Path) -> dict[str, Any]:
    """Return what ``tree`` says."""
    sets, features = [], {}
    for path in sorted(path for place in _PLACES for path in (tree / place).rglob("*.c")):
        text = path.read_text(encoding="utf-8", errors="replace")
        name = str(path.relative_to(tree))
        if _SETS.search(text):
            sets.append(name)
        if found := sorted({f"{kind} {direction.lower()}" for kind, direction in _FEATURE.findall(text)}):
            features[name] = found
    drivers = {}
    for driver, directory in _DIRECTORIES.items():
        drivers[driver] = {
            "counters": _named(tree / directory, _COUNTER),
            "ciphers": _named(tree / _CIPHERS.get(driver, directory), _CIPHER),
        }
    return {"set_tlsdev_ops": sets, "features": features, "drivers": drivers}


def _named(directory: Path, what: re.Pattern[str]) -> list[str]:
    texts = (path.read_text(encoding="utf-8", errors="replace") for path in directory.rglob("*.[ch]"))
    return sorted({name for text in texts for name in what.findall(text)})


if __name__ == "__main__":
    print(json.dumps(look(Path(sys.argv[1])), indent=1))

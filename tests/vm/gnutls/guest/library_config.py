# SPDX-License-Identifier: Apache-2.0
"""Print what this host's libgnutls says of how it was built: one JSON object. Runs on a lab host.

gnutls_get_library_config(3) returns an array of pairs of strings that ends with a pair of NULL.
"""

from __future__ import annotations

import ctypes
import json
import os


class Entry(ctypes.Structure):
    """gnutls_library_config_st of <gnutls/gnutls.h>."""

    _fields_ = (("name", ctypes.c_char_p), ("value", ctypes.c_char_p))


def main() -> None:
    """Print version, configuration, and whether there is a system-wide configuration file."""
    library = ctypes.CDLL("libgnutls.so.30")
    library.gnutls_check_version.restype = ctypes.c_char_p
    library.gnutls_get_library_config.restype = ctypes.POINTER(Entry)
    config: dict[str, str] = {}
    for entry in library.gnutls_get_library_config():
        if entry.name is None:
            break
        config[entry.name.decode()] = (entry.value or b"").decode()
    version = library.gnutls_check_version(None).decode()
    print(json.dumps({"version": version, "config": config, "system_config": os.path.exists("/etc/gnutls/config")}))


if __name__ == "__main__":
    main()

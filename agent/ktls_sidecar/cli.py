# SPDX-License-Identifier: Apache-2.0
"""The command ``ktls-sidecar``."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import TextIO, cast

from ktls_host.errors import KtlsError
from ktls_host.version_option import add_version

from . import config
from .openssl import UnsupportedOpenSSLError, load
from .output import LineWriter
from .process import forbid_dumps
from .supervisor import Supervisor, stderr_line

EX_CONFIG = 78
"""sysexits.h: starting again without a change is useless."""
_CONFIG_CODES = frozenset({"bad_config", "bad_certificate", "unsupported_openssl", "no_such_group", "bad_activation"})


def main(argv: Sequence[str] | None = None) -> int:
    """Run until SIGTERM. Returns the exit status: 0, 1, or 78 when the configuration must change first."""
    parser = argparse.ArgumentParser(prog="ktls-sidecar", description="HTTPS file server that can use kernel TLS")
    parser.add_argument("--config", default="/etc/ktls/sidecar.json", help="JSON file (default: %(default)s)")
    add_version(parser)
    options = parser.parse_args(argv)
    try:
        settings = config.load(options.config)
        forbid_dumps()
        os.umask(0o077)
        Supervisor(settings, load(), cast(TextIO, LineWriter(1)), stderr_line).run()
    except UnsupportedOpenSSLError as error:
        return _fail("unsupported_openssl", str(error))
    except KtlsError as error:
        return _fail(error.code, error.message)
    return 0


def _fail(code: str, message: str) -> int:
    stderr_line(message)
    return EX_CONFIG if code in _CONFIG_CODES else 1

# SPDX-License-Identifier: Apache-2.0
"""``tools/release``: make the artefacts of a release, or check some that were made.

    tools/release [--output DIR] [--sign KEY] [--allow-dirty]
    tools/release --verify DIR --signers FILE [--principal NAME]

Exit status: 0 made, or every file is what was signed; 1 not; 2 wrong usage.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ktls_control import signed
from ktls_control.errors import ControlError

from . import ReleaseError
from .make import make

ROOT = Path(__file__).resolve().parents[2]


def main(argv: Sequence[str] | None = None) -> int:
    """Return the exit status."""
    parser = argparse.ArgumentParser(
        prog="tools/release", description="Make the artefacts of a release, or check them."
    )
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "release", help="default: build/release")
    parser.add_argument(
        "--sign", type=Path, metavar="KEY", help="private key, or the public half of one in the SSH agent"
    )
    parser.add_argument("--allow-dirty", action="store_true", help="though files differ from the commit; they say so")
    parser.add_argument("--verify", type=Path, metavar="DIR", help="make nothing: check the release in DIR")
    parser.add_argument("--signers", type=Path, metavar="FILE", help="allowed signers (ssh-keygen(1)); for --verify")
    parser.add_argument("--principal", default=signed.PRINCIPAL, help="whose signature counts (default: %(default)s)")
    arguments = parser.parse_args(argv)
    if (arguments.verify is None) != (arguments.signers is None):
        parser.error("--verify and --signers go together")
    try:
        if arguments.verify is not None:
            return _verify(arguments.verify, arguments.signers, arguments.principal)
        made = make(ROOT, arguments.output.resolve(), key=arguments.sign, allow_dirty=arguments.allow_dirty)
    except (ReleaseError, ControlError) as error:
        print(f"release: {error}", file=sys.stderr)
        return 1
    for name, sha256 in sorted(made.items()):
        print(f"{sha256}  {name}")
    print(
        f"release: in {arguments.output}, {'signed' if arguments.sign else 'NOT SIGNED (--sign KEY)'}", file=sys.stderr
    )
    return 0


def _verify(directory: Path, signers: Path, principal: str) -> int:
    for name in signed.checked_sums(directory, signers, principal):
        signed.verify(directory / name, signers, principal)
        print(f"{name}: is what was signed")
    return 0


if __name__ == "__main__":
    sys.exit(main())

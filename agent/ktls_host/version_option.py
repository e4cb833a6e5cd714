# SPDX-License-Identifier: Apache-2.0
"""The option ``--version`` of every program: what it was made of is looked for only when somebody asks."""

from __future__ import annotations

import argparse


def add_version(parser: argparse.ArgumentParser) -> None:
    """Add the option to ``parser``, whose ``prog`` is named in the answer."""
    parser.add_argument("--version", action=_Version, nargs=0, help="show version, commit and lock, and exit")


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_arguments: object) -> None:
        from .buildinfo import of_host

        print(of_host().words(parser.prog))
        parser.exit()

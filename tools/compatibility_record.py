# SPDX-License-Identifier: Apache-2.0
"""``tools/compatibility``: measure on a VM of each image, record, and write docs/compatibility.md."""

from __future__ import annotations

import argparse
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from ktls_lab import api
from ktls_lab.errors import LabError
from tests.vm.levers.lever_lab import IMAGES, Levers
from tools import compatibility_table as table

LAB = "compatibility"


def measure(levers: Levers, image: str) -> tuple[table.Matrix, float]:
    """Return the matrix of an image, and seconds."""
    started = time.monotonic()
    return levers.matrix(levers.host(image)), time.monotonic() - started


def record(images: tuple[str, ...]) -> None:
    """Boot, measure two at a time, record. The lab does not outlive this."""
    lab = api.up(LAB, len(images), images, print)
    try:
        levers = Levers(lab)
        with ThreadPoolExecutor(max_workers=2) as pool:
            for image, (matrix, took_s) in zip(
                images, pool.map(lambda name: measure(levers, name), images), strict=True
            ):
                table.write(image, matrix)
                print(f"{image}: {len(matrix['cells'])} cells in {took_s:.0f} s")
    finally:
        lab.down()


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="tools/compatibility", description=__doc__)
    parser.add_argument("--page", action="store_true", help="measure nothing, only write the page")
    parser.add_argument("--image", action="append", choices=IMAGES, help="measure only this image (repeat for more)")
    options = parser.parse_args()
    try:
        if not options.page:
            record(tuple(options.image or IMAGES))
    except LabError as error:
        sys.stderr.write(f"tools/compatibility: {error}\n")
        return 1
    table.PAGE.write_text(
        table.page({image: table.read(image) for image in table.IMAGES}, table.read_gnutls()), encoding="utf-8"
    )
    print(f"wrote {table.PAGE.relative_to(table.ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

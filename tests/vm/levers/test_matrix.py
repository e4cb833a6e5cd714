# SPDX-License-Identifier: Apache-2.0
"""The compatibility matrix, measured again on each image: docs/compatibility.md says what really happens.

When an image got a new kernel or OpenSSL that behaves in another way, ``tools/compatibility`` records it anew.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from tools.compatibility_table import Matrix, kinds, read

from .lever_lab import IMAGES, Levers


@pytest.fixture(scope="module")
def matrices(levers: Levers) -> dict[str, Matrix]:
    """Measure all images, as many at a time as there are processors on a small machine."""
    with ThreadPoolExecutor(max_workers=2) as pool:
        found = pool.map(levers.matrix, [levers.host(image) for image in IMAGES])
        return dict(zip(IMAGES, found, strict=True))


@pytest.mark.parametrize("image", IMAGES)
def test_the_page_says_what_happens(matrices: dict[str, Matrix], image: str) -> None:
    measured, recorded = kinds(matrices[image]), kinds(read(image))
    assert measured.keys() == recorded.keys()
    changed = {cell: (recorded[cell], measured[cell]) for cell in measured if measured[cell] != recorded[cell]}
    assert changed == {}, f"cell: (recorded, measured); {matrices[image]['kernel']}, {matrices[image]['openssl']}"


@pytest.mark.parametrize("image", IMAGES)
def test_without_ktls_nothing_breaks_and_nothing_is_in_the_kernel(levers: Levers, image: str) -> None:
    """The control: what breaks in the matrix breaks because of kTLS, and "in the kernel" can be false."""
    suites = ("--cipher", "TLS_AES_128_GCM_SHA256", "--cipher", "ECDHE-ECDSA-AES128-GCM-SHA256")
    matrix = levers.matrix(levers.host(image), "--userspace", *suites)
    assert len(matrix["cells"]) == 4
    for cell in matrix["cells"]:
        assert (cell["tx"], cell["rx"], cell["data"]) == (False, False, "ok"), cell
        updates = {"peer": "userspace", "peer_requested": "userspace", "own": "userspace"}
        assert cell["key_update"] == (updates if cell["version"] == "TLSv1.3" else None), cell

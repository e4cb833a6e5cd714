# SPDX-License-Identifier: Apache-2.0
"""docs/compatibility.md and what it is made from; the measurements themselves are in tests/vm/levers."""

from __future__ import annotations

import copy
import io
import tarfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.vm.levers.guest.matrix import ACTIONS, MODES, SUITES
from tests.vm.levers.lever_lab import agree, archived
from tools import compatibility_table as table
from tools.compatibility_text import CLAIMS

Json = dict[str, Any]


def recorded() -> dict[str, Json]:
    """What was recorded, to change at will."""
    return {image: copy.deepcopy(dict(table.read(image))) for image in table.IMAGES}


def proof(matrix: table.Matrix) -> Json:
    """The preflight proof of a host where everything is as in ``matrix``."""
    cells = []
    for suite in table.suites(matrix):
        modes = {mode: table.cell(matrix, suite, mode) for mode in MODES}
        updates = {mode: cell["key_update"] if cell[mode] else None for mode, cell in modes.items()}
        cells.append(
            {
                "version": suite[0],
                "cipher": suite[1],
                "offered": modes["tx"]["offered"],
                **{mode: cell[mode] and cell["data"] == "ok" for mode, cell in modes.items()},
                "reason": None,
                "key_update": copy.deepcopy(updates),
            }
        )
    return {"done": True, "library": matrix["openssl"], "cells": cells}


def test_the_page_is_what_the_recorded_measurements_give() -> None:
    assert table.PAGE.read_text(encoding="utf-8") == table.page(recorded(), table.read_gnutls()), (
        "run tools/compatibility --page"
    )


def test_every_image_has_every_cell() -> None:
    for image, matrix in recorded().items():
        cells = [(cell["version"], cell["cipher"], cell["mode"]) for cell in matrix["cells"]]
        assert cells == [(version, cipher, mode) for version, cipher, _ in SUITES for mode in MODES], image
        for cell in matrix["cells"]:
            assert (cell["key_update"] is None) == (cell["version"] == "TLSv1.2"), cell
            assert cell["key_update"] is None or tuple(cell["key_update"]) == tuple(ACTIONS) == table.KEY_UPDATES


def test_a_changed_measurement_changes_the_page() -> None:
    """No fact of a recording is left out of the page."""
    unchanged = table.page(recorded())
    for image in table.IMAGES:
        for index in range(len(SUITES) * 2):
            for change in ({"data": "read: wrong bytes"}, {"offered": False}):
                changed = recorded()
                changed[image]["cells"][index].update(change)
                assert table.page(changed) != unchanged, (image, index, change)
    for name in ("kernel", "openssl"):
        changed = recorded()
        changed["debian13"][name] += "+changed 9.9"
        assert table.page(changed) != unchanged


def test_a_claim_that_does_not_hold_is_called_contradicted() -> None:
    """Each claim fails when the other host's behaviour stands in for the one it is about."""
    assert all(test(recorded()) for _, test in CLAIMS)
    assert "Contradicted" not in table.page(recorded())
    swapped = recorded()
    swapped["debian12"], swapped["debian13-backports"] = swapped["debian13-backports"], swapped["debian12"]
    lost = recorded()
    for matrix in lost.values():
        for cell in matrix["cells"]:
            cell.update(tx=False, rx=True)
            if cell["key_update"]:
                cell["key_update"] = dict.fromkeys(table.KEY_UPDATES, "breaks: read: x")
    for text, test in CLAIMS:
        assert not (test(swapped) and test(lost)), text
    assert "- **Contradicted**: " in table.page(swapped)


def test_reasons_are_told_once_and_marked() -> None:
    changed = recorded()
    cell = changed["debian13"]["cells"][0]
    cell["data"] = "read: wrong bytes"
    changed["debian13"]["cells"][8]["key_update"]["own"] = "hangs (write)"
    section = table.page(changed).split("## Debian 13: ")[1].split("##")[0]
    assert "| TLS 1.2 | `ECDHE-ECDSA-AES128-GCM-SHA256` | **fails** [a] | kernel |" in section
    assert "**hangs** [c]" in section
    for note in ("[a] read: wrong bytes", "[b] write: no suitable record layer", "[c] hangs (write)"):
        assert section.count(note) == 1


def test_gnutls_rows_come_between_their_marks() -> None:
    row = {"build": "Debian's", "kernel": "6.12", "gnutls": "3.8.9", "version": "TLS 1.3", "cipher": "AES-128-GCM"}
    page = table.page(recorded(), {"rows": [{**row, "tx": False, "rx": False, "note": "built without"}]})
    between = page.split("<!-- gnutls: begin -->")[1].split("<!-- gnutls: end -->")[0]
    wanted = "| Debian's | 6.12 | 3.8.9 | TLS 1.3 | AES-128-GCM | userspace | userspace | built without |"
    assert wanted in between
    assert "Nothing is recorded" not in page


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        ("ok", "ok"),
        ("userspace", "userspace"),
        ("breaks: peer: decryption failed or bad record mac", "breaks"),
        ("hangs (read)", "hangs"),
        (None, None),
    ],
)
def test_kind(outcome: str | None, expected: str | None) -> None:
    assert table.kind(outcome) == expected


@pytest.mark.parametrize("image", table.IMAGES)
def test_kinds_keep_what_happened_and_drop_the_words(image: str) -> None:
    matrix, other = recorded()[image], recorded()[image]
    other.update(kernel="9.9", openssl="OpenSSL 9.9 1 Jan 2030")
    for cell in other["cells"]:
        for name, outcome in (cell["key_update"] or {}).items():
            cell["key_update"][name] = outcome.replace("breaks: ", "breaks: in other words: ")
    assert table.kinds(other) == table.kinds(matrix)
    for index, cell in enumerate(matrix["cells"]):
        changes: list[Json] = [{name: not cell[name]} for name in ("offered", "tx", "rx")]
        changes += [{"data": "hangs (read)"}]
        changes += [
            {"key_update": {**(cell["key_update"] or {}), name: "hangs (x)"}} for name in cell["key_update"] or ()
        ]
        for change in changes:
            other = recorded()[image]
            other["cells"][index].update(change)
            assert table.kinds(other) != table.kinds(matrix), change


@pytest.mark.parametrize("image", table.IMAGES)
def test_a_proof_that_says_the_same_agrees(image: str) -> None:
    matrix = recorded()[image]
    same = proof(matrix)
    assert agree(matrix, same) == []
    for cell in same["cells"]:
        for updates in cell["key_update"].values():
            for name, outcome in (updates or {}).items():
                updates[name] = outcome.split(":")[0]
        if cell["version"] == "TLSv1.2":
            cell["key_update"] = None
    assert agree(matrix, same) == [], "reasons may differ"


@given(data=st.data())
def test_a_proof_that_says_one_thing_else_does_not(data: st.DataObject) -> None:
    matrix = table.read(data.draw(st.sampled_from(sorted(table.IMAGES))))
    other = proof(matrix)
    cell = data.draw(st.sampled_from(other["cells"]))
    facts = ["offered", "tx", "rx"] + [mode for mode in MODES if cell["key_update"][mode]]
    what = data.draw(st.sampled_from(facts))
    updates = cell["key_update"].get(what)
    if what in MODES and updates and data.draw(st.booleans()):
        name = data.draw(st.sampled_from(table.KEY_UPDATES))
        updates[name] = "breaks: x" if updates[name] == "ok" else "ok"
        what = f"KeyUpdate {name} with {what}"
    else:
        cell[what] = not cell[what]
    differences = agree(matrix, other)
    assert len(differences) == 1
    assert differences[0].startswith(f"{cell['version']} {cell['cipher']}: {what}: matrix ")


def test_agree_names_what_is_missing() -> None:
    matrix = recorded()["debian13"]
    other = proof(matrix)
    lacking = other["cells"].pop()
    other["cells"].append({**lacking, "cipher": "TLS_OF_TOMORROW"})
    other.update(done=False, library="OpenSSL 1.1.1")
    assert agree(matrix, other) == [
        "the proof was not finished",
        f"matrix: {matrix['openssl']}, proof: OpenSSL 1.1.1",
        "TLSv1.3 TLS_AES_128_CCM_SHA256: the proof lacks it",
        "TLSv1.3 TLS_OF_TOMORROW: the matrix lacks it",
    ]
    other = proof(matrix)
    other["cells"][4]["key_update"]["rx"] = None
    assert {text.split(": ")[1] for text in agree(matrix, other)} == {
        f"KeyUpdate {name} with rx" for name in table.KEY_UPDATES
    }
    # Debian 12 does not receive TLS 1.3 in the kernel: a proof that tells of KeyUpdates there has seen something else.
    other = proof(recorded()["debian12"])
    other["cells"][4]["key_update"]["rx"] = dict.fromkeys(table.KEY_UPDATES, "ok")
    (difference,) = agree(recorded()["debian12"], other)
    assert "KeyUpdate with rx: matrix None" in difference


def test_archived(tmp_path: Path) -> None:
    (tmp_path / "tree" / "__pycache__").mkdir(parents=True)
    (tmp_path / "tree" / "__pycache__" / "x.pyc").touch()
    (tmp_path / "tree" / "a.py").write_text("a", encoding="utf-8")
    (tmp_path / "tree" / "empty").mkdir()
    for local, name, expected in (("tree", "", ["a.py", "empty"]), ("tree/a.py", "b.py", ["b.py"])):
        with tarfile.open(fileobj=io.BytesIO(archived(tmp_path / local, name))) as archive:
            assert archive.getnames() == expected

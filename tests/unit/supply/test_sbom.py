# SPDX-License-Identifier: Apache-2.0
"""Bills of materials: valid by CycloneDX's schema, the same each time, and nothing locked is missing from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ktls_host.buildinfo import BuildInfo
from tools.releasing import ReleaseError, lockfile, sbom

ROOT = Path(__file__).resolve().parents[3]
WHEN = 1_795_000_000
CONTROL = BuildInfo("0.1.0", "0123456789ab", False, "f" * 64, "control.lock")
HOST = BuildInfo("0.1.0+g0123456789ab", "0123456789ab", True, "e" * 64, "host.lock")


def locked(name: str) -> tuple[lockfile.Locked, ...]:
    return lockfile.parse((ROOT / f"requirements/{name}.lock").read_text())


def control() -> str:
    return sbom.control(CONTROL, locked("control"), {"ktls_fleet-0.1.0-py3-none-any.whl": "a" * 64}, WHEN)


def test_control_node_has_every_locked_package() -> None:
    bom: dict[str, Any] = json.loads(control())
    assert (bom["bomFormat"], bom["specVersion"]) == ("CycloneDX", "1.6")
    found = {(part["name"], part["version"]): part for part in bom["components"]}
    wanted = [entry for entry in locked("control") if entry.on_linux]
    assert set(found) == {(entry.name, entry.version) for entry in wanted}
    for entry in wanted:
        part = found[entry.name, entry.version]
        assert part["purl"].startswith("pkg:pypi/")
        (files,) = part["externalReferences"]
        assert {value["content"] for value in files["hashes"]} == set(entry.hashes)
    root = bom["metadata"]["component"]
    assert (root["name"], root["version"]) == ("ktls-fleet", "0.1.0")
    assert {"name": "ktls:commit", "value": "0123456789ab"} in root["properties"]
    assert root["externalReferences"][0]["hashes"][0]["content"] == "a" * 64


def test_who_wants_what() -> None:
    bom = json.loads(control())
    graph = {entry["ref"]: set(entry.get("dependsOn", [])) for entry in bom["dependencies"]}
    names = {part["bom-ref"]: part["name"] for part in bom["components"]}
    assert {names[ref] for ref in graph["ktls-fleet"]} >= {"ansible-core", "cryptography", "fabric", "rich"}
    (paramiko,) = (ref for ref, name in names.items() if name == "paramiko")
    assert "cryptography" in {names[ref] for ref in graph[paramiko]}
    reached, todo = set(), ["ktls-fleet"]
    while todo:
        ref = todo.pop()
        if ref not in reached:
            reached.add(ref)
            todo += graph[ref]
    assert reached == {"ktls-fleet", *names}, "nothing is there that nobody wants"


def test_host_says_what_is_inside_the_zipapp() -> None:
    bom = json.loads(sbom.host(HOST, locked("host"), ("ktls-0.1.0.pyz", "b" * 64), WHEN))
    root = bom["metadata"]["component"]
    assert root["hashes"] == [{"alg": "SHA-256", "content": "b" * 64}]
    assert [part["name"] for part in bom["components"]] == ["h11"]
    assert bom["components"][0]["licenses"][0]["license"]["id"] == "MIT"
    assert {"name": "ktls:changed-since", "value": "true"} in root["properties"]


def test_same_sources_same_document() -> None:
    assert control() == control()
    bom = json.loads(control())
    assert bom["metadata"]["timestamp"].startswith("2026-11-")
    other = sbom.control(CONTROL, locked("control")[:-1], {}, WHEN)
    assert json.loads(other)["serialNumber"] != bom["serialNumber"]


def test_what_the_schema_does_not_allow_is_refused() -> None:
    bom = json.loads(control())
    bom["components"][0]["type"] = "nonsense"
    with pytest.raises(ReleaseError, match="not valid"):
        sbom.validate(json.dumps(bom))
    with pytest.raises(ReleaseError):
        sbom.validate("{}")

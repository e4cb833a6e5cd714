# SPDX-License-Identifier: Apache-2.0
"""What goes as a whole tree takes nothing of the operator's along."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ktls_host.undeploy import theirs

from .conftest import Host, differences, refusal, undeploy

MOUNTS = "36 35 98:0 / {} rw,noatime master:1 - ext4 /dev/sdb rw\n"


def serve(host: Host, **settings: Any) -> None:
    path = host.root / "etc/ktls/sidecar.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


@pytest.mark.parametrize("wish", [{}, {"edited": "keep"}], ids=["as it is", "keep"])
@pytest.mark.parametrize(
    "settings",
    [
        {"root": "/var/lib/ktls-sidecar/www"},
        {"root": "/var/lib/ktls/"},
        {"certificates": [{"certificate": "/etc/x.pem", "key": "/var/lib/ktls/other.key"}]},
    ],
    ids=["below", "the tree itself", "a key"],
)
def test_what_is_served_from_a_tree_of_ours_stops_it(
    deployed: Host, before: dict[str, list[object]], settings: dict[str, Any], wish: dict[str, Any]
) -> None:
    page = deployed.root / "var/lib/ktls-sidecar/www/page.html"
    page.parent.mkdir(parents=True)
    page.write_text("theirs")
    serve(deployed, **settings)
    now = differences(before, deployed)
    error = refusal(deployed, **wish)
    assert error.code == "theirs_inside"
    assert "/var/lib/ktls" in error.message
    assert differences(before, deployed) == now


def test_a_mount_in_a_tree_of_ours_stops_it(deployed: Host) -> None:
    (deployed.root / "proc/self").mkdir(parents=True)
    (deployed.root / "proc/self/mountinfo").write_text(MOUNTS.format(r"/var/lib/ktls/big\040disk"))
    error = refusal(deployed)
    assert (error.code, "/var/lib/ktls/big disk" in error.message) == ("theirs_inside", True)


def test_others_do_not(deployed: Host) -> None:
    (deployed.root / "proc/self").mkdir(parents=True)
    (deployed.root / "proc/self/mountinfo").write_text(MOUNTS.format("/var/lib/ktls-other") + MOUNTS.format("/"))
    assert undeploy(deployed).changed


@pytest.mark.parametrize("text", ["", "no JSON", "[1]", '{"root": 3, "certificates": [null, {"key": null}]}'])
def test_a_configuration_that_names_nothing(text: str) -> None:
    assert list(theirs._served(text)) == []


def test_a_tree_with_a_name_that_begins_alike_is_another() -> None:
    assert theirs.inside(("/var/lib/ktls",), ("/var/lib/ktls-files", "/var/lib/ktls/x", "/srv")) == {
        "/var/lib/ktls/x": "/var/lib/ktls"
    }

# SPDX-License-Identifier: Apache-2.0
"""Whatever a component puts on a host stands in a footprint: a new unit or command cannot be forgotten."""

from __future__ import annotations

import re
from pathlib import Path

from ktls_host import flag_setup, release
from ktls_host.undeploy.footprint import Footprint, merged
from ktls_host.undeploy.footprints import ALL

ROOT = Path(__file__).resolve().parents[3]
TOGETHER = merged(ALL)
UNITS = ROOT / "agent" / "units"


def test_every_unit_of_the_release() -> None:
    names = {path.name for path in UNITS.iterdir() if path.suffix in (".service", ".socket", ".timer", ".path")}
    assert names == set(TOGETHER.units)
    assert {f"/etc/systemd/system/{name}" for name in names} <= set(TOGETHER.files)


def test_every_command() -> None:
    for component in release.COMPONENTS:
        assert set(release.links(component)) <= set(TOGETHER.links)


def test_everything_that_a_unit_says_is_made() -> None:
    said = "".join(path.read_text() for path in UNITS.iterdir())
    for directive, places in (("StateDirectory", "/var/lib/"), ("RuntimeDirectory", "/run/")):
        for name in re.findall(rf"^{directive}=(\S+)", said, re.MULTILINE):
            assert covered(f"{places}{name}"), name
    for path in re.findall(r"^ListenStream=(/\S+)", said, re.MULTILINE):
        assert covered(path), path


def test_everything_of_tmpfiles_and_sysusers() -> None:
    for line in (UNITS / "ktls.tmpfiles.conf").read_text().splitlines():
        if line and not line.startswith("#"):
            path = line.split()[1]
            assert covered(path) or path == "/var/lib/ktls-levers", line
    users = re.findall(r"^u (\S+)", (UNITS / "ktls.sysusers.conf").read_text(), re.MULTILINE)
    groups = re.findall(r"^g (\S+)", (UNITS / "ktls.sysusers.conf").read_text(), re.MULTILINE)
    assert (set(users), set(users + groups)) == (set(TOGETHER.users), set(TOGETHER.groups))


def test_everything_of_the_pull() -> None:
    for path in (flag_setup.CONFIG, flag_setup.SIGNERS, flag_setup.CA):
        assert path in TOGETHER.files
    assert covered(flag_setup.STATE_DIR)


def test_users_are_described_so_that_they_are_known_again() -> None:
    """Where no record tells, ``looks_ours`` goes by this."""
    for line in (UNITS / "ktls.sysusers.conf").read_text().splitlines():
        if line.startswith("u "):
            assert re.match(r'u ktls-\S+ - "kTLS [^"]+" / /usr/sbin/nologin\Z', line), line


def test_names_are_absolute_and_no_tree_is_shared() -> None:
    for part in ALL:
        for path in (*part.files, *part.guests, *part.state, *part.directories, *(link for link, _ in part.links)):
            assert path.startswith("/")
        for path in part.state:
            assert "ktls" in path.split("/")[-1], f"{path} is not ours alone"


def test_merging_keeps_order_and_drops_twins() -> None:
    one, two = Footprint("a", units=("x", "y"), files=("/a",)), Footprint("b", units=("y", "z"))
    assert (merged((one, two)).units, merged((one, two)).files) == (("x", "y", "z"), ("/a",))


def covered(path: str) -> bool:
    return any(re.fullmatch(pattern.replace("*", "[^/]*"), path) for pattern in TOGETHER.state)

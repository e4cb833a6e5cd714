# SPDX-License-Identifier: Apache-2.0
"""Image definitions: the ones that ship, and malformed ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ktls_lab import apt, build, customize, images
from ktls_lab.errors import LabError

GOOD = """
description: a test
suite: trixie
sources: [{url: "http://mirror.invalid/debian", suite: trixie, components: [main]}]
kernel_package: linux-image-cloud-amd64
packages: [systemd, python3]
memory_mib: 512
disk_mib: 2048
expect: {kernel: "6.12", openssl: "3.5", python: "3.13"}
"""


def write(directory: Path, **files: str) -> Path:
    for name, text in files.items():
        (directory / f"{name}.yml").write_text(text, encoding="utf-8")
    return directory


def test_the_shipped_images() -> None:
    assert images.names() == ["debian12", "debian13", "debian13-backports"]
    by_name = {name: images.load(name) for name in images.names()}
    assert by_name["debian12"].suite == "bookworm"
    assert by_name["debian12"].packages == by_name["debian13"].packages
    assert all("bookworm" in source.suite for source in by_name["debian12"].sources)
    assert by_name["debian13"].kernel_from is None
    backports = by_name["debian13-backports"]
    assert backports.kernel_from == "trixie-backports"
    assert [source.suite for source in backports.sources][-1] == "trixie-backports"
    assert backports.sources[:-1] == by_name["debian13"].sources
    assert {image.memory_mib for image in by_name.values()} == {512}


def test_extends_inherits_and_overrides(tmp_path: Path) -> None:
    write(tmp_path, base=GOOD, child="extends: base\nextra_packages: [nginx]\nmemory_mib: 768\n")
    child, base = images.load("child", tmp_path), images.load("base", tmp_path)
    assert child.packages == (*base.packages, "nginx")
    assert (child.memory_mib, base.memory_mib) == (768, 512)
    assert child.suite == base.suite


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (GOOD.replace("suite: trixie\n", "", 1), "missing suite"),
        (GOOD + "colour: red\n", "unknown key colour"),
        (GOOD.replace("512", "'512'"), "memory_mib must be a number"),
        (GOOD.replace("512", "true"), "memory_mib must be a number"),
        (GOOD.replace("512", "64"), "at least 256"),
        (GOOD.replace("[systemd, python3]", "systemd python3"), "packages must be a list"),
        (GOOD.replace("[systemd, python3]", "['two words']"), "packages must be a list"),
        (GOOD.replace("sources: [{", "sources: {").replace("[main]}]", "[main]}"), "sources must be a list"),
        (GOOD.replace("components: [main]", "components: main"), "each source needs"),
        (GOOD.replace(", components: [main]", ""), "each source needs"),
        (GOOD.replace("sources: [{", "sources: [] #"), "at least one apt source"),
        (GOOD + "kernel_from: sid\n", "not the suite of any source"),
        (GOOD.replace('kernel: "6.12"', "kernel: 6.12"), "expect needs exactly"),
        (GOOD.replace(', python: "3.13"', ""), "expect needs exactly"),
        ("- a list\n", "must be a mapping"),
        ("a: [1,\n", "not YAML"),
        ("extends: broken\n", "goes in a circle"),
        ("extends: nowhere\n", "no image 'nowhere'"),
    ],
)
def test_malformed_definitions_are_refused_in_one_line(tmp_path: Path, text: str, complaint: str) -> None:
    write(tmp_path, broken=text)
    with pytest.raises(LabError) as caught:
        images.load("broken", tmp_path)
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["debian99", "../debian13", ""])
def test_unknown_image_names_the_known_ones(name: str) -> None:
    with pytest.raises(LabError, match="choose one of debian12, debian13, debian13-backports"):
        images.load(name)


def test_digest_changes_with_content_and_not_with_words(tmp_path: Path) -> None:
    write(
        tmp_path,
        base=GOOD,
        words=GOOD.replace("a test", "other words").replace('"3.13"', '"3.14"'),
        more=GOOD.replace("python3]", "python3, nginx]"),
    )
    base, words, more = (images.load(name, tmp_path) for name in ("base", "words", "more"))
    # The name is part of the digest too, so compare under one name.
    digests = [image.digest(b"x") for image in (base, *(replace(o, name="base") for o in (words, more)))]
    assert digests[0] == digests[1] != digests[2]
    assert base.digest(b"y") != digests[0]


def test_mmdebstrap_command_of_a_backports_kernel() -> None:
    image = images.load("debian13-backports")
    argv = build.mmdebstrap_argv(image, Path("/t/tree"), Path("/t/staging"), ['Acquire::Retries "3"'])
    include = next(word for word in argv if word.startswith("--include=")).removeprefix("--include=").split(",")
    assert include[0] == "linux-image-cloud-amd64/trixie-backports"
    assert set(image.packages) < set(include)
    assert '--aptopt=Acquire::Retries "3"' in argv
    suite = argv.index("trixie")
    assert argv[suite + 1] == "/t/tree"
    assert argv[-1] == "deb http://deb.debian.org/debian trixie-backports main"


def test_apt_settings_that_travel_into_a_build() -> None:
    dump = "\n".join(
        [
            'Acquire "";',
            'Acquire::http::Proxy "http://proxy.example:3128";',
            'Acquire::http::Proxy::mirror.example "DIRECT";',
            'Acquire::https::CaInfo "/etc/ssl/proxy-ca.pem";',
            'Acquire::Check-Valid-Until "false";',
            'Acquire::https::Verify-Peer "false";',
            'Acquire::AllowInsecureRepositories "1";',
            'APT::Get::AllowUnauthenticated "1";',
            'Acquire::https::Proxy "";',
            'Dir::Cache "var/cache/apt";',
        ]
    )
    assert apt.options_from_dump(dump) == [
        'Acquire::http::Proxy "http://proxy.example:3128"',
        'Acquire::http::Proxy::mirror.example "DIRECT"',
        'Acquire::https::CaInfo "/etc/ssl/proxy-ca.pem"',
        'Acquire::Check-Valid-Until "false"',
        'Acquire::Retries "3"',
    ]


def test_customize_turns_a_tree_into_a_lab_host(tmp_path: Path) -> None:
    for path in (
        "boot/vmlinuz-6",
        "boot/initrd.img-6",
        "boot/config-6",
        "etc/ssh/ssh_host_rsa_key",
        "etc/apt/apt.conf.d/99mmdebstrap",
        "etc/machine-id",
    ):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("old", encoding="ascii")
    (tmp_path / "etc/systemd/system/sshd.service.wants").mkdir(parents=True)
    customize.customize(tmp_path)
    assert [path.name for path in (tmp_path / "boot").iterdir()] == ["config-6"]
    assert not (tmp_path / "etc/ssh/ssh_host_rsa_key").exists(), "a key shared by all clones"
    assert not (tmp_path / "etc/apt/apt.conf.d/99mmdebstrap").exists(), "this machine's proxy"
    assert len((tmp_path / "etc/machine-id").read_text(encoding="ascii").strip()) == 32
    assert (tmp_path / "srv/ktls/large.bin").stat().st_size == 4 * 1024 * 1024
    wanted = tmp_path / "etc/systemd/system/multi-user.target.wants/ktls-lab-guest.service"
    assert (tmp_path / wanted.readlink().relative_to("/")).is_file()
    assert not (tmp_path / "etc/ktls-lab/identity").exists()
    condition = (tmp_path / "etc/systemd/system/ssh.service.d/ktls-lab.conf").read_text(encoding="utf-8")
    assert "ConditionPathExists=/etc/ktls-lab/identity" in condition

# SPDX-License-Identifier: Apache-2.0
"""Image definitions: the ones that ship, and malformed ones."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from ktls_lab import api, apt, build, customize, images, rebuild, rig, tools
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
REBUILD = """
rebuild:
  - source: gnutls28
    configure: {CONFIGUREARGS: [--enable-ktls]}
    packages: [libgnutls30t64]
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
    assert not any(image.rebuild for image in by_name.values())


def test_the_image_with_a_rebuilt_gnutls_is_only_built_when_named() -> None:
    assert images.names(opt_in=True) == sorted([*images.names(), "debian13-bench", "debian13-gnutls"])
    image, base = images.load("debian13-gnutls"), images.load("debian13")
    assert (image.opt_in, base.opt_in) == (True, False)
    assert (image.sources, image.kernel_package, image.kernel_from) == (base.sources, base.kernel_package, None)
    (wanted,) = image.rebuild
    assert (wanted.source, wanted.variable, wanted.flags) == ("gnutls28", "CONFIGUREARGS", ("--enable-ktls",))
    assert "libgnutls30t64" in wanted.packages


def test_a_malformed_opt_in_is_not_left_out_but_said(tmp_path: Path) -> None:
    write(
        tmp_path, good=GOOD, quiet=GOOD + "opt_in: true\n", broken=GOOD + "opt_in: 'true'\n", child="extends: quiet\n"
    )
    assert images.names(tmp_path) == ["broken", "good"]
    with pytest.raises(LabError, match="opt_in must be true or false"):
        images.load("broken", tmp_path)
    with pytest.raises(LabError, match="choose one of broken, child, good, quiet"):
        images.load("other", tmp_path)


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
        (GOOD + "opt_in: 1\n", "opt_in must be true or false"),
        (GOOD + "rig: maybe\n", "rig must be true or false"),
        (GOOD + "masked: [../x.service]\n", "is not the name of a service"),
        (GOOD + "rebuild: gnutls28\n", "rebuild must be a list"),
        (GOOD + REBUILD.replace("    packages: [libgnutls30t64]\n", ""), "each rebuild needs exactly"),
        (GOOD + REBUILD + "    colour: red\n", "each rebuild needs exactly"),
        (GOOD + REBUILD.replace("gnutls28", "gnutls28;reboot"), "each rebuild needs exactly"),
        (GOOD + REBUILD.replace("gnutls28", "../gnutls28"), "each rebuild needs exactly"),
        (GOOD + REBUILD.replace("CONFIGUREARGS", "'A := $(shell reboot)'"), "each rebuild needs exactly"),
        (GOOD + REBUILD.replace("{CONFIGUREARGS: [--enable-ktls]}", "[--enable-ktls]"), "each rebuild needs exactly"),
        (GOOD + REBUILD.replace("]}", "], OTHER: [--x]}"), "each rebuild needs exactly"),
        (GOOD + REBUILD.replace("--enable-ktls", "'--enable-ktls $(reboot)'"), "each rebuild needs exactly"),
        (GOOD + REBUILD.replace("--enable-ktls", ""), "each rebuild needs exactly"),
        (GOOD + REBUILD.replace("[libgnutls30t64]", "libgnutls30t64"), "each rebuild needs exactly"),
        (GOOD + REBUILD.replace("[libgnutls30t64]", "['*']"), "each rebuild needs exactly"),
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


def test_digest_of_an_image_with_something_rebuilt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(
        tmp_path,
        base=GOOD,
        same=GOOD + "rebuild: []\nopt_in: true\n",
        ktls=GOOD + REBUILD,
        other=GOOD + REBUILD.replace("--enable-ktls", "--disable-ktls"),
        more=GOOD + REBUILD.replace("30t64]", "30t64, gnutls-bin]"),
    )
    loaded = [replace(images.load(name, tmp_path), name="base") for name in ("base", "same", "ktls", "other", "more")]
    digests = [image.digest(b"x") for image in loaded]
    assert digests[0] == digests[1]
    assert len(set(digests[1:])) == 4
    places = [build.locate(image).directory for image in loaded]
    monkeypatch.setattr(rebuild, "BUILDER_VERSION", b"next")
    again = [build.locate(image).directory for image in loaded]
    assert [old == new for old, new in zip(places, again)] == [True, True, False, False, False]


def test_digest_of_an_image_with_the_rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, base=GOOD, rigged=GOOD + "rig: true\n", without=GOOD + "rig: false\n")
    base, rigged, without = (
        replace(images.load(name, tmp_path), name="base") for name in ("base", "rigged", "without")
    )
    assert base.digest(b"x") == without.digest(b"x") != rigged.digest(b"x")
    places = [build.locate(image).directory for image in (base, rigged)]
    changed = tmp_path / "tlssim"
    shutil.copytree(rig.SOURCE, changed)
    with (changed / "tlssim.c").open("a", encoding="utf-8") as source:
        source.write("/* changed */\n")
    monkeypatch.setattr(rig, "SOURCE", changed)
    again = [build.locate(image).directory for image in (base, rigged)]
    assert [old == new for old, new in zip(places, again)] == [True, False]


def test_a_masked_unit_does_not_run_and_makes_another_image(tmp_path: Path) -> None:
    write(tmp_path, base=GOOD, masked=GOOD + "masked: [web.service]\n")
    base, masked = (replace(images.load(name, tmp_path), name="base") for name in ("base", "masked"))
    assert base.digest(b"x") != masked.digest(b"x")
    (tmp_path / "etc/systemd/system").mkdir(parents=True)
    customize.mask(tmp_path, masked.masked)
    assert (tmp_path / "etc/systemd/system/web.service").readlink() == Path("/dev/null")


def test_the_images_with_the_rig() -> None:
    assert {name: images.load(name).rig for name in images.names(opt_in=True)} == {
        "debian12": True,
        "debian13": True,
        "debian13-backports": True,
        "debian13-bench": False,
        "debian13-gnutls": False,
    }
    with pytest.raises(LabError, match=r"image debian13-bench has no offload rig .* choose of debian12, debian13"):
        api.up("rigless", 1, "debian13-bench", rig=True)


def test_source_packages_are_believed_only_when_signed_by_debian() -> None:
    lines = [source.source_line(tools.KEYRING) for source in images.load("debian13-gnutls").sources]
    assert lines[0] == (
        "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian trixie main"
    )
    assert not any("trusted" in line for line in lines)


def test_mmdebstrap_commands_of_a_rebuild() -> None:
    image = images.load("debian13-gnutls")
    argv = rebuild.mmdebstrap_argv(image, image.rebuild[0], Path("/t/a b/tree"), Path("/t/a b/build"), ['X "y"'])
    assert argv[-4:] == ["/t/a b/tree", *(source.line() for source in image.sources)]
    assert '--aptopt=X "y"' in argv
    hooks = [word.removeprefix("--customize-hook=") for word in argv if word.startswith("--customize-hook=")]
    assert hooks[0].endswith("--build-profiles nocheck,nodoc --arch-only build-dep '/t/a b/build'/*.dsc")
    assert hooks[1] == "copy-in '/t/a b/build' /"
    assert hooks[3].startswith('chroot "$1" setpriv --reuid=65534 ')
    assert hooks[3].endswith("--no-new-privs /build/run +ktls1 CONFIGUREARGS --enable-ktls")

    plain = build.mmdebstrap_argv(image, Path("/t/tree"), Path("/t/staging"), [])
    assert not any("dpkg --install" in word for word in plain)
    debs = [Path("/c/a_1_amd64.deb"), Path("/c/b_1_amd64.deb")]
    argv = build.mmdebstrap_argv(image, Path("/t/tree"), Path("/t/staging"), [], debs)
    assert [word for word in argv if word not in plain] == [
        '--customize-hook=mkdir "$1/ktls-rebuilt"',
        "--customize-hook=copy-in /c/a_1_amd64.deb /c/b_1_amd64.deb /ktls-rebuilt",
        '--customize-hook=chroot "$1" dpkg --install /ktls-rebuilt/a_1_amd64.deb /ktls-rebuilt/b_1_amd64.deb',
        '--customize-hook=rm -r "$1/ktls-rebuilt"',
    ]


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

# SPDX-License-Identifier: Apache-2.0
"""The kernel's configuration is found where each distribution puts it, and never guessed."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktls_host import kernel_config
from ktls_host.kernel_config import OPTIONS, KernelConfig

if TYPE_CHECKING:
    from tests.unit.host import systems
else:
    import systems

RELEASE = "6.9.1-test"
TEXT = "# Linux/x86 6.9.1 Kernel Configuration\nCONFIG_MODULES=y\nCONFIG_TLS=m\n# CONFIG_TLS_DEVICE is not set\n"
FOUND = {**dict.fromkeys(OPTIONS, "n"), "CONFIG_TLS": "m"}


def put(root: Path, path: str, data: bytes) -> None:
    target = root / path.lstrip("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data)


@pytest.mark.parametrize(
    ("system", "place"),
    [
        ("debian12", "/boot/config-"),
        ("debian13", "/boot/config-"),
        ("debian13-backports", "/boot/config-"),
        ("ubuntu2404", "/boot/config-"),
        ("rhel9", "/lib/modules/"),
        ("fedora", "/lib/modules/"),
    ],
)
def test_each_system(tmp_path: Path, system: str, place: str) -> None:
    found = kernel_config.probe(systems.KERNELS[system], systems.tree(system, tmp_path))
    assert found.source is not None and found.source.startswith(place)
    assert systems.KERNELS[system] in found.source
    assert found.options == {
        "CONFIG_TLS": "m",
        "CONFIG_TLS_DEVICE": "y",
        "CONFIG_TLS_TOE": "n",
        "CONFIG_MLX5_EN_TLS": "n",
        "CONFIG_CHELSIO_TLS_DEVICE": "n",
        "CONFIG_INET_DIAG": "y" if system == "rhel9" else "m",
        "CONFIG_MODULES": "y",
    }


@pytest.mark.parametrize("system", systems.RECORDED)
def test_recorded_systems_said_the_same(tmp_path: Path, system: str) -> None:
    found = kernel_config.probe(systems.KERNELS[system], systems.tree(system, tmp_path))
    assert {"source": found.source, "options": found.options} == systems.collected(system)["kernel_config"]


def test_a_kernel_that_carries_its_own(tmp_path: Path) -> None:
    """CONFIG_IKCONFIG_PROC: what the running kernel says of itself comes before any file."""
    put(tmp_path, "/proc/config.gz", gzip.compress(TEXT.encode()))
    put(tmp_path, f"/boot/config-{RELEASE}", b"CONFIG_TLS=y\n")
    found = kernel_config.probe(RELEASE, str(tmp_path))
    assert (found.source, found.options) == ("/proc/config.gz", {**FOUND, "CONFIG_MODULES": "y"})


@pytest.mark.parametrize("place", kernel_config.places(RELEASE)[1:])
def test_each_place_alone(tmp_path: Path, place: str) -> None:
    put(tmp_path, place, TEXT.encode())
    assert kernel_config.probe(RELEASE, str(tmp_path)) == KernelConfig(place, {**FOUND, "CONFIG_MODULES": "y"})


def test_the_file_of_another_kernel_says_nothing(tmp_path: Path) -> None:
    put(tmp_path, "/boot/config-6.9.2-test", TEXT.encode())
    assert kernel_config.probe(RELEASE, str(tmp_path)) == KernelConfig(None, {})


GOOD = gzip.compress(TEXT.encode())


@pytest.mark.parametrize(
    "raw",
    [
        gzip.compress(b""),
        b"",
        b"not gzip",
        GOOD[:-9],
        GOOD[:12],
        GOOD[:14] + b"\xff\xff\xff\xff" + GOOD[18:],
        GOOD[:-8] + b"\0" * 8,
    ],
    ids=["nothing in it", "empty", "other", "cut", "header only", "broken data", "wrong sum"],
)
def test_a_broken_file_is_passed_over(tmp_path: Path, raw: bytes) -> None:
    put(tmp_path, "/proc/config.gz", raw)
    place = f"/lib/modules/{RELEASE}/config"
    put(tmp_path, place, b"CONFIG_TLS=y\n")
    found = kernel_config.probe(RELEASE, str(tmp_path))
    assert (found.source, found.options["CONFIG_TLS"]) == (place, "y")


def test_a_file_that_names_no_option_is_passed_over(tmp_path: Path) -> None:
    """Cut off by a full disk, say: it must not look like a kernel without everything."""
    put(tmp_path, f"/boot/config-{RELEASE}", b"#\n# Automatically generated file\n")
    assert kernel_config.probe(RELEASE, str(tmp_path)) == KernelConfig(None, {})


def test_a_directory_in_the_way_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / f"boot/config-{RELEASE}").mkdir(parents=True)
    assert kernel_config.probe(RELEASE, str(tmp_path)).source is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("CONFIG_TLS=y\n", "y"),
        ("CONFIG_TLS=m", "m"),
        ("# CONFIG_TLS is not set\n", "n"),
        ("CONFIG_TLS_DEVICE=y\nCONFIG_NVME_TCP_TLS=y\n", "n"),
        (" CONFIG_TLS=y\n", "n"),
        ("#CONFIG_TLS=y\n", "n"),
        ("CONFIG_TLS=y\r\n", "y"),
        ("", "n"),
    ],
)
def test_parse(text: str, value: str) -> None:
    assert kernel_config.parse(text)["CONFIG_TLS"] == value


@given(st.text())
def test_parse_names_every_option_and_no_other(text: str) -> None:
    assert tuple(kernel_config.parse(text)) == OPTIONS


@given(st.dictionaries(st.sampled_from(OPTIONS), st.sampled_from("ymn")))
def test_parse_reads_what_kconfig_writes(options: dict[str, str]) -> None:
    lines = [f"# {name} is not set" if value == "n" else f"{name}={value}" for name, value in options.items()]
    assert kernel_config.parse("\n".join(lines)) == {**dict.fromkeys(OPTIONS, "n"), **options}

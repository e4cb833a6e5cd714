# SPDX-License-Identifier: Apache-2.0
"""What is in the collection's archive, and what is not: no lab, no rig, no tests, nobody's keys."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import tomllib
import yaml

from tools import collection

ROOT = Path(__file__).resolve().parents[3]
#: Everything that may be in the archive, by pattern; ``*`` stands for one name.
ALLOWED = [
    re.compile(pattern)
    for pattern in (
        r"(CHANGELOG|README)\.md|LICENSE|MANIFEST\.json|FILES\.json|requirements\.txt|bindep\.txt",
        r"agent/ktls\.pyz",
        r"awx/[\w-]+\.json",
        r"changelogs/(changelog|config)\.yaml",
        r"docs/(decisions/)?[\w.-]+\.md",
        r"docs/images/[\w-]+\.(png|svg)",
        r"meta/(runtime|execution-environment)\.yml",
        r"playbooks/(vars/)?\w+\.yml",
        r"plugins/(action|callback|filter|modules|plugin_utils)/\w+\.py",
        r"plugins/(callback|filter)/\w+\.yml",
        r"plugins/module_utils/ktls_host/(\w+/)*\w+\.py",
        r"plugins/module_utils/ktls_host/py\.typed",
        r"plugins/plugin_utils/ktls_control/(\w+/)*\w+\.py",
        r"plugins/plugin_utils/ktls_control/templates/\w+\.(sh|html\.j2)",
        r"roles/\w+/(defaults|handlers|meta|tasks|vars)/\w+\.yml",
        r"roles/\w+/templates/[\w.-]+\.j2",
        r"roles/\w+/README\.md",
    )
]
#: What the checkout's own build has besides: links and sources.
OF_THE_CHECKOUT = {"agent", "control", "library", "pyproject.toml", "requirements"}


def members(archive: Path) -> list[tarfile.TarInfo]:
    with tarfile.open(archive) as opened:
        return opened.getmembers()


def test_it_has_what_it_should_and_nothing_else(archive: Path) -> None:
    found = members(archive)
    assert [one.name for one in found if not (one.isfile() or one.isdir())] == [], "links"
    files = [one.name for one in found if one.isfile()]
    assert [name for name in files if not any(pattern.fullmatch(name) for pattern in ALLOWED)] == []


def test_everything_of_the_checkout_that_belongs_to_it_is_in_it(archive: Path) -> None:
    files = {one.name for one in members(archive) if one.isfile()}
    for wanted in ("playbooks/*.yml", "roles/*/*/*.yml", "plugins/action/*.py", "plugins/filter/*", "docs/*.md"):
        for path in ROOT.glob(wanted):
            assert path.relative_to(ROOT).as_posix() in files
    assert {f"plugins/modules/{path.name}" for path in (ROOT / "library").glob("*.py")} <= files
    for package, place in (
        ("agent/ktls_host", "module_utils/ktls_host"),
        ("control/ktls_control", "plugin_utils/ktls_control"),
    ):
        for path in (ROOT / package).rglob("*.py"):
            assert f"plugins/{place}/{path.relative_to(ROOT / package).as_posix()}" in files


def test_nobodys_secrets_and_nothing_of_this_machine(archive: Path) -> None:
    with tarfile.open(archive) as opened:
        for one in opened:
            file = opened.extractfile(one)
            content = file.read() if file else b""
            assert not re.search(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----\n", content), one.name
            assert str(ROOT).encode() not in content, one.name
            assert (one.uname, one.gname) in {("", ""), ("root", "root")}, one.name


def test_versions_are_one(archive: Path, installed: Path) -> None:
    galaxy = yaml.safe_load((ROOT / "galaxy.yml").read_text())
    about = json.loads((installed / "MANIFEST.json").read_text())["collection_info"]
    assert (
        about["version"]
        == galaxy["version"]
        == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    )
    assert archive.name == f"ktls-fleet-{galaxy['version']}.tar.gz"
    release = subprocess.run(
        [sys.executable, "-I", str(installed / "agent/ktls.pyz"), "version"], capture_output=True, text=True, check=True
    )
    assert json.loads(release.stdout)["version"].startswith(f"{galaxy['version']}+")


def test_what_galaxy_shows_is_filled_in(installed: Path) -> None:
    about = json.loads((installed / "MANIFEST.json").read_text())["collection_info"]
    assert (about["namespace"], about["name"], about["license_file"]) == ("ktls", "fleet", "LICENSE")
    for key in ("authors", "description", "tags", "repository", "documentation", "homepage", "issues", "readme"):
        assert about[key], key
    assert all(re.fullmatch(r"[a-z][a-z0-9]*", tag) for tag in about["tags"])
    assert about["dependencies"] == {}


def test_a_build_in_the_checkout_has_no_lab_and_no_tests_either(tmp_path: Path) -> None:
    """``ansible-galaxy collection build`` and an installation from git go by ``build_ignore``."""
    subprocess.run(
        [sys.executable, "-m", "ansible", "galaxy", "collection", "build", "--output-path", str(tmp_path), str(ROOT)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    (built,) = tmp_path.glob("*.tar.gz")
    top = {one.name.split("/")[0] for one in members(built)}
    published = {name.split("/")[0] for name in collection.CONTENT} - {"galaxy.yml"}
    assert top == published | OF_THE_CHECKOUT | {"MANIFEST.json", "FILES.json"}
    assert not [one.name for one in members(built) if one.name.endswith(".pyz") or "__pycache__" in one.name]


def test_what_lies_around_in_a_checkout_stays_there(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    shutil.copytree(ROOT, checkout, symlinks=True, ignore=shutil.ignore_patterns(".venv", ".git", "build", ".cache"))
    for litter in ("roles/ktls_host/.vault_pass", "playbooks/site.retry", "docs/.notes.md", "inventory.ini", "key.pem"):
        (checkout / litter).write_text("mine")
    staged = collection.stage(tmp_path / "staged", checkout)
    assert not [path for path in staged.rglob("*") if path.is_file() and path.read_bytes() == b"mine"]


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(collection.BuildError, match=r"CHANGELOG\.md is missing; check out the whole repository"):
        collection.stage(tmp_path / "staged", tmp_path)

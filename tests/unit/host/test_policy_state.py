# SPDX-License-Identifier: Apache-2.0
"""The crypto policy in force, read from the files that update-crypto-policies leaves."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktls_host import isolated, originals, policy_state
from ktls_host.policy_state import PolicyState

if TYPE_CHECKING:
    from tests.unit.host import systems
else:
    import systems

SHARED = "/usr/share/crypto-policies/DEFAULT"


@pytest.mark.parametrize("system", [*systems.RECORDED, "ubuntu2404"])
def test_without_crypto_policies(tmp_path: Path, system: str) -> None:
    assert policy_state.probe(systems.tree(system, tmp_path)) == PolicyState()


def test_fedora(tmp_path: Path) -> None:
    """Nothing local: each back end is a link."""
    backends = {"gnutls": f"{SHARED}/gnutls.txt", "openssl": f"{SHARED}/opensslcnf.txt"}
    assert policy_state.probe(systems.tree("fedora", tmp_path)) == PolicyState(True, "DEFAULT", backends)


def test_rhel_with_a_file_of_ours(tmp_path: Path) -> None:
    """The one back end that something local is appended to is a file."""
    state = policy_state.probe(systems.tree("rhel9", tmp_path))
    assert state == PolicyState(
        True,
        "DEFAULT:NO-SHA1",
        {"gnutls": "/etc/crypto-policies/back-ends/gnutls.config", "openssl": f"{SHARED}/opensslcnf.txt"},
        ("gnutls-ktls.config",),
    )
    assert json.loads(json.dumps(state.as_dict())) == state.as_dict()


def test_the_policy_in_force_counts_and_not_the_one_that_is_wanted(tmp_path: Path) -> None:
    """Between an edit of config and update-crypto-policies."""
    root = systems.tree("fedora", tmp_path)
    config = Path(root) / "etc/crypto-policies/config"
    config.write_text("FUTURE\n")
    assert policy_state.probe(root).policy == "DEFAULT"
    (Path(root) / "etc/crypto-policies/state/current").unlink()
    assert policy_state.probe(root).policy == "FUTURE"
    config.unlink()
    assert policy_state.probe(root) == PolicyState(True, None, policy_state.probe(root).backends)


def test_only_what_update_crypto_policies_reads_is_local(tmp_path: Path) -> None:
    """A name that ends otherwise, as some guides have it, is never appended."""
    root = systems.tree("fedora", tmp_path)
    for name in ("gnutls-ktls.txt", "gnutls-ktls.config~", "opensslcnf-ktls.config", "gnutls-b.config"):
        (Path(root) / "etc/crypto-policies/local.d" / name).touch()
    assert policy_state.probe(root).local == ("gnutls-b.config", "opensslcnf-ktls.config")


def test_a_link_that_leads_nowhere_is_shown_as_it_is(tmp_path: Path) -> None:
    root = systems.tree("fedora", tmp_path)
    link = Path(root) / "etc/crypto-policies/back-ends/gnutls.config"
    link.unlink()
    link.symlink_to("gone")
    assert policy_state.probe(root).backends["gnutls"] == "gone"
    link.unlink()
    assert set(policy_state.probe(root).backends) == {"openssl"}


def test_a_file_where_the_directory_should_be(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/crypto-policies").touch()
    assert policy_state.probe(str(tmp_path)) == PolicyState()


@pytest.mark.parametrize("system", ["debian13", "fedora"])
def test_levers_that_have_something_to_put_back(tmp_path: Path, system: str) -> None:
    root = systems.tree(system, tmp_path)
    originals.save(originals.Record("module", {"loaded": False}), root)
    directory = Path(root) / originals.DIRECTORY.lstrip("/")
    (directory / "broken.json").write_text("{")
    state = policy_state.probe(root)
    assert state.levers == ("broken.json", "module")
    assert state.as_dict()["levers"] == ["broken.json", "module"]


def test_an_ordinary_user_reads_what_he_may() -> None:
    """Records of levers are root's alone."""

    def ask(emit: isolated.Emit) -> None:
        os.setgroups([])
        os.setuid(65534)
        emit(policy_state.probe(root).as_dict())

    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)
        root = systems.tree("fedora", Path(place))
        originals.save(originals.Record("module", {}), root)
        assert policy_state.probe(root).levers == ("module",)
        found = isolated.call(ask, 20)
    assert found.done, found
    assert (found.answers[0]["policy"], found.answers[0]["levers"]) == ("DEFAULT", [])


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("DEFAULT\n", "DEFAULT"),
        ("# a comment\n\n  FUTURE:AD-SUPPORT  \n", "FUTURE:AD-SUPPORT"),
        ("LEGACY\nFIPS\n", "FIPS"),
        ("#DEFAULT\n", None),
        ("", None),
    ],
)
def test_parse_policy(text: str, policy: str | None) -> None:
    assert policy_state.parse_policy(text) == policy


@given(st.text())
def test_parse_policy_never_raises(text: str) -> None:
    policy = policy_state.parse_policy(text)
    assert policy is None or (policy == policy.strip() != "" and not policy.startswith("#"))

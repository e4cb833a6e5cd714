# SPDX-License-Identifier: Apache-2.0
"""The role: its documentation, its defaults, and files that the fetcher and ssh-keygen take."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ktls_agent.pull import config
from ktls_host import flag_document, flag_setup, flag_signature
from ktls_host.flag_setup import DesiredPull, Signer
from tests import rolefiles

from .conftest import Keys

URL = "https://a.example.org/flag"


def read(name: str) -> Any:
    return rolefiles.read("ktls_pull", name)


def test_every_option_is_documented_and_has_the_default_that_is_documented() -> None:
    defaults = rolefiles.check_options("ktls_pull")
    (task,) = read("tasks/main.yml")
    assert {f"ktls_pull_{option}" for option in task["ktls.fleet.ktls_pull"]} == set(defaults)


def written(path: str, **more: Any) -> str:
    """The file that a host gets for the role's defaults and the three things that everybody has to give."""
    defaults = {key[len("ktls_pull_") :]: value for key, value in read("defaults/main.yml").items()}
    given = {"fleet": "prod", "endpoints": (URL,), "signers": (Signer("ssh-ed25519 AAAA x"),), **more}
    (spec,) = (spec for spec in flag_setup.specs(DesiredPull(**{**defaults, **given})) if spec.path == path)
    assert spec.content is not None
    return spec.content.decode()


def test_the_fetcher_takes_what_the_role_writes() -> None:
    found = config.parse(json.loads(written(flag_setup.CONFIG)), "x")
    assert found == config.PullConfig("prod", found.endpoints), "the role's defaults are those of the fetcher"
    assert (found.allowed_signers, found.status) == (flag_setup.SIGNERS, flag_setup.STATUS)
    assert Path(found.owed).parent == Path(flag_setup.STATE_DIR)
    assert config.parse(json.loads(written(flag_setup.CONFIG, ca="x")), "x").ca == flag_setup.CA


def test_ssh_keygen_takes_what_the_role_writes(keys: Keys) -> None:
    publics = [keys[name].with_suffix(".pub").read_text() for name in ("ops", "next")]
    signers = (Signer(publics[0]), Signer(publics[1].strip(), "20200101", "209912312359Z"))
    path = keys.allow(written(flag_setup.SIGNERS, signers=signers))
    for name in ("ops", "next"):
        document, signature = flag_document.split(keys.sign("off", name=name))
        allowed = flag_signature.read_signers(str(path))
        assert flag_signature.verify(document, signature, "prod", allowed).startswith("SHA256:")

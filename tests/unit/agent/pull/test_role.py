# SPDX-License-Identifier: Apache-2.0
"""The role: its documentation, its defaults, and files that the fetcher and ssh-keygen take."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

from ktls_agent.pull import config
from ktls_host import flag_document, flag_signature

from .conftest import Keys

ROLE = Path(__file__).parents[4] / "roles/ktls_pull"


def read(name: str) -> Any:
    return yaml.safe_load((ROLE / name).read_text())


def rendered(task: str, **variables: Any) -> str:
    (found,) = (one for one in read("tasks/present.yml") if one["name"] == task)
    templar = Templar(DataLoader(), variables={**read("defaults/main.yml"), **variables})

    def deep(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: deep(inner) for key, inner in value.items()}
        return templar.template(trust_as_template(value)) if isinstance(value, str) else value

    templar.available_variables = {**templar.available_variables, **deep(found.get("vars", {}))}
    text: str = templar.template(trust_as_template(found["ansible.builtin.copy"]["content"]))
    return text


def test_every_option_is_documented_and_has_the_default_that_is_documented() -> None:
    options = read("meta/argument_specs.yml")["argument_specs"]["main"]["options"]
    defaults = read("defaults/main.yml")
    assert set(options) == set(defaults)
    for name, default in defaults.items():
        assert options[name]["default"] == default, name
        assert options[name]["description"], name


def test_the_fetcher_takes_what_the_role_writes() -> None:
    variables = {"ktls_pull_fleet": "prod", "ktls_pull_endpoints": ["https://a.example.org/flag"]}
    written = json.loads(rendered("Write where the flag is served", **variables))
    found = config.parse(written, "x")
    plain = config.PullConfig("prod", found.endpoints)
    assert found == plain, "the role's defaults are those of the fetcher"
    with_ca = rendered("Write where the flag is served", **variables, ktls_pull_ca="/home/me/ca.pem")
    assert config.parse(json.loads(with_ca), "x").ca == "/etc/ktls/pull-ca.pem"


def test_ssh_keygen_takes_what_the_role_writes(keys: Keys) -> None:
    publics = [keys[name].with_suffix(".pub").read_text() for name in ("ops", "next")]
    signers = [{"key": publics[0]}, {"key": publics[1].strip(), "valid_after": "20200101", "valid_before": "20991231"}]
    text = rendered("Write who may sign", ktls_pull_fleet="prod", ktls_pull_signers=signers)
    assert text.count("\n") == 2, text
    path = keys.allow(text)
    for name in ("ops", "next"):
        document, signature = flag_document.split(keys.sign("off", name=name))
        allowed = flag_signature.read_signers(str(path))
        assert flag_signature.verify(document, signature, "prod", allowed).startswith("SHA256:")
    assert 'prod namespaces="ktls-flag",valid-after="20200101",valid-before="20991231" ssh-ed25519 ' in text

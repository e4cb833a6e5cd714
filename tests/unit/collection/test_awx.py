# SPDX-License-Identifier: Apache-2.0
"""What AWX is given: surveys in its form, about the variables that playbooks take, with the defaults that they have.

The rules for a survey are those of ``JobTemplateSurveySpec._validate_spec_data`` in AWX (awx/api/views/__init__.py); no
AWX runs here. That playbooks take the answers as AWX gives them is in ``tests/orchestration/test_collection.py``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2
import jinja2.nodes
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
VERBS = ("rollout", "off", "drill")
KINDS: dict[str, Any] = {"text": str, "textarea": str, "integer": int, "float": float, "multiplechoice": str}
REQUIRED = {"question_name", "question_description", "required", "type", "variable", "default"}
#: What a playbook takes and a survey does not ask, and why.
NOT_ASKED = {
    "rollout": {
        "ktls_off": "off has a template of its own, which waits for nobody",
        "ktls_waves_file": "a file of the control node; the survey asks what is in it",
    },
    "off": {
        "ktls_off_hosts": "for rollout.yml, which imports it",
        "ktls_off_command": "of the inventory, where a host has its ktls-off elsewhere",
    },
    "drill": {"ktls_drill_fleet": "for the ktls command, which knows the fleet by another name"},
}
OF_THE_INVENTORY = {"ktls_agent_socket"}


def survey(verb: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((ROOT / "awx" / f"survey-{verb}.json").read_text())
    return loaded


def questions(verb: str) -> dict[str, dict[str, Any]]:
    return {question["variable"]: question for question in survey(verb)["spec"]}


def texts(loaded: object, key: str = "") -> Iterator[str]:
    """Every template in a playbook, and every condition, as a template."""
    if isinstance(loaded, dict):
        for name, value in loaded.items():
            yield from texts(value, str(name))
    elif isinstance(loaded, list):
        for value in loaded:
            yield from texts(value, key)
    elif isinstance(loaded, str):
        yield f"{{{{ {loaded} }}}}" if key in ("when", "changed_when") else loaded


def made_here(loaded: object) -> Iterator[str]:
    """Variables that a playbook sets itself: registered, in ``vars``, or as facts."""
    if isinstance(loaded, list):
        for value in loaded:
            yield from made_here(value)
    elif isinstance(loaded, dict):
        for name, value in loaded.items():
            if name == "register":
                yield str(value)
            elif name in ("vars", "ansible.builtin.set_fact"):
                yield from value
            yield from made_here(value)


def taken(verb: str) -> set[str]:
    """The variables that a playbook takes from whoever runs it."""
    loaded = yaml.safe_load((ROOT / "playbooks" / f"{verb}.yml").read_text())
    parsed = [jinja2.Environment().parse(text) for text in texts(loaded)]
    used = {node.name for template in parsed for node in template.find_all(jinja2.nodes.Name)}
    if verb == "rollout":
        used |= set(yaml.safe_load((ROOT / "playbooks/vars/waves.yml").read_text()))
        made = set(made_here(loaded)) - {"ktls_off_hosts"}
        used -= {"ktls_off_hosts"}
    else:
        made = set(made_here(loaded))
    return {name for name in used - made if name.startswith("ktls_")}


@pytest.mark.parametrize("verb", VERBS)
def test_it_is_a_survey_that_awx_takes(verb: str) -> None:
    spec = survey(verb)
    assert set(spec) == {"name", "description", "spec"}
    assert len(questions(verb)) == len(spec["spec"]) > 0, "a variable is asked for twice"
    for question in spec["spec"]:
        name = question["variable"]
        assert REQUIRED <= set(question) <= REQUIRED | {"choices", "min", "max"}, name
        assert type(question["required"]) is bool
        kind = KINDS[question["type"]]
        assert type(question["default"]) is kind, name
        for bound in ("min", "max"):
            assert question.get(bound) is None or type(question[bound]) is int, f"{name}: AWX takes integers only"
        if question["type"] == "multiplechoice":
            # An empty default makes whoever launches the job choose.
            assert question["default"] in [*question["choices"], *[""] * question["required"]], name
            assert all(type(choice) is str for choice in question["choices"]), name
        else:
            assert "choices" not in question
        if kind in (int, float):
            assert question["min"] <= question["default"] <= question["max"], name


@pytest.mark.parametrize("verb", VERBS)
def test_it_asks_for_what_the_playbook_takes_and_for_nothing_else(verb: str) -> None:
    asked, wanted = set(questions(verb)), taken(verb) - OF_THE_INVENTORY
    assert asked - wanted == set(), "asked for, and nobody takes it"
    assert wanted - asked == set(NOT_ASKED[verb]), "taken, and nobody asks for it"


def test_defaults_of_a_rollout_are_those_of_the_playbook() -> None:
    waves = yaml.safe_load((ROOT / "playbooks/vars/waves.yml").read_text())
    asked = questions("rollout")
    waves["ktls_waves"] = ",".join(str(size) for size in waves["ktls_waves"])
    for name, default in waves.items():
        assert asked[name]["default"] == default, name
    assert asked["ktls_lease_s"]["default"] >= asked["ktls_soak_max_s"]["default"] + 30


@pytest.mark.parametrize("verb", ["off", "drill"])
def test_defaults_are_those_of_the_playbook(verb: str) -> None:
    text = (ROOT / "playbooks" / f"{verb}.yml").read_text()
    for name, question in questions(verb).items():
        if name == "ktls_off_reason":
            continue
        found = re.search(rf"{name} \| default\(([^,)]+)(?:, true)?\)", text)
        assert found, name
        assert str(question["default"]) == found[1].strip("'"), name


def test_phases_are_those_that_there_are() -> None:
    from ktls_control.request import PHASES

    assert questions("rollout")["ktls_phase"]["choices"] == list(PHASES)
    assert set(questions("drill")["ktls_drill_phase"]["choices"]) < set(PHASES)


def test_off_waits_for_no_answer() -> None:
    """It can be launched by a webhook, a schedule or a program that knows nothing of a survey."""
    assert not any(question["required"] for question in questions("off").values())


def test_the_state_of_a_fleet_is_where_its_credential_says() -> None:
    about = json.loads((ROOT / "awx/credential-type.json").read_text())
    fields = {field["id"] for field in about["inputs"]["fields"]}
    assert about["kind"] == "cloud", "AWX has no other kind for credential types of one's own but net"
    assert about["injectors"] == {"env": {"KTLS_STATE_DIR": "{{ state_dir }}"}}
    assert fields == set(about["inputs"]["required"]) == {"state_dir"}


def test_who_launched_the_job_is_the_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    from ktls_control.rollout import control

    monkeypatch.delenv("KTLS_OPERATOR", raising=False)
    control.launched({})
    assert "awx" not in control.operator()
    control.launched({"awx_user_name": "ada"})
    assert control.operator() == "ada@awx"
    control.launched({"awx_user_name": "bob"})
    assert control.operator() == "ada@awx", "what the environment says counts"
    monkeypatch.delenv("KTLS_OPERATOR", raising=False)

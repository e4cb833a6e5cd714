# SPDX-License-Identifier: Apache-2.0
"""The tests of the pages can fail: every kind of mistake that a page can have is found in one made up for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from .grammar import faults
from .lines import commands
from .pages import MarkError, blocks
from .session import Session, steps, unsaid

PAGE = Path("made-up.md")


def found(text: str) -> list[str]:
    """What is wrong with the commands of a page."""
    return [fault for block in blocks(PAGE, text) for command in commands(block) for fault in faults(command)]


@pytest.mark.parametrize(
    "line",
    [
        "ktls off -i INVENTORY [--limit PATTERN | --host NAME ... | --wave N] [--json]",
        "ktls apply plan.yml & ktls status --watch --timeout 3600 || page-somebody",
        "KTLS_STATE_DIR=/tmp/x ktls history --json | jq .runs",
        "sudo ktls-off --status",
        "ktls flag sign --key KEY --fleet prod (--off | --none) --publish DIR",
        "ansible-playbook -i INVENTORY playbooks/rollout.yml -e @plan.yml",
        "ansible-playbook -i INVENTORY ktls.fleet.rollout -e ktls_phase=tx",
        "ansible-doc -t role -r roles ktls_sidecar",
        "make test     # every test",
        "ktls off -i INVENTORY      all of them; and nothing else",
        "ktls status [--json]        fab status [--json]",
        ".venv/bin/python -m bench.scale --docs",
    ],
)
def test_a_line_that_can_be_typed_is_right(line: str) -> None:
    assert found(f"    {line}\n") == []


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("ktls of -i INVENTORY", "ktls has no verb of"),
        ("ktls off -i INVENTORY [--everywhere]", "ktls off has no option --everywhere"),
        ("ktls plan --phase tx -o", "ktls plan: -o wants a value"),
        ("ktls apply", "the following arguments are required: PLAN"),
        ("ktls judge --replay f.json --wave two", "invalid int value"),
        ("ktls status [--json]        fab status [--table]", "fab status has no option --table"),
        ("true && ktls-agent docter", ""),
        ("ktls-agent docter", "ktls-agent has no verb docter"),
        ("ktls-off --of", "ktls-off has no option --of"),
        ("ansible-playbook -i INVENTORY playbooks/roll.yml", "playbooks/roll.yml is not there"),
        ("ansible-playbook -i INVENTORY playbooks/rollout.yml -e ktls_fase=tx", "no playbook or role knows ktls_fase"),
        ("ansible-playbook -i INVENTORY playbooks/rollout.yml --vault", "has no option --vault"),
        ("ansible web1 -i INVENTORY -m ktls.fleet.ktls_modul", "there is no module ktls.fleet.ktls_modul"),
        ("ansible-doc -t role -r roles ktls_nothing", "there is no role ktls_nothing"),
        ("make everything", "there is no target everything"),
    ],
)
def test_a_line_that_cannot_is_found(line: str, fault: str) -> None:
    if line.startswith("true"):
        line = f"```sh\n{line}\n```"
        assert found(line) == ["ktls-agent has no verb docter"]
        return
    (said,) = found(f"    {line}\n")
    assert fault in said


def test_a_fence_is_checked_line_by_line_and_a_sentence_too() -> None:
    assert found("```sh\nls\npython -m bench.skale\n```\n") == ["there is no module bench.skale"]
    assert found("```console\n$ bench/walk\nktls nonsense that it said\n```\n") == [
        "bench/walk is no program of this tree"
    ]
    assert found("Say `ktls statsu --json`, or `ktls`.\n") == ["ktls has no verb statsu"]
    assert found("```sh\nfrobnicate\n```\n") == ["frobnicate is no program that tests/docs knows"]


def test_of_a_block_with_prompts_the_rest_was_said() -> None:
    assert found("```\n$ ktls statsu\nktls rolls out\n```\n") == ["ktls has no verb statsu"]


def test_marks() -> None:
    (one, two) = blocks(PAGE, "<!-- not run: hosts -->\n```sh\nktls deploy\n```\n\n```sh\nktls --help\n```\n")
    assert (one.run, two.run, one.mark.not_run) == (False, True, "hosts")
    (fleet,) = blocks(PAGE, "<!-- run: fleet a b -->\n<!-- run: exit 1 -->\n```sh\nx\n```\n")
    assert (fleet.mark.fleet, fleet.mark.exit) == (("a", "b"), 1)
    for wrong in ("<!-- not run: lazy -->\n```sh\nx\n```\n", "<!-- not run: root -->\n\nText.\n\n```sh\nx\n```\n"):
        with pytest.raises(MarkError):
            blocks(PAGE, wrong)


def test_what_a_page_shows_has_to_be_said() -> None:
    said = "probing 3 hosts\n  tx   3 ready   0 refused\nplan.yml: 3 of 3 hosts in 2 waves after 12.5 s\n"
    assert unsaid("tx 3 ready 0 refused\n…\nplan.yml: … in 2 waves after … s\n", said) == []
    assert unsaid("tx 2 ready 0 refused\n", said) == ["tx 2 ready 0 refused"]
    assert unsaid("plan.yml: … s\ntx 3 ready 0 refused\n", said) == ["tx 3 ready 0 refused"], "the order counts"


def test_a_block_that_fails_or_says_something_else_or_could_hurt_is_found(tmp_path: Path) -> None:
    (tmp_path / "ktls-fleet").mkdir()
    one = Session(tmp_path / "ktls-fleet")
    for text, wrong in {
        "```sh\necho a\n```": "",
        "```sh\nfalse\necho a\n```": "ended with 1, not 0",
        "<!-- run: exit 1 -->\n```sh\ntrue\n```": "ended with 0, not 1",
        "```console\n$ echo a b\na  b\n$ echo c\nd\n```": "did not say: d",
        "```sh\nrm -rf /\n```": "rm is not run by tests/docs",
        "```sh\nktls lab up\n```": "ktls lab is not run by tests/docs",
        "```console\nwithout a prompt\n```": "there is no command in it",
    }.items():
        (block,) = blocks(PAGE, text + "\n")
        told = one.run(block)
        assert wrong in told[0] if wrong else told == [], (text, told)


def test_steps() -> None:
    (block,) = blocks(PAGE, "```console\n$ cat >f <<'EOF'\n$ no command\nEOF\n$ ls \\\n  -a\nf\n```\n")
    assert list(steps(block)) == [("cat >f <<'EOF'\n$ no command\nEOF\n", ""), ("ls \\\n  -a\n", "f\n")]
    assert [command.words[0] for command in commands(block)] == ["cat", "ls"]

# SPDX-License-Identifier: Apache-2.0
"""A plan's file: what is read is what was written, digest and all; what somebody changed is refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from ktls_control.errors import ControlError
from ktls_control.plan import file
from ktls_control.plan.model import Freeze, Gates, Headroom, Plan, PlannedHost, Refusal, Soak, Wave
from ktls_control.plan.yamlform import dump, parse

#: What YAML 1.1 would take for something else, and what Ansible would.
ODD = (
    "off", "on", "no", "~", "null", "1e3", "1.0e+3", "0o17", "0x1F", "017", "12:30:00", "2026-11-26", "1_000", ".inf",
    "2026-11-26T08:00:00+01:00", "=", "<<", "&a", "*a", "!tag x", "- x", "a: b", "# x", " lead", "trail ", "tab\there",
    "a\nb", "a\n", "\n", "", "'", '"', "\\", "\x00", "\x1b[31m", "\x85", "\u2028", "\ufeff", "ümlaut", "名前", "🚀",
    "%x", "{{ 7 * 7 }}", "{% raw %}", "{# x #}", "}}", "@x", "`x`", "x" * 300,
)  # fmt: skip
texts = st.sampled_from(ODD) | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
words = st.sampled_from(["off", "1e3", "0x1F", "12:30", "-", "web1", "名前", "<<", "~", "{{x}}"]) | st.from_regex(
    r"[a-z]{1,5}[0-9]{0,3}(\.example)?", fullmatch=True
)
shares = st.none() | st.floats(0, 1) | st.sampled_from([0.0, 1.0, 1e-05, 0.1 + 0.2])
seconds = st.floats(0, 1e17) | st.integers(0, 10**6).map(float)
mappings = st.dictionaries(texts, texts, max_size=3)
hosts = st.dictionaries(
    words, st.builds(PlannedHost, mappings, mappings, st.none() | st.integers(1, 512), shares), max_size=6
)
soaks = st.builds(Soak, seconds, seconds, st.integers(0, 10**9), st.integers(0, 10**12))
waves = st.builds(
    Wave, st.integers(1, 9), texts, st.lists(words, max_size=4).map(tuple), soaks, st.booleans(),
    st.dictionaries(texts, shares, max_size=3), seconds,
)  # fmt: skip
plans = st.builds(
    Plan,
    version=st.just(file.VERSION), id=texts, created=texts, phase=texts, inventory=texts, group=texts,
    limit=st.none() | texts, fleet=texts, epoch_floor=st.integers(0, 2**53), lease_s=seconds,
    failure_budget=st.integers(0, 99), hosts=hosts,
    refused=st.dictionaries(
        words, st.lists(st.builds(Refusal, texts, texts, texts), min_size=1, max_size=2).map(tuple), max_size=4
    ),
    waves=st.lists(waves, max_size=3).map(tuple), gates=st.builds(Gates, min_share=st.floats(0, 1)), caps=mappings,
    freezes=st.lists(st.builds(Freeze, texts, texts, texts), max_size=2).map(tuple),
    headroom=st.builds(Headroom, st.none() | texts, shares), expected_s=seconds,
    notes=st.lists(texts, max_size=2).map(tuple), variables=mappings, sha256=st.just(""),
)  # fmt: skip


def small(**changes: Any) -> Plan:
    """A plan by hand."""
    soak = Soak(600.0, 1800.0)
    plan = Plan(
        version=file.VERSION, id="tx-1", created="2026-11-26T08:00:00+00:00", phase="tx", inventory="/etc/fleet",
        group="ktls_hosts", limit=None, fleet="ktls_hosts-1a2b3c4d", epoch_floor=3, lease_s=1840.0, failure_budget=0,
        hosts={name: PlannedHost({"kernel": "6.12"}, {"rack": "r1"}, 8, 0.3) for name in ("web1", "web2")},
        refused={"web3": (Refusal("drill_missing", "no drill", "ktls drill"),)},
        waves=(Wave(1, "canary", ("web2",), soak), Wave(2, "wave 2", ("web1",), soak)), gates=Gates(),
    )  # fmt: skip
    return replace(plan, **changes)


def same(first: Any, second: Any) -> bool:
    """Equal, whatever kind of mapping."""
    if isinstance(first, Mapping):
        return (
            isinstance(second, Mapping) and set(first) == set(second) and all(same(first[k], second[k]) for k in first)
        )
    return bool(first == second)


@given(plans)
@settings(max_examples=60)
def test_what_is_read_is_what_was_written(plan: Plan) -> None:
    sealed = file.seal(plan)
    back = file.from_fields(parse(dump(file.to_fields(sealed)), "plan"), "plan")
    assert same(vars(back), vars(sealed))
    assert file.digest(back) == sealed.sha256 == back.sha256


@given(plans)
@settings(max_examples=60)
def test_the_digest_is_of_the_plan_and_not_of_its_order(plan: Plan) -> None:
    hosts, refused = list(plan.hosts.items()), list(plan.refused.items())
    turned = replace(plan, hosts=dict(hosts[::-1]), refused=dict(refused[::-1]))
    assert file.digest(turned) == file.digest(plan)


def test_a_file_is_loaded_as_it_was_saved(tmp_path: Path) -> None:
    saved = file.save(small(), tmp_path / "plan.yml")
    assert file.load(tmp_path / "plan.yml") == saved
    text = (tmp_path / "plan.yml").read_text()
    assert text.startswith("# ktls plan tx-1: phase tx, 2 hosts, 2 waves. Do not edit")
    assert "web1 0 8 0.3" in [line.strip() for line in text.splitlines()]
    assert list(yaml.safe_load(text)) == ["ktls_plan"]


def test_templates_are_tagged_for_ansible(tmp_path: Path) -> None:
    plan = small(notes=("{{ lookup('pipe', 'id') }}",))
    saved = file.save(plan, tmp_path / "plan.yml")
    assert "- !unsafe" in (tmp_path / "plan.yml").read_text()
    assert file.load(tmp_path / "plan.yml") == saved


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("failure_budget: 0", "failure_budget: 99"),
        ("web1 0 8 0.3", "web1 0 8 0.2"),
        ("lease_s: 1840.0", "lease_s: 1840"),
        ("phase: tx\n", "phase: rx\n"),
        ("hosts: web2\n", "hosts: web2 web9\n"),
        ("limit: null\n", "limit: null\n  more: 1\n"),
        ("created: '2026-11-26T08:00:00+00:00'", "created: 2026-11-26T08:00:00+00:00"),
    ],
)
def test_an_edited_plan_is_refused(tmp_path: Path, old: str, new: str) -> None:
    path = tmp_path / "plan.yml"
    file.save(small(), path)
    text = path.read_text()
    assert text.count(old) >= 1
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ControlError) as caught:
        file.load(path)
    assert caught.value.code == "plan_edited"
    assert "make a new plan" in caught.value.message


def test_comments_and_layout_are_free(tmp_path: Path) -> None:
    path = tmp_path / "plan.yml"
    saved = file.save(small(), path)
    path.write_text(f"# reviewed by ada\n{path.read_text()}")
    assert file.load(path) == saved


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "bad_plan"),
        ("[]", "bad_plan"),
        ("ktls_plan: 3", "bad_plan"),
        ("ktls_plan: {", "bad_plan"),
        ("a: !!python/object/apply:os.system [id]", "bad_plan"),
        ("ktls_plan: {version: 99}", "plan_version"),
        ("ktls_plan: {version: 1}", "plan_edited"),
        ("ktls_plan: {version: 1, when: 2026-01-01}", "plan_edited"),
    ],
)
def test_what_is_no_plan(tmp_path: Path, text: str, code: str) -> None:
    path = tmp_path / "plan.yml"
    path.write_text(text)
    with pytest.raises(ControlError) as caught:
        file.load(path)
    assert caught.value.code == code
    assert str(path) in caught.value.message and "\n" not in caught.value.message


def test_no_file_and_no_text(tmp_path: Path) -> None:
    with pytest.raises(ControlError, match="make one with") as caught:
        file.load(tmp_path / "plan.yml")
    assert caught.value.code == "no_plan"
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ControlError, match="not UTF-8"):
        file.load(tmp_path / "binary")


def test_a_plan_that_is_sealed_and_not_ours_has_a_message() -> None:
    fields = file.to_fields(small())
    fields["hosts"]["table"] = "web1 7 8 0.3\n"
    fields["sha256"] = file._digest(fields)
    with pytest.raises(ControlError) as caught:
        file.from_fields(fields, "plan.yml")
    assert caught.value.code == "bad_plan"


def test_a_name_with_a_blank_is_refused_before_it_makes_two_hosts_of_one() -> None:
    with pytest.raises(ControlError) as caught:
        file.seal(small(hosts={"web 1": PlannedHost({})}))
    assert caught.value.code == "bad_host_name"


def test_ten_thousand_hosts_are_no_matter_of_patience(tmp_path: Path) -> None:
    names = [f"web{n:05}.dc1.example.org" for n in range(10_000)]
    hosts = {
        name: PlannedHost({"kernel": "6.12"}, {"rack": f"r{n % 200}"}, 8, n % 80 / 100) for n, name in enumerate(names)
    }
    plan = small(hosts=hosts, waves=(Wave(1, "canary", tuple(names), Soak(1.0, 2.0)),))
    path = tmp_path / "plan.yml"
    saved = file.save(plan, path)
    assert file.load(path) == saved
    # Ansible's cost is by the scalar.
    assert sum(isinstance(event, yaml.ScalarEvent) for event in yaml.parse(path.read_text())) < 2_000

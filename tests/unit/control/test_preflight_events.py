# SPDX-License-Identifier: Apache-2.0
"""From results of the probe's task to answers: what counts as one, and what unanswered hosts say."""

from __future__ import annotations

from typing import Any

import pytest

from ktls_control.preflight import Unanswered
from ktls_control.preflight_events import PLAY, Survey, answer, registered

from .test_preflight import info

SSH = "Task failed: Failed to connect to the host via ssh: "


def event(kind: str, host: str = "web1", **fields: Any) -> dict[str, Any]:
    return {"event": kind, "play": PLAY, "task": "Preflight | Read the host", "host": host, **fields}


def test_answers_are_counted_and_silence_is_no_answer() -> None:
    survey = Survey("tx", {"web1": "192.0.2.1", "web2": "192.0.2.2", "web3": "web3", "web4": "web4"})
    assert not survey.feed({"event": "play", "play": PLAY, "hosts": ["web1"]})
    assert not survey.feed(event("start"))
    assert survey.feed(event("ok", info=info()))
    assert survey.feed(event("unreachable", "web2", msg=f"{SSH}no route to host"))
    assert survey.feed(event("ignored", "web3", msg="no python", error_code="unsafe_directory"))
    assert survey.answered == 3
    fleet = survey.result()
    said = {g.hosts: (g.verdict, g.codes, g.reasons[0].variants[0].message if g.reasons else "") for g in fleet.groups}
    assert said == {
        ("web1",): ("ready", (), ""),
        ("web2",): ("unknown", ("cut_off",), "no route to host"),
        ("web3", "web4"): ("unknown", ("no_answer",), "the probe failed (unsafe_directory): no python"),
    }
    messages = [variant.message for group in fleet.groups for r in group.reasons for variant in r.variants]
    assert "the run ended before the host answered" in messages


def test_other_plays_and_other_hosts_are_none_of_its_business() -> None:
    survey = Survey("tx", {"web1": "web1"})
    assert not survey.feed({**event("failed", msg="x"), "play": "Preflight | Report"})
    assert not survey.feed(event("ok", "localhost", info=info()))
    assert not survey.feed({"event": "stats", "play": PLAY, "hosts": {}})
    assert survey.answered == 0


def test_a_host_that_was_cut_off_is_not_ready_whatever_came_with_it() -> None:
    survey = Survey("tx", {"web1": "web1"})
    survey.feed(event("unreachable", info=info(), msg="gone"))
    assert not survey.result().all_ready


@pytest.mark.parametrize(
    ("message", "says"),
    [
        (f"{SSH}ssh: connect to host 192.0.2.7 port 22: x", "ssh: connect to host HOST port 22: x"),
        (f"{SSH}ssh: Could not resolve hostname web7: x", "ssh: Could not resolve hostname HOST: x"),
        (f"{SSH}root@192.0.2.7: Permission denied (publickey).", "root@HOST: Permission denied (publickey)."),
        (
            f"{SSH}Warning: Permanently added '192.0.2.7' (ED25519) to the list of known hosts.\r\nConnection reset",
            "Connection reset",
        ),
        (f"{SSH}connect to 192.0.2.77 for web7", "connect to 192.0.2.77 for HOST"),
        ("my-web7 and web7-b and web7.example.org", "my-web7 and web7-b and HOST.example.org"),
        ("", "no reason given"),
    ],
)
def test_hosts_with_the_same_trouble_say_the_same(message: str, says: str) -> None:
    assert answer({"unreachable": True, "msg": message}, "web7", "192.0.2.7") == Unanswered("cut_off", says)


def test_registered_results_are_read_as_events_are() -> None:
    hostvars: dict[str, dict[str, Any]] = {
        "a": {"seen": {"changed": False, "info": info()}},
        "b": {"seen": {"unreachable": True, "msg": "connect to host 192.0.2.2: x"}, "ansible_host": "192.0.2.2"},
        "c": {"seen": {"failed": True, "msg": "c: broken"}},
        "d": {},
        "not asked": {"seen": {"info": info()}},
    }
    answers = registered(hostvars, "abcd", "seen", lambda variables: variables.get("ansible_host"))
    assert answers == {
        "a": info(),
        "b": Unanswered("cut_off", "connect to host HOST: x"),
        "c": Unanswered("no_answer", "the probe failed: HOST: broken"),
        "d": Unanswered("no_answer", "the host was not asked"),
    }

# SPDX-License-Identifier: Apache-2.0
"""Webhooks: signed, verified, bounded, told of in the journal, and never in the way of the rollout."""

from __future__ import annotations

import base64
import json
import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from ktls_control.errors import ControlError
from ktls_control.notify import TRIGGERS, Config, Endpoint, Notifier, config, deliver, load, notifier, sign
from ktls_control.notify.deliver import Tried, attempt
from ktls_control.notify.triggers import Context, Message
from ktls_control.observers import Observers
from ktls_control.rollout import events as known
from tests import authority, journals

from .conftest import Stories
from .receiver import Receiver, status

SECRET = bytes(range(32))


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Certificate of 127.0.0.1, its key, and the authority."""
    place = tmp_path_factory.mktemp("pki")
    ca = authority.Authority(place)
    pair = ca.issue("receiver", ["127.0.0.1"])
    return pair.certificate, pair.key, ca.path


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notifier, "FIRST_WAIT_S", 0.01)
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)


def endpoint(url: str, ca: Path | None, *triggers: str) -> Endpoint:
    return Endpoint(url, SECRET, frozenset(triggers or TRIGGERS), str(ca) if ca else None)


def feed(found: Notifier, lines: list[dict[str, Any]], limit_s: float = 20.0) -> list[dict[str, Any]]:
    for event in lines:
        found.feed(event)
    return found.close(limit_s)


def message(trigger: str = "gate_failed") -> Message:
    return Message("run-7", 7, trigger, "text", journals.BEGIN, {"run": "run"})


# What is told


def test_the_nine_are_told_in_the_order_of_the_journal(stories: Stories) -> None:
    context, told = Context(), []
    for event in stories("failed").journal.lines:
        context.learn(event)
        found = context.message(event)
        if found:
            told.append(found.trigger)
    assert told == [
        "rollout_started", "wave_started", "gate_started", "rollout_waiting", "wave_promoted", "wave_started",
        "gate_started", "rollout_waiting", "rollout_started", "gate_inconclusive", "gate_failed", "rollout_aborted",
    ]  # fmt: skip
    ended = stories("completed").journal.lines[-1]
    found = context.message(ended)
    assert found is not None
    assert found.trigger == "rollout_completed"
    assert {*told, found.trigger} == set(TRIGGERS)
    assert len(TRIGGERS) == 9


def test_reasons_are_bounded() -> None:
    context = Context(run="r")
    verdict = {"reasons": ["x" * 10_000] * 1000}
    found = context.message({"event": "verdict", "seq": 1, "at": 1.0, "wave": 1, "outcome": "fail", "verdict": verdict})
    assert found is not None
    assert len(json.dumps(found.body())) < 25_000


# Signatures


def test_the_test_vector_of_standard_webhooks() -> None:
    secret = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    made = sign.signature(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert made == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize(
    ("change", "good"),
    [
        ({}, True),
        ({"webhook-signature": "v1,AAAA {}"}, True),
        ({"webhook-signature": "v1,AAAA"}, False),
        ({"webhook-id": "another"}, False),
        ({"webhook-timestamp": "1001"}, False),
        ({"webhook-timestamp": "soon"}, False),
        ({"webhook-signature": None}, False),
    ],
)
def test_a_receiver_sees_what_was_changed(change: dict[str, str | None], good: bool) -> None:
    made = sign.headers(SECRET, "id", 1000, b"body")
    given = {**made, **{k: v.format(made["webhook-signature"]) for k, v in change.items() if v is not None}}
    for name in (name for name, value in change.items() if value is None):
        del given[name]
    assert sign.verify(SECRET, given, b"body", 1100) is good
    assert not sign.verify(SECRET, given, b"bodY", 1100)


def test_a_replay_is_seen_by_its_time() -> None:
    made = sign.headers(SECRET, "id", 1000, b"body")
    assert sign.verify(SECRET, made, b"body", 1000 + sign.TOLERANCE_S)
    assert not sign.verify(SECRET, made, b"body", 1001 + sign.TOLERANCE_S)
    assert not sign.verify(SECRET, made, b"body", 999 - sign.TOLERANCE_S)


# Delivery, over real TLS


def test_it_arrives_signed(pki: tuple[Path, Path, Path], stories: Stories) -> None:
    certificate, key, ca = pki
    with Receiver(certificate, key) as receiver:
        done = feed(Notifier(Config((endpoint(receiver.url, ca),))), stories("completed").journal.lines)
    assert all(one["ok"] for one in done)
    assert len(done) == len(receiver.got) == 12
    for got in receiver.got:
        assert sign.verify(SECRET, got.headers, got.body, time.time())
        assert got.json["type"].removeprefix("ktls.") in TRIGGERS
        assert got.json["data"]["run"] == "20261126-060000-tx"
    assert len({got.headers["webhook-id"] for got in receiver.got}) == 12
    assert receiver.got[-1].json["text"].endswith(": completed")
    for one in done:
        assert known.problem("notified", one) is None


def test_only_what_was_asked_for(pki: tuple[Path, Path, Path], stories: Stories) -> None:
    certificate, key, ca = pki
    with Receiver(certificate, key) as receiver:
        found = Notifier(Config((endpoint(receiver.url, ca, "gate_failed", "rollout_aborted"),)))
        done = feed(found, stories("failed").journal.lines)
    assert [one["trigger"] for one in done] == ["gate_failed", "rollout_aborted"]
    assert [got.json["type"] for got in receiver.got] == ["ktls.gate_failed", "ktls.rollout_aborted"]


def test_a_receiver_that_comes_back_is_tried_again(pki: tuple[Path, Path, Path], stories: Stories) -> None:
    certificate, key, ca = pki
    codes = [503, 429, 200]
    with Receiver(certificate, key, lambda handler, number: status(handler, codes[number - 1])) as receiver:
        found = Notifier(Config((endpoint(receiver.url, ca, "rollout_completed"),)))
        done = feed(found, stories("completed").journal.lines)
    assert [one["ok"] for one in done] == [True]
    assert len(receiver.got) == 3
    # The same message: a receiver can tell.
    assert len({got.headers["webhook-id"] for got in receiver.got}) == 1


@pytest.mark.parametrize(("code", "tries"), [(500, 4), (400, 1), (404, 1), (410, 1), (301, 1)])
def test_attempts_are_bounded(pki: tuple[Path, Path, Path], stories: Stories, code: int, tries: int) -> None:
    certificate, key, ca = pki
    with Receiver(certificate, key, lambda handler, _number: status(handler, code)) as receiver:
        found = Notifier(Config((endpoint(receiver.url, ca, "rollout_completed"),)))
        done = feed(found, stories("completed").journal.lines)
    assert [one["ok"] for one in done] == [False]
    assert str(code) in done[0]["error"]
    assert len(receiver.got) == tries


def test_a_redirect_leads_nowhere(pki: tuple[Path, Path, Path]) -> None:
    certificate, key, ca = pki
    with Receiver(certificate, key) as other:

        def away(handler: BaseHTTPRequestHandler, _number: int) -> None:
            status(handler, 307, Location=other.url)

        with Receiver(certificate, key, away) as receiver:
            tried = attempt(endpoint(receiver.url, ca), message(), 10.0)
    assert tried.error is not None
    assert "redirects are not followed" in tried.error
    assert not tried.again
    assert other.got == []


def test_a_certificate_that_is_not_trusted_gets_nothing(pki: tuple[Path, Path, Path]) -> None:
    certificate, key, ca = pki
    with Receiver(certificate, key) as receiver:
        for found in (endpoint(receiver.url, None), endpoint(receiver.url.replace("127.0.0.1", "localhost"), ca)):
            tried = attempt(found, message(), 10.0)
            assert tried.error is not None
            assert "certificate not accepted" in tried.error
            assert not tried.again
    assert receiver.got == []


def test_a_slow_receiver_is_left_in_time(pki: tuple[Path, Path, Path]) -> None:
    certificate, key, ca = pki
    release = threading.Event()

    def drip(handler: BaseHTTPRequestHandler, _number: int) -> None:
        # Never quiet for long, never done: no time limit of a socket ends this.
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
        while not release.wait(0.05):
            handler.wfile.write(b"X-More: x\r\n")

    with Receiver(certificate, key, drip) as receiver:
        begun = time.monotonic()
        tried = attempt(endpoint(receiver.url, ca), message(), 0.5)
        took = time.monotonic() - begun
        release.set()
    assert tried == Tried("no answer within 0.5 s", again=True)
    assert took < 5


def test_nobody_there(pki: tuple[Path, Path, Path]) -> None:
    tried = attempt(endpoint("https://127.0.0.1:9/hook/secret-path", pki[2]), message(), 5.0)
    assert tried.again
    assert "refused" in str(tried.error)


def test_the_path_of_a_hook_is_told_to_nobody(pki: tuple[Path, Path, Path], stories: Stories) -> None:
    found = Notifier(Config((endpoint("https://127.0.0.1:9/hook/secret-path", pki[2]),)))
    done = feed(found, stories("completed").journal.lines)
    assert done
    assert "secret-path" not in json.dumps(done)
    assert "secret-path" not in repr(endpoint("https://h/secret-path", None))
    assert done[0]["error"].startswith("127.0.0.1:9: ")


def test_a_proxy_is_asked_and_only_carries(pki: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://u:p%40ss@127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    made = deliver._connection(endpoint("https://hooks.example/x", pki[2]), 5.0)
    assert (made.host, made.port) == ("127.0.0.1", 9)
    assert (made._tunnel_host, made._tunnel_port) == ("hooks.example", 443)  # type: ignore[attr-defined]
    assert base64.b64decode(made._tunnel_headers["Proxy-Authorization"].split()[1]) == b"u:p@ss"  # type: ignore[attr-defined]
    monkeypatch.setenv("no_proxy", "hooks.example")
    assert deliver._connection(endpoint("https://hooks.example/x", pki[2]), 5.0).host == "hooks.example"


# It never holds a rollout up


def test_feeding_returns_at_once_and_the_end_is_bounded(stories: Stories) -> None:
    stuck = threading.Event()

    def never(_endpoint: Endpoint, _message: Message, _limit_s: float) -> Tried:
        stuck.wait(60)
        return Tried(None)

    found = Notifier(Config((endpoint("https://a/", None), endpoint("https://b/", None))), try_once=never)
    begun = time.monotonic()
    for event in stories("completed").journal.lines:
        found.feed(event)
    assert time.monotonic() - begun < 1
    assert found.outcomes() == []
    done = found.close(0.2)
    assert time.monotonic() - begun < 5
    stuck.set()
    assert len(done) == 24
    assert {one["error"] for one in done} == {
        "a: the rollout ended before it was delivered", "b: the rollout ended before it was delivered",
    }  # fmt: skip
    time.sleep(0.05)
    assert found.outcomes() == []


def test_one_receiver_does_not_wait_for_another(stories: Stories) -> None:
    stuck = threading.Event()

    def one_is_stuck(to: Endpoint, _message: Message, _limit_s: float) -> Tried:
        if to.name == "a":
            stuck.wait(60)
        return Tried(None)

    found = Notifier(Config((endpoint("https://a/", None), endpoint("https://b/", None))), try_once=one_is_stuck)
    done = feed(found, stories("completed").journal.lines, 0.5)
    stuck.set()
    assert {one["to"] for one in done if one["ok"]} == {"b"}
    assert sum(one["ok"] for one in done) == 12


def test_what_does_not_fit_into_the_queue_is_said(monkeypatch: pytest.MonkeyPatch, stories: Stories) -> None:
    monkeypatch.setattr(notifier, "_QUEUE", 2)
    stuck = threading.Event()

    def never(_endpoint: Endpoint, _message: Message, _limit_s: float) -> Tried:
        stuck.wait(60)
        return Tried(None)

    found = Notifier(Config((endpoint("https://a/", None),)), try_once=never)
    done = feed(found, stories("completed").journal.lines, 0.1)
    stuck.set()
    assert len(done) == 12
    assert any("messages wait for this receiver" in one["error"] for one in done)


def test_a_fault_of_ours_is_an_outcome(stories: Stories) -> None:
    def broken(_endpoint: Endpoint, _message: Message, _limit_s: float) -> Tried:
        raise RuntimeError("oops")

    done = feed(Notifier(Config((endpoint("https://a/", None),)), try_once=broken), stories("completed").journal.lines)
    assert {one["error"] for one in done} == {"a: RuntimeError: oops"}


def test_after_a_resume_only_what_was_not_told_is_told() -> None:
    asked: list[str] = []

    def note(_endpoint: Endpoint, found: Message, _limit_s: float) -> Tried:
        asked.append(found.id)
        return Tried(None)

    start = {"run": "r", "fleet": "f", "phase": "tx", "epoch": 1, "operator": "o", "hosts": 1, "waves": [{}]}
    past: list[dict[str, Any]] = [
        {"seq": 1, "at": 1.0, "event": "run_started", **start},
        {"seq": 2, "at": 2.0, "event": "notified", "trigger": "rollout_started", "ok": True, "to": "a", "of": 1},
        {"seq": 3, "at": 3.0, "event": "wave_opened", "wave": 1, "hosts": ["h"]},
    ]
    found = Notifier(Config((endpoint("https://a/", None),)), past, try_once=note)
    feed(found, [{"seq": 4, "at": 4.0, "event": "run_resumed", "operator": "o", "epoch": 2}])
    assert asked == ["r-3", "r-4"]


def test_a_process_that_is_not_the_last_waits_for_nothing(stories: Stories) -> None:
    stuck = threading.Event()

    def never(_endpoint: Endpoint, _message: Message, _limit_s: float) -> Tried:
        stuck.wait(60)
        return Tried(None)

    events = stories("completed").journal.lines
    found = Notifier(Config((endpoint("https://a/", None),)), try_once=never)
    for event in events[:5]:
        found.feed(event)
    begun = time.monotonic()
    assert found.close(0.0, last=False) == []
    assert time.monotonic() - begun < 1
    stuck.set()
    again = Notifier(Config((endpoint("https://a/", None),)), events[:5], try_once=lambda *_: Tried(None))
    assert [one["trigger"] for one in again.close(10.0)] == ["rollout_started", "wave_started"]


# Configuration


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text(f"whsec_{base64.b64encode(SECRET).decode()}\n")
    path.chmod(0o600)
    return path


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "notify.yml"
    path.write_text(text)
    return path


def test_a_configuration(tmp_path: Path, secret: Path) -> None:
    text = f"endpoints:\n  - url: https://h.example:8443/x\n    secret_file: {secret}\n    events: [gate_failed]\n"
    found = load(written(tmp_path, text))
    assert found == Config((Endpoint("https://h.example:8443/x", SECRET, frozenset({"gate_failed"}), None),))
    assert found.endpoints[0].name == "h.example:8443"
    assert str(SECRET) not in repr(found)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "a list named endpoints"),
        ("endpoints: []\nmore: 1", "and nothing else"),
        ("endpoints: [{url: 'https://h/'}]", "needs url and secret_file"),
        ("endpoints: [{url: 'http://h/', secret_file: SECRET}]", "begin with https://"),
        ("endpoints: [{url: 'https://u:p@h/', secret_file: SECRET}]", "without a user"),
        ("endpoints: [{url: 'https://h:0x/', secret_file: SECRET}]", "begin with https://"),
        ("endpoints: [{url: 'https://h/', secret_file: SECRET, verify: false}]", "needs url and secret_file"),
        ("endpoints: [{url: 'https://h/', secret_file: SECRET, events: [nothing]}]", "out of rollout_started"),
        ("endpoints: [{url: 'https://h/', secret_file: SECRET, ca_file: /nowhere}]", "/nowhere cannot be read"),
        ("endpoints: [{url: 'https://h/', secret_file: /nowhere}]", "No such file"),
        ("endpoints: {", "cannot be read"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, secret: Path, text: str, says: str) -> None:
    with pytest.raises(ControlError) as caught:
        load(written(tmp_path, text.replace("SECRET", str(secret))))
    assert caught.value.code == "bad_notify"
    assert says in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("text", "mode", "says"),
    [
        ("whsec_" + base64.b64encode(SECRET).decode(), 0o640, "chmod 600"),
        ("whsec_" + base64.b64encode(b"short").decode(), 0o600, "24 to 64 bytes"),
        (base64.b64encode(SECRET).decode(), 0o600, "whsec_"),
        ("whsec_!!!", 0o600, "base64"),
        ("", 0o600, "base64"),
    ],
)
def test_secrets_are_secret(tmp_path: Path, text: str, mode: int, says: str) -> None:
    path = tmp_path / "secret"
    path.write_text(text)
    path.chmod(mode)
    with pytest.raises(ControlError) as caught:
        config.read_secret(path, "x")
    assert says in caught.value.message
    assert base64.b64encode(SECRET).decode() not in caught.value.message


# The engine's one thing to feed


def test_observers(pki: tuple[Path, Path, Path], stories: Stories, tmp_path: Path, secret: Path) -> None:
    certificate, key, ca = pki
    story = journals.completed(tmp_path / "state")
    with Receiver(certificate, key) as receiver:
        text = f"endpoints: [{{url: '{receiver.url}', secret_file: {secret}, ca_file: {ca}}}]"
        environment = {"KTLS_NOTIFY": str(written(tmp_path, text)), "KTLS_TEXTFILE_DIR": str(tmp_path / "prom")}
        found = Observers.begin(story.run_dir, story.plan, environment=environment)
        for event in story.journal.lines:
            found.feed(event)
        done = [*found.outcomes(), *found.close(last=True)]
        assert [one["ok"] for one in done] == [True] * 12
    assert len(list((tmp_path / "prom").iterdir())) == 1
    assert found.report() == story.run_dir / "report.html"
    assert found.complaints() == []


def test_observers_never_fail_a_rollout(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = Observers.begin(tmp_path / "nowhere", None, environment={"KTLS_TEXTFILE_DIR": str(tmp_path / "file")})
    found.feed({"event": "run_started", "at": "never"})
    found.feed({"event": "observed", "at": 1.0, "wave": 9, "hosts": {}})
    assert found.report() is None
    assert len(found.complaints()) >= 2
    assert found.complaints() == []
    assert found.close(last=True) == []


def test_a_bad_configuration_is_known_before_any_host_is_touched(tmp_path: Path) -> None:
    with pytest.raises(ControlError, match="cannot be read"):
        Observers.begin(tmp_path, None, environment={"KTLS_NOTIFY": str(tmp_path / "nowhere.yml")})
    assert Observers.begin(tmp_path, None, environment={}).close(last=True) == []


def test_threads_end(stories: Stories) -> None:
    before = threading.active_count()
    found = Notifier(Config((endpoint("https://a/", None),)), try_once=lambda *_: Tried(None))
    feed(found, stories("completed").journal.lines)
    assert threading.active_count() <= before

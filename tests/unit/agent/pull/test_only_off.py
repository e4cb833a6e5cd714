# SPDX-License-Identifier: Apache-2.0
"""ON is impossible: whatever is served and whoever signed it, all that can happen to a host is OFF."""

from __future__ import annotations

import ast
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

import ktls_agent.pull
from ktls_agent.flags import OffFlags
from ktls_agent.pull.config import PullConfig, endpoint
from ktls_agent.pull.fetch import Answer, FetchError
from ktls_agent.pull.raiser import Raiser
from ktls_agent.pull.service import Puller
from ktls_agent.pull.verify import Verifier
from ktls_agent.pull.watch import Watch
from ktls_host.errors import KtlsError
from ktls_host.flag_document import BEGIN, END, MAX_BYTES, NONE, OFF, Flag, join, parse, render, split

SIGNATURE = BEGIN + b"U1NIU0lH\n" + END
WORDS = st.sampled_from(["off", "none", "on", "tx", "rx", "hw", "OFF", "userspace", "clear", "order"])
FLAGS = st.builds(
    Flag,
    fleet=st.sampled_from(["prod", "staging"]),
    serial=st.integers(1, 10**15 - 1),
    issued_at=st.integers(0, 2**33),
    state=st.sampled_from([OFF, NONE]),
    reason=WORDS,
)


@st.composite
def documents(draw: st.DrawFn) -> bytes:
    """Something like a flag, from quite right to quite wrong."""
    lines = render(draw(FLAGS)).decode().splitlines()
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(0, len(lines) - 1))
        kind = draw(st.integers(0, 3))
        if kind == 0:
            lines[place] = lines[place].split(":")[0] + ": " + draw(st.one_of(WORDS, st.text(max_size=30)))
        elif kind == 1:
            lines.insert(place, draw(WORDS) + ": " + draw(WORDS))
        elif kind == 2:
            lines.append(lines[place])
        elif len(lines) > 1:
            del lines[place]
    return ("\n".join(lines) + draw(st.sampled_from(["\n", "", "\r\n", "\n\n"]))).encode("utf-8", "surrogatepass")


ANSWERS = st.one_of(
    documents().map(lambda text: Answer(200, {"etag": '"x"'}, text + SIGNATURE)),
    FLAGS.map(lambda flag: Answer(200, {"etag": '"x"'}, render(flag) + SIGNATURE)),
    st.binary(max_size=MAX_BYTES + 100).map(lambda body: Answer(200, {}, body)),
    st.builds(Answer, st.integers(100, 599), st.just({}), st.just(b"")),
    st.sampled_from(["timeout", "tls", "dns", "unreachable", "protocol"]).map(lambda result: FetchError(result, "no")),
    st.just(RuntimeError("a fault of ours")),
)


class Scripted:
    def __init__(self) -> None:
        self.next: Any = None

    def get(self, headers: object) -> Answer:
        if isinstance(self.next, Exception):
            raise self.next
        assert isinstance(self.next, Answer)
        return self.next


@settings(max_examples=60)
@given(st.lists(st.tuples(ANSWERS, st.booleans()), min_size=1, max_size=8))
def test_all_that_can_happen_is_off(story: list[tuple[Any, bool]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        for directory in ("run", "lib"):
            (home / directory).mkdir()
        (home / "signers").write_text("whoever")
        asked: list[dict[str, Any]] = []

        def agent(path: str, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
            asked.append(request)
            return {"ok": True}

        # The worst case: every signature is good.
        verifier = Verifier("prod", str(home / "signers"), lambda *_: "SHA256:x")
        one = endpoint("https://flags.test/flag", "test")
        files = {"run_flag": "run/off", "durable_flag": "lib/off", "status": "status", "owed": "owed"}
        config = PullConfig("prod", (one,), **{key: str(home / path) for key, path in files.items()})  # type: ignore[arg-type]
        flags = OffFlags(config.run_flag, config.durable_flag)
        raiser = Raiser(flags, "agent", config.owed, "boot", agent)
        source = Scripted()
        puller, watch = Puller(config, raiser, lambda _: Watch(source, verifier, "x"), "h", "boot"), None
        watch = Watch(source, verifier, "x")
        off = False
        for answer, settle in story:
            source.next = answer
            puller.poll(one, watch)
            off = off or _says_off(answer)
            before = sorted(path.relative_to(home).as_posix() for path in home.rglob("*") if path.is_file())
            assert set(before) <= {"run/off", "lib/off", "signers", "owed"}, before
            assert any(flags.present()) or not off, "a valid OFF acts"
            assert off or not any(flags.present()), "and nothing else does"
            if settle:
                raiser.settle()
            puller.status()
        assert {request["verb"] for request in asked} <= {"off"}
        assert all(set(request) == {"verb", "reason"} for request in asked)


def _says_off(answer: object) -> bool:
    if not isinstance(answer, Answer) or answer.status != 200:
        return False
    try:
        flag = parse(split(answer.body)[0])
    except KtlsError:
        return False
    return flag.fleet == "prod" and flag.state == OFF


@given(FLAGS)
def test_what_is_rendered_is_parsed(flag: Flag) -> None:
    document = render(flag)
    assert parse(document) == flag
    assert split(join(document, SIGNATURE)) == (document, SIGNATURE)
    assert len(document) + len(SIGNATURE) < MAX_BYTES


@given(st.one_of(documents(), st.binary(max_size=300)))
def test_there_is_one_way_to_write_a_flag(text: bytes) -> None:
    try:
        flag = parse(text)
    except KtlsError as error:
        assert error.code == "bad_flag"
        assert "\n" not in error.message
    else:
        assert render(flag) == text
        assert flag.state in (OFF, NONE)


@given(st.binary(max_size=MAX_BYTES + 10))
def test_split_takes_any_bytes(body: bytes) -> None:
    _split(body)
    _split(body + SIGNATURE)


def _split(body: bytes) -> None:
    try:
        document, signature = split(body)
    except KtlsError as error:
        assert error.code in ("bad_flag", "oversize")
    else:
        assert document + signature == body


def test_the_code_knows_no_verb_but_off() -> None:
    """The only request of the whole package, read from its source; and nothing there can clear a flag."""
    verbs = []
    for path in Path(ktls_agent.pull.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Dict):
                keys = [key.value for key in node.keys if isinstance(key, ast.Constant)]
                if "verb" in keys:
                    value = node.values[keys.index("verb")]
                    verbs.append(value.value if isinstance(value, ast.Constant) else None)
            if isinstance(node, ast.Attribute) and node.attr == "clear":
                assert ast.unparse(node) == "self._wake.clear", path
    assert verbs == ["off"]

# SPDX-License-Identifier: Apache-2.0
"""A rollout over fake hosts tells who wants to know: webhooks, metrics, and the report at its end."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path

import pytest

from ktls_control.notify import sign
from ktls_control.rollout.store import Run
from ktls_control.view.journal import load
from tests import authority
from tests.unit.control.report.receiver import Receiver

from .conftest import Fleet
from .test_rollout import TX

SECRET = bytes(range(32))


def run_of(fleet: Fleet) -> Run:
    (directory,) = fleet.state_dir.glob("*/runs/*")
    return Run(directory)


@pytest.mark.parametrize("sick", [False, True])
def test_a_rollout_is_told_of(fleet: Fleet, sick: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ca = authority.Authority(tmp_path)
    pair = ca.issue("receiver", ["127.0.0.1"])
    secret = tmp_path / "secret"
    secret.write_text(f"whsec_{base64.b64encode(SECRET).decode()}\n")
    secret.chmod(0o600)
    if sick:
        fleet.fault("web3", "hash")
    with Receiver(pair.certificate, pair.key) as receiver:
        config = tmp_path / "notify.yml"
        config.write_text(f"endpoints: [{{url: '{receiver.url}', secret_file: {secret}, ca_file: {ca.path}}}]")
        monkeypatch.setenv("KTLS_NOTIFY", str(config))
        monkeypatch.setenv("KTLS_TEXTFILE_DIR", str(tmp_path / "prom"))
        done = fleet.playbook("rollout", *TX)
    assert (done.returncode == 0) is not sick, done.stdout
    run = run_of(fleet)
    log = load(run.journal)
    assert log.broken is None
    # Everything was told, at least once, and what was told is in the journal.
    told = [event for event in log.events if event["event"] == "notified"]
    assert all(event["ok"] for event in told), told
    assert {got.json["type"].removeprefix("ktls.") for got in receiver.got} == {event["trigger"] for event in told}
    assert len({event["of"] for event in told}) == len(told)
    last = receiver.got[-1].json
    assert last["type"] == ("ktls.rollout_aborted" if sick else "ktls.rollout_completed")
    assert all(sign.verify(SECRET, got.headers, got.body, got.at) for got in receiver.got)
    # The report was written, and shows that end.
    page = run.directory.joinpath("report.html").read_text()
    assert ("content hash differs" in page) is sick
    assert "Journal <span" in page
    (metrics,) = (tmp_path / "prom").glob("ktls_rollout_*.prom")
    assert f'state="{"failed" if sick else "completed"}"}} 1' in metrics.read_text()
    # And a script that asks is told the same.
    ktls = [sys.executable, "-m", "ktls_control.cli", "status", "--watch", "--run", str(run.directory)]
    asked = subprocess.run(ktls, capture_output=True, text=True, check=False)
    assert asked.returncode == (1 if sick else 0), asked.stdout + asked.stderr


@pytest.mark.parametrize("fleet", [1], indirect=True)
def test_a_mistake_in_who_is_told_is_known_before_any_host_is(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "notify.yml").write_text(json.dumps({"endpoints": [{"url": "http://plain.example/"}]}))
    monkeypatch.setenv("KTLS_NOTIFY", str(tmp_path / "notify.yml"))
    done = fleet.playbook("rollout", *TX)
    assert done.returncode != 0
    assert "needs url and secret_file" in done.stdout
    assert fleet.requests("web1", "order") == []

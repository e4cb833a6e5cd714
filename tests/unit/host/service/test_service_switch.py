# SPDX-License-Identifier: Apache-2.0
"""A unit gets kernel TLS and loses it: what is written, who is restarted, what is said of those who run on."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ktls_host import originals
from ktls_host.errors import KtlsError
from ktls_host.service import adopt, lighttpd, switch, ways
from ktls_host.service.adopt import Wish
from ktls_host.service.switch import Asked

if TYPE_CHECKING:
    from tests.unit.host.service import servicehost
else:
    sys.path.insert(0, str(Path(__file__).parent))
    import servicehost

Host = servicehost.ServiceHost
UNITS = ("lighttpd.service", "tunnel.service", "gtls.service")
VARIABLES = {"tunnel.service": "OPENSSL_CONF", "gtls.service": "GNUTLS_SYSTEM_PRIORITY_FILE"}


def look(host: Host, unit: str, restart_ok: bool = True) -> switch.Look:
    return switch.look(Asked(unit, restart_ok=restart_ok), host, str(host.root))


def on(host: Host, unit: str, restart_ok: bool = True) -> dict[str, object]:
    return switch.on(Asked(unit, restart_ok=restart_ok), host, str(host.root))


def off(host: Host, unit: str, restart_ok: bool = True) -> dict[str, object]:
    return switch.off(Asked(unit, restart_ok=restart_ok), host, str(host.root))


@pytest.fixture
def taken(host: Host) -> Host:
    """Return the host with its lighttpd taken, in userspace; the others are as they were found."""
    adopt.present(Wish("lighttpd.service", restart_ok=True), runner=host, root=str(host.root))
    host.log.clear()
    return host


@pytest.mark.parametrize("unit", UNITS)
def test_on_and_off_by_consent(taken: Host, unit: str) -> None:
    before = taken.snapshot()
    found = look(taken, unit)
    assert (found.asks, found.there, found.stale, found.problem()) == (False, False, (), None)
    answer = on(taken, unit)
    assert (answer["asks"], answer["configured"], answer["stale"], answer["restarted"]) == (True, True, 0, [unit])
    assert answer["problem"] is None
    assert on(taken, unit)["restarted"] == []
    answer = off(taken, unit)
    assert (answer["asks"], answer["configured"], answer["stale"], answer["restarted"]) == (False, False, 0, [unit])
    assert (answer["notes"], answer["problem"]) == ([], None)
    assert off(taken, unit)["restarted"] == []
    assert taken.restarts == [unit, unit]
    assert taken.snapshot() == before


@pytest.mark.parametrize("unit", UNITS)
def test_without_consent_nothing_is_changed_towards_ktls(taken: Host, unit: str) -> None:
    before = taken.snapshot()
    with pytest.raises(KtlsError, match="ends its connections") as caught:
        on(taken, unit, restart_ok=False)
    assert caught.value.code == "no_restart_consent"
    assert (taken.snapshot(), taken.log) == (before, [])


@pytest.mark.parametrize("unit", UNITS)
def test_off_without_consent_names_what_runs_on(taken: Host, unit: str) -> None:
    on(taken, unit)
    answer = off(taken, unit, restart_ok=False)
    assert (answer["asks"], answer["configured"], answer["stale"], answer["restarted"]) == (True, False, 2, [])
    assert answer["problem"] == f"{unit} runs on with kernel TLS until it is restarted (systemctl restart {unit})"
    taken.start(unit)
    found = look(taken, unit)
    assert (found.asks, found.stale, found.problem()) == (False, (), None)


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_that_is_stopped_is_not_started(taken: Host, unit: str) -> None:
    taken.stop(unit)
    backend = {"gtls.service": "gnutls", "tunnel.service": "openssl"}.get(unit, "lighttpd")
    asked = Asked(unit, backend)
    answer = switch.on(asked, taken, str(taken.root))
    assert (answer["configured"], answer["active"], answer["asks"], answer["restarted"]) == (True, False, False, [])
    taken.start(unit)
    assert look(taken, unit).asks
    taken.stop(unit)
    answer = off(taken, unit)
    assert (answer["configured"], answer["stale"], answer["restarted"]) == (False, 0, [])


@pytest.mark.parametrize("unit", UNITS)
def test_systemd_says_started_before_the_program_runs(taken: Host, unit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen on a slow host: the main process is systemd's own for a while, with another environment."""
    sleep, slept = time.sleep, []

    def wait(seconds: float) -> None:
        if taken.slow and seconds >= switch._POLL_S:
            slept.append(seconds)
            taken.exec(unit)
        sleep(0 if seconds >= switch._POLL_S else seconds)

    monkeypatch.setattr("time.sleep", wait)
    backend = look(taken, unit).way.backend
    for verb, asks in ((switch.on, True), (switch.off, False)):
        taken.slow = True
        answer = verb(Asked(unit, backend, True, taken=True), taken, str(taken.root))
        assert (answer["asks"], answer["stale"], answer["restarted"]) == (asks, 0, [unit])
        assert answer["program"] == look(taken, unit).as_dict()["program"]
    assert len(slept) == 2


@pytest.mark.parametrize("unit", UNITS)
def test_one_that_does_not_start_with_it_gets_its_old_one_back(taken: Host, unit: str) -> None:
    before = taken.snapshot()
    drop_in = ways.way(look(taken, unit).way.backend, unit).drop_in
    taken.refuse_restart = lambda name: "it crashed" if taken.exists(drop_in) else None
    with pytest.raises(KtlsError, match=r"it crashed.*runs again") as caught:
        on(taken, unit)
    assert caught.value.code == "restart_failed"
    assert taken.restarts == [unit, unit]
    assert taken.snapshot() == before
    found = look(taken, unit)
    assert (found.asks, found.there, found.stale) == (False, False, ())


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("titled", [False, True])
def test_taken_away_by_ktls_off_and_reloaded(taken: Host, unit: str, titled: bool) -> None:
    """That knows no records, and notes no time. What runs on is named until the unit is restarted."""
    if titled:
        taken.titles.add(unit)
        taken.start(unit)
    on(taken, unit)
    (way,) = ways.on_disk(unit, str(taken.root))
    os.unlink(taken.root / way.drop_in[1:])
    taken.reload()
    found = look(taken, unit)
    assert len(found.stale) == 2
    assert "until it is restarted" in str(found.problem())
    answer = off(taken, unit, restart_ok=False)
    assert (answer["configured"], answer["stale"], answer["restarted"]) == (False, 2, [])
    answer = off(taken, unit)
    assert (answer["configured"], answer["asks"], answer["stale"], answer["restarted"]) == (False, False, 0, [unit])
    assert not ways.way(way.backend, unit).recorded(str(taken.root))


@pytest.mark.parametrize("unit", UNITS)
def test_off_takes_an_edited_drop_in_away_too(taken: Host, unit: str) -> None:
    on(taken, unit)
    (way,) = ways.on_disk(unit, str(taken.root))
    taken.write(way.drop_in, taken.read(way.drop_in) + "# mine\n")
    answer = off(taken, unit)
    assert (answer["configured"], answer["asks"], answer["restarted"]) == (False, False, [unit])


def test_off_does_not_wait_for_a_lock(taken: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    on(taken, "tunnel.service")
    monkeypatch.setattr(originals, "LOCK_WAIT_S", 0.0)
    monkeypatch.setattr(originals.lock.__wrapped__, "__defaults__", ("/", 0.0))  # type: ignore[attr-defined]
    with originals.lock(str(taken.root)):
        answer = off(taken, "tunnel.service")
    assert (answer["configured"], answer["asks"], answer["restarted"]) == (False, False, ["tunnel.service"])
    assert "is changing this host" in str(answer["notes"])


def test_off_of_a_unit_that_has_gone(taken: Host) -> None:
    on(taken, "tunnel.service")
    taken.stop("tunnel.service")
    os.unlink(taken.root / "etc/systemd/system/tunnel.service")
    answer = off(taken, "tunnel.service")
    assert (answer["configured"], answer["asks"], answer["stale"]) == (False, False, 0)


def test_a_lighttpd_that_was_not_taken_is_in_kernel_tls_and_says_so(host: Host) -> None:
    found = look(host, "lighttpd.service")
    assert (found.asks, len(found.stale)) == (True, 2)
    with pytest.raises(KtlsError) as caught:
        lighttpd_without_line(host)
    assert caught.value.code == "not_adopted"


def lighttpd_without_line(host: Host) -> None:
    host.stop("lighttpd.service")
    switch.on(Asked("lighttpd.service", "lighttpd", True), host, str(host.root))


@pytest.mark.parametrize("unit", VARIABLES)
def test_the_environment_of_the_unit_is_what_was_meant(taken: Host, unit: str) -> None:
    on(taken, unit)
    (given,) = [word for word in taken.loaded_environment(unit) if word.startswith(VARIABLES[unit])]
    text = taken.read(given.partition("=")[2])
    assert ("Options = KTLS" in text) or ("ktls = true" in text)


def test_lighttpds_environment(taken: Host) -> None:
    on(taken, "lighttpd.service")
    assert taken.loaded_environment("lighttpd.service") == [f"{lighttpd.VARIABLE}={lighttpd.VALUE}"]


def test_one_that_cannot_be_taken_back_is_named(taken: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another drop-in wins, so it is taken back; and there the disk fails."""
    taken.write("/etc/systemd/system/lighttpd.service.d/zz.conf", f"[Service]\nEnvironment={lighttpd.VARIABLE}=x\n")

    def fails(*_given: object) -> None:
        raise KtlsError("write_failed", "the disk is full")

    monkeypatch.setattr(originals, "restore_files", fails)
    with pytest.raises(KtlsError) as caught:
        on(taken, "lighttpd.service")
    assert caught.value.code == "validation_failed"
    assert "a drop-in after" in caught.value.message
    assert caught.value.message.endswith("and it was not taken back: the disk is full")

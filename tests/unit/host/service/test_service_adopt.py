# SPDX-License-Identifier: Apache-2.0
"""A service is taken, and let go as it was found."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ktls_host.errors import KtlsError
from ktls_host.service import adopt, baseline, lighttpd, switch
from ktls_host.service.adopt import Wish
from ktls_host.service.baseline import Baseline
from ktls_host.service.switch import Asked

if TYPE_CHECKING:
    from tests.unit.host.service import servicehost
else:
    sys.path.insert(0, str(Path(__file__).parent))
    import servicehost

Host = servicehost.ServiceHost
URL = "https://files.test:8444/probe.bin"
WHERE = baseline.place(URL, "127.0.0.1", "/ca.pem")
FOUND = Baseline(URL, "ab" * 32, 100)


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The URLs that were downloaded; nothing is sent by kernel TLS."""
    urls: list[str] = []

    def fetch(where: baseline.Place, url: str) -> tuple[Baseline, bool | None]:
        urls.append(url)
        return FOUND, False

    monkeypatch.setattr(baseline, "fetch", fetch)
    monkeypatch.setattr(baseline, "wait", lambda where: None)
    return urls


def take(host: Host, unit: str = "lighttpd", **more: Any) -> adopt.Report:
    given = {"restart_ok": True, "where": WHERE, "url": URL, **more}
    check_only = given.pop("check_only", False)
    return adopt.present(Wish(unit, **given), check_only=check_only, runner=host, root=str(host.root))


def test_lighttpd_is_taken_once(host: Host, fetched: list[str]) -> None:
    before = host.snapshot()
    predicted = take(host, check_only=True).as_dict()
    assert (predicted["changed"], predicted["restarted"]) == (True, ["lighttpd.service"])
    assert (predicted["restart_required"], predicted["notes"]) == ([], []), "it will have been restarted"
    assert (host.snapshot(), host.log, fetched) == (before, [], [])
    done = take(host).as_dict()
    assert (done["changed"], done["restarted"], done["restart_required"]) == (True, ["lighttpd.service"], [])
    assert (done["backend"], done["modes"]) == ("lighttpd", ["userspace", "tx+rx"])
    assert done["probe"] == {"url": URL, "sha256": "ab" * 32, "size": 100}
    assert host.read(lighttpd.FRAGMENT) == lighttpd.TEXT
    assert all(lighttpd.VARIABLE in text and f'include "{lighttpd.CONFIG}"' in text for text in host.tried)
    again = take(host).as_dict()
    assert (again["changed"], again["restarted"], again["probe"]) == (False, [], done["probe"])
    assert (fetched, host.restarts) == ([URL], ["lighttpd.service"])
    gone = adopt.absent("lighttpd", True, runner=host, root=str(host.root))
    assert (gone.changed, gone.restarted) == (True, ("lighttpd.service",))
    assert host.snapshot() == before
    assert not adopt.absent("lighttpd", True, runner=host, root=str(host.root)).changed


def test_without_consent_lighttpd_is_taken_and_named(host: Host, fetched: list[str]) -> None:
    predicted = take(host, restart_ok=False, check_only=True).as_dict()
    done = take(host, restart_ok=False).as_dict()
    assert (predicted["restarted"], predicted["restart_required"]) == ([], ["lighttpd.service"])
    assert (done["restarted"], done["restart_required"], done["probe"]) == ([], ["lighttpd.service"], None)
    assert any("of its own until it is restarted" in note for note in done["notes"])
    assert any("was not hashed" in note for note in done["notes"])
    assert (fetched, host.restarts) == ([], [])
    host.start("lighttpd.service")
    done = take(host, restart_ok=False).as_dict()
    assert (done["restart_required"], done["notes"], fetched) == ([], [], [URL])


@pytest.mark.parametrize("unit", ["tunnel.service", "gtls.service"])
def test_others_are_taken_without_a_restart(host: Host, fetched: list[str], unit: str) -> None:
    before = host.snapshot()
    done = take(host, unit).as_dict()
    assert (done["changed"], done["restarted"], done["notes"]) == (True, [], [])
    assert (host.restarts, fetched) == ([], [URL])
    assert "After=ktls-boot.service" in host.read(f"/etc/systemd/system/{unit}.d/zz-ktls-fleet-order.conf")
    switch.on(Asked(unit, restart_ok=True), host, str(host.root))
    again = take(host, unit)
    assert (again.changed, again.found, fetched) == (False, FOUND, [URL])
    done = adopt.absent(unit, True, runner=host, root=str(host.root)).as_dict()
    assert done["restarted"] == [unit]
    assert host.snapshot() == before


@pytest.mark.parametrize("unit", ["lighttpd.service", "tunnel.service", "gtls.service"])
def test_what_ktls_off_left_half_done_goes_too(host: Host, fetched: list[str], unit: str) -> None:
    """It renames the drop-in; a restart that takes too long leaves it so, and no agent goes on with it."""
    before = host.snapshot()
    take(host, unit)
    way = switch.look(Asked(unit), host, str(host.root)).way
    switch.on(Asked(unit, restart_ok=True), host, str(host.root))
    (host.root / way.drop_in[1:]).rename(host.root / way.owed[1:])
    host.log.clear()
    done = adopt.absent(unit, True, runner=host, root=str(host.root))
    assert (done.changed, done.restarted, host.restarts) == (True, (unit,), [unit])
    assert host.snapshot() == before


@pytest.mark.parametrize("unit", ["tunnel.service", "gtls.service"])
@pytest.mark.parametrize("again", [False, True])
def test_what_ktls_off_knows_nothing_of_goes_too(host: Host, fetched: list[str], unit: str, again: bool) -> None:
    """It takes the drop-in away, not the file that this names. Who was restarted since then is left alone."""
    before = host.snapshot()
    take(host, unit)
    way = switch.look(Asked(unit), host, str(host.root)).way
    switch.on(Asked(unit, restart_ok=True), host, str(host.root))
    (host.root / way.drop_in[1:]).unlink()
    host.reload()
    if again:
        host.start(unit)
    host.log.clear()
    done = adopt.absent(unit, True, runner=host, root=str(host.root))
    assert (done.changed, host.restarts) == (True, [] if again else [unit])
    assert host.snapshot() == before


def test_letting_go_without_consent_says_what_runs_on(host: Host, fetched: list[str]) -> None:
    take(host, "tunnel")
    switch.on(Asked("tunnel.service", restart_ok=True), host, str(host.root))
    host.log.clear()
    done = adopt.absent("tunnel", runner=host, root=str(host.root))
    assert (done.restarted, host.restarts) == ((), [])
    assert any("runs on" in note for note in done.notes)


def test_another_url_or_a_renewal_is_hashed_anew(host: Host, fetched: list[str]) -> None:
    take(host, "tunnel")
    take(host, "tunnel", url=URL + "?2")
    take(host, "tunnel", url=URL, renew=True)
    assert fetched == [URL, URL + "?2", URL]
    assert take(host, "tunnel", where=None, url="").found is None


def test_a_program_that_asks_by_itself_is_found_out(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """nginx with ssl_conf_command, for example: nothing of ours asks, and the kernel sends all the same."""
    before = host.snapshot()
    monkeypatch.setattr(baseline, "fetch", lambda where, url: (FOUND, True))
    with pytest.raises(KtlsError, match="its own configuration") as caught:
        take(host, "tunnel")
    assert caught.value.code == "ktls_by_itself"
    assert host.snapshot() == before


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"options": "-SessionTicket"}, "takes that word once"),
        ({"condition": True}, "a condition in it sets"),
    ],
)
def test_a_lighttpd_that_would_not_follow_is_left_alone(host: Host, change: dict[str, Any], word: str) -> None:
    for name, value in change.items():
        setattr(host, name, value)
    before = host.snapshot()
    with pytest.raises(KtlsError, match=word) as caught:
        take(host)
    assert caught.value.code == "validation_failed"
    assert (host.snapshot(), host.log) == (before, [])


def test_a_lighttpd_of_another_layout_is_refused(host: Host) -> None:
    (host.root / lighttpd.DIRECTORY[1:]).rmdir()
    with pytest.raises(KtlsError, match="conf-enabled") as caught:
        take(host)
    assert caught.value.code == "lighttpd_layout"


def test_a_lighttpd_that_does_not_start_with_the_line_gets_it_taken_out(host: Host) -> None:
    before = host.snapshot()
    host.refuse_restart = lambda unit: "no" if host.exists(lighttpd.FRAGMENT) else None
    with pytest.raises(KtlsError, match="runs again") as caught:
        take(host)
    assert caught.value.code == "restart_failed"
    assert host.snapshot() == before


@pytest.mark.parametrize("value", ["-KTLS", "KTLS"])
@pytest.mark.parametrize("condition", [False, True])
def test_what_lighttpd_prints(value: str, condition: bool) -> None:
    text = servicehost.printed(value, condition)
    assert [lighttpd.says(text, other) for other in ("-KTLS", "KTLS")] == [value == "-KTLS", value == "KTLS"]
    assert lighttpd.elsewhere(text) == condition
    assert not lighttpd.says(servicehost.printed(None, condition), value)


def test_what_an_older_lighttpd_prints() -> None:
    """Recorded from 1.4.69, with nothing else in the list."""
    text = 'config {\n    ssl.openssl.ssl-conf-cmd = (\n        "Options" => "-KTLS",\n    )\n\n'
    text += (
        '\n    $SERVER["socket"] == "127.0.0.1:19443" {\n        # block 1\n        ssl.engine = "enable"\n    }\n}\n'
    )
    assert lighttpd.says(text, "-KTLS")
    assert not lighttpd.elsewhere(text)

# SPDX-License-Identifier: Apache-2.0
"""The lever on a played host with the real OpenSSL: what it does, undoes, refuses and takes back."""

from __future__ import annotations

import itertools
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ktls_host import files, gnutls, openssl_lib, originals
from ktls_host.errors import KtlsError
from ktls_host.gnutls import GnutlsState
from ktls_host.openssl_lib import OpensslState
from ktls_host.policy import ask, lever
from ktls_host.policy.targets import Request
from ktls_host.policy.work import Report

if TYPE_CHECKING:
    from tests.unit.host.policy import policyhost
else:
    sys.path.insert(0, str(Path(__file__).parent))
    import policyhost

Host = policyhost.Host

SYSTEM = Request("openssl", "system")
WEB = Request("openssl", "service", ("web",))
GNUTLS_SYSTEM = Request("gnutls", "system")
GNUTLS_WEB = Request("gnutls", "service", ("web",))
ALL = {"system": SYSTEM, "service": WEB, "gnutls system": GNUTLS_SYSTEM, "gnutls service": GNUTLS_WEB}
CNF = "/etc/ssl/openssl.cnf"
WEB_CNF = "/etc/ktls-fleet/policy/web.service.openssl.cnf"
WEB_DROP_IN = "/etc/systemd/system/web.service.d/zz-ktls-fleet-openssl.conf"
SET = f"OPENSSL_CONF={WEB_CNF}"


def run(host: Host, request: Request, check: bool = False, **changes: Any) -> Report:
    return lever.run(replace(request, **changes), check_only=check, runner=host, root=str(host.root))  # type: ignore[arg-type]


def refused(host: Host, request: Request, code: str, match: str | None = None, **changes: Any) -> KtlsError:
    """It fails with that code in check mode and for real, and nothing changes, nor is anything restarted."""
    before, environment = host.snapshot(), host.loaded_environment("web.service")
    log = len(host.log)
    for check in (True, False):
        with pytest.raises(KtlsError, match=match) as caught:
            run(host, request, check, **changes)
        assert caught.value.code == code, caught.value.message
        assert host.snapshot() == before
        assert host.loaded_environment("web.service") == environment
    assert ("systemctl", "restart") not in {command[:2] for command in host.log[log:]}
    return caught.value


def on_host(snapshot: policyhost.Snapshot) -> policyhost.Snapshot:
    return {path: entry for path, entry in snapshot.items() if not path.startswith("var/")}


def codes(report: Report) -> list[str]:
    return [step.code for step in report.steps]


def openssl_says(host: Host, config: str) -> ask.OpensslAnswer:
    return ask.openssl(host, f"{host.root}{config}")  # type: ignore[arg-type]


@pytest.mark.parametrize("release", ["debian12", "debian13", "ubuntu2204", "ubuntu2404"])
def test_the_whole_host_there_and_back(tmp_path: Path, release: str) -> None:
    host = Host(tmp_path)
    host.debian(release)
    (tmp_path / "etc/ssl/openssl.cnf").chmod(0o640)
    before, was = host.snapshot(), openssl_says(host, CNF)
    report = run(host, SYSTEM)
    assert codes(report) == ["configure"]
    assert report.files == (CNF,)
    (effective,) = report.effective
    assert (effective["ktls"], effective["config"], effective["built"]) == (True, CNF, True)
    now = openssl_says(host, CNF)
    assert now.ktls and not was.ktls
    assert (now.options or 0) ^ (was.options or 0) == ask.SSL_OP_ENABLE_KTLS
    assert (host.root / CNF[1:]).stat().st_mode & 0o777 == 0o640
    assert host.read(CNF).startswith((policyhost.FIXTURES / f"{release}-openssl.cnf").read_text())
    again = run(host, SYSTEM)
    assert (again.steps, again.diff) == ((), ())
    assert codes(run(host, SYSTEM, present=False)) == ["restore"]
    assert host.snapshot() == before
    assert run(host, SYSTEM, present=False).steps == ()


def test_one_service_there_and_back(host: Host) -> None:
    before = host.snapshot()
    report = run(host, WEB)
    assert codes(report) == ["configure", "drop_in", "daemon_reload"]
    assert report.files == (WEB_CNF, WEB_DROP_IN)
    assert host.loaded_environment("web.service") == [SET]
    assert host.loaded_environment("mail.service") == []
    assert openssl_says(host, WEB_CNF).ktls
    assert not openssl_says(host, CNF).ktls
    # All that the host's own file says still counts for the service.
    assert f".include {CNF}\n" in host.read(WEB_CNF)
    assert run(host, WEB).steps == ()
    assert codes(run(host, WEB, present=False)) == ["remove", "daemon_reload", "remove"]
    assert host.snapshot() == before
    assert host.loaded_environment("web.service") == []
    assert run(host, WEB, present=False).steps == ()


def test_crypto_policies_there_and_back(fedora: Host) -> None:
    before, config = fedora.snapshot(), "/usr/lib/ssl/openssl.cnf"
    was = openssl_says(fedora, config)
    report = run(fedora, SYSTEM)
    assert codes(report) == ["configure", "regenerate"]
    assert report.files == ("/etc/crypto-policies/local.d/opensslcnf-ktls.config",)
    now = openssl_says(fedora, config)
    assert now.ktls and not was.ktls
    # The policy has an option of its own, which a bare "Options" would have replaced.
    assert (now.options or 0) ^ (was.options or 0) == ask.SSL_OP_ENABLE_KTLS
    assert "[crypto_policy]\n" in fedora.read(report.files[0])
    # Without it, sshd, ipsec and bind would be restarted.
    assert fedora.log == [("update-crypto-policies", "--no-reload")]
    assert not fedora.exists("/RELOADED")
    assert run(fedora, SYSTEM).steps == ()
    assert codes(run(fedora, SYSTEM, present=False)) == ["remove", "regenerate"]
    assert fedora.snapshot() == before


def test_crypto_policies_of_gnutls(fedora: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    generated = "/etc/crypto-policies/back-ends/gnutls.config"
    state = GnutlsState("libgnutls.so.30", "3.8.10", True, generated, None)
    monkeypatch.setattr(gnutls, "probe", lambda root="/": state)
    before = fedora.snapshot()
    report = run(fedora, GNUTLS_SYSTEM)
    assert report.files == ("/etc/crypto-policies/local.d/gnutls-ktls.config",)
    assert fedora.read(generated).rstrip().endswith("[global]\nktls = true\n# END ktls-fleet")
    assert report.effective[0]["ktls"] is True
    assert run(fedora, GNUTLS_SYSTEM).steps == ()
    # A service gets a copy of the policy, without what we have put into it.
    copied = run(fedora, GNUTLS_WEB)
    assert "SYSTEM=NONE" in fedora.read(copied.files[0])
    run(fedora, GNUTLS_SYSTEM, present=False)
    assert run(fedora, GNUTLS_WEB).steps == ()
    run(fedora, GNUTLS_WEB, present=False)
    assert fedora.snapshot() == before


def test_crypto_policies_set_by_an_admin_takes_ours_along(fedora: Host) -> None:
    """It generates from our file; nothing is to be done then, and restoring still works."""
    before = fedora.snapshot()
    run(fedora, SYSTEM)
    fedora.run(("update-crypto-policies", "--no-reload"))
    assert run(fedora, SYSTEM).steps == ()
    run(fedora, SYSTEM, present=False)
    assert fedora.snapshot() == before


def test_a_local_file_without_newline_does_not_swallow_ours(fedora: Host) -> None:
    fedora.write("/etc/crypto-policies/local.d/opensslcnf-a.config", "[crypto_policy]\n# no newline \\")
    assert run(fedora, SYSTEM).effective[0]["ktls"] is True


def test_crypto_policies_that_ignore_ours_are_noticed(fedora: Host) -> None:
    """As under the FIPS policy that is mounted at boot."""
    before = fedora.snapshot()
    fedora.deaf_policies = True
    with pytest.raises(KtlsError, match="everything is as it was before") as caught:
        run(fedora, SYSTEM)
    assert caught.value.code == "validation_failed"
    assert fedora.snapshot() == before


def test_gnutls_on_a_host_without_configuration(host: Host) -> None:
    before = host.snapshot()
    report = run(host, GNUTLS_SYSTEM)
    assert report.files == ("/etc/gnutls/config",)
    assert host.read("/etc/gnutls/config").endswith("\n[global]\nktls = true\n")
    assert run(host, GNUTLS_SYSTEM).steps == ()
    run(host, GNUTLS_SYSTEM, present=False)
    assert host.snapshot() == before


def test_gnutls_on_a_host_with_one(host: Host) -> None:
    host.write("/etc/gnutls/config", "[overrides]\nmin-verification-profile = medium\n[global]\nktls = false\n", 0o640)
    before = host.snapshot()
    run(host, GNUTLS_SYSTEM)
    text = host.read("/etc/gnutls/config")
    assert "ktls = true" in text and "ktls = false" not in text and "min-verification-profile = medium" in text
    assert (host.root / "etc/gnutls/config").stat().st_mode & 0o777 == 0o640
    run(host, GNUTLS_SYSTEM, present=False)
    assert host.snapshot() == before


def test_the_copy_for_a_service_follows_its_source(host: Host) -> None:
    host.write("/etc/gnutls/config", "[overrides]\nmin-verification-profile = medium\n")
    before = host.snapshot()
    path = run(host, GNUTLS_WEB).files[0]
    assert "= medium" in host.read(path) and "ktls = true" in host.read(path)
    host.write("/etc/gnutls/config", "[overrides]\nmin-verification-profile = high\n")
    assert codes(run(host, GNUTLS_WEB)) == ["configure"]
    assert "= high" in host.read(path)
    assert run(host, GNUTLS_WEB).steps == ()
    host.write("/etc/gnutls/config", "[overrides]\nmin-verification-profile = medium\n")
    source = host.root / "etc/gnutls/config"
    os.utime(source, ns=(before["etc/gnutls/config"][-1],) * 2)
    run(host, GNUTLS_WEB, present=False)
    assert host.snapshot() == before


def test_a_file_that_the_unit_names_is_included(host: Host) -> None:
    host.write("/etc/special.cnf", "[x]\ny = z\n")
    host.unit("web.service", "[Service]\nEnvironment=OPENSSL_CONF=/etc/special.cnf\nExecStart=/bin/web\n")
    run(host, WEB)
    assert ".include /etc/special.cnf\n" in host.read(WEB_CNF)
    assert host.loaded_environment("web.service") == [SET]
    assert run(host, WEB).steps == ()


def test_a_unit_that_wants_no_file_gets_nothing_else(host: Host) -> None:
    host.unit("web.service", "[Service]\nEnvironment=OPENSSL_CONF=\nExecStart=/bin/web\n")
    run(host, WEB)
    assert ".include" not in host.read(WEB_CNF)
    assert openssl_says(host, WEB_CNF).ktls


def test_a_template_is_for_all_its_instances(host: Host) -> None:
    host.unit("app@.service", "[Service]\nExecStart=/bin/app\n", running=False)
    for name in ("app@one.service", "app@two.service"):
        host.start(name)
    before = host.snapshot()
    report = run(host, replace(WEB, services=("app@",)))
    assert report.restart_required == ("app@one.service", "app@two.service")
    assert report.files[1] == "/etc/systemd/system/app@.service.d/zz-ktls-fleet-openssl.conf"
    again = run(host, replace(WEB, services=("app@",), restart_ok=True))
    assert again.restarted == ("app@one.service", "app@two.service")
    assert again.restart_required == ()
    run(host, replace(WEB, services=("app@",)), present=False)
    assert host.snapshot() == before


def test_odd_but_legal_names(host: Host) -> None:
    name = r"ab\x2dc.service"
    host.unit(name, "[Service]\nExecStart=/bin/app\n")
    before = host.snapshot()
    assert run(host, replace(WEB, services=(name,))).effective[0]["ktls"] is True
    assert host.loaded_environment(name) == [f"OPENSSL_CONF=/etc/ktls-fleet/policy/{name}.openssl.cnf"]
    run(host, replace(WEB, services=(name,)), present=False)
    assert host.snapshot() == before


# Restarts


def test_nobody_is_restarted_without_consent(host: Host) -> None:
    report = run(host, SYSTEM, services=("web",))
    assert (report.restart_required, report.restarted) == (("mail.service", "web.service"), ())
    assert [command for command in host.log if "restart" in command] == []
    # The second run changes nothing, and they still run by the old configuration.
    assert run(host, SYSTEM).restart_required == ("mail.service", "web.service")


def test_with_consent_those_who_are_named_are_restarted(host: Host) -> None:
    run(host, SYSTEM)
    predicted = run(host, SYSTEM, check=True, services=("web", "plain"), restart_ok=True)
    report = run(host, SYSTEM, services=("web", "plain"), restart_ok=True)
    assert report.restarted == predicted.restarted == ("web.service",)
    assert report.restart_required == predicted.restart_required == ("mail.service",)
    assert codes(report) == ["restart"]
    assert run(host, SYSTEM, services=("web", "plain"), restart_ok=True).steps == ()


def test_consent_for_one_service(host: Host) -> None:
    report = run(host, WEB, restart_ok=True)
    assert codes(report) == ["configure", "drop_in", "daemon_reload", "restart"]
    assert (report.restarted, report.restart_required) == (("web.service",), ())
    assert host.log == [("systemctl", "daemon-reload"), ("systemctl", "restart", "--", "web.service")]
    assert run(host, WEB, restart_ok=True).steps == ()
    back = run(host, WEB, present=False)
    assert back.restart_required == ("web.service",)
    assert run(host, WEB, present=False).restart_required == ("web.service",)
    assert run(host, WEB, present=False, restart_ok=True).restarted == ("web.service",)
    assert run(host, WEB, present=False).restart_required == ()


def test_a_service_that_does_not_run_is_not_started(host: Host) -> None:
    host.unit("idle.service", "[Service]\nExecStart=/bin/idle\n", running=False)
    report = run(host, replace(WEB, services=("idle",)), restart_ok=True)
    assert (report.restarted, report.restart_required) == ((), ())


def test_the_file_goes_after_the_restart(host: Host) -> None:
    """A service that still has the variable would else start helpers without any configuration."""
    run(host, WEB, restart_ok=True)
    there: list[tuple[bool, bool]] = []

    def watch(unit: str) -> str | None:
        there.append((host.exists(WEB_DROP_IN), host.exists(WEB_CNF)))
        return None

    host.refuse_restart = watch
    run(host, WEB, present=False, restart_ok=True)
    assert there == [(False, True)]


def test_a_service_that_does_not_start_gets_its_old_configuration_back(host: Host) -> None:
    before = host.snapshot()
    host.refuse_restart = lambda unit: "it does not like that" if host.exists(WEB_DROP_IN) else None
    with pytest.raises(KtlsError, match=r"it does not like that.*it runs again") as caught:
        run(host, WEB, restart_ok=True)
    assert caught.value.code == "restart_failed"
    assert host.snapshot() == before
    assert host.loaded_environment("web.service") == []
    assert host.log[-1] == ("systemctl", "restart", "--", "web.service")


def test_a_service_that_never_starts_is_said_to(host: Host) -> None:
    host.refuse_restart = lambda unit: "broken anyway"
    with pytest.raises(KtlsError, match=r"without it web\.service did not restart"):
        run(host, WEB, restart_ok=True)


def test_the_unused_library_is_warned_about(host: Host) -> None:
    (warning,) = run(host, replace(WEB, services=("plain",))).warnings
    assert warning.startswith("plain.service runs without openssl")
    assert run(host, WEB).warnings == ()


# Check mode tells the truth


def starts(host: Host, name: str, request: Request) -> None:
    if name == "present":
        run(host, request)
    elif name == "restarted":
        run(host, request, services=("web",), restart_ok=True)
    elif name == "edited" and request.scope == "system" and request.backend == "openssl":
        run(host, request)
        host.write(CNF, host.read(CNF) + "# by hand\n")
    elif name == "edited":
        run(host, request)
        path = run(host, request).files[-1]
        host.write(path, host.read(path) + "# by hand\n")
    elif name == "orphaned":
        run(host, request)
        for record in (host.root / "var/lib/ktls-levers").iterdir():
            record.unlink()


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("start", ["bare", "present", "restarted", "edited", "orphaned"])
@pytest.mark.parametrize("request_name", ALL)
@pytest.mark.parametrize(
    ("present", "options"),
    [
        *((present, {"restart_ok": consent}) for present in (True, False) for consent in (True, False)),
        (False, {"keep_edited": True}),
    ],
)
def test_check_mode_tells_the_truth(
    host: Host, request_name: str, start: str, present: bool, options: dict[str, bool]
) -> None:
    request = replace(ALL[request_name], services=("web",))
    starts(host, start, request)
    before, environment = host.snapshot(), host.loaded_environment("web.service")

    def outcome(check: bool) -> Any:
        try:
            return run(host, request, check=check, present=present, **options).as_dict()
        except KtlsError as error:
            return error.code

    predicted = outcome(True)
    assert (host.snapshot(), host.loaded_environment("web.service")) == (before, environment)
    real = outcome(False)
    if isinstance(predicted, str):
        assert real == predicted
        assert host.snapshot() == before
        return
    for key in ("changed", "steps", "diff", "files", "restart_required", "restarted", "left_alone"):
        assert predicted[key] == real[key], key
    # A record is no change of the host; forgetting one alone is none, either.
    same = (on_host(host.snapshot()), host.loaded_environment("web.service")) == (on_host(before), environment)
    assert real["changed"] == (not same or bool(real["restarted"]))
    again = outcome(False)
    assert (again["changed"], again["steps"], again["diff"]) == (False, [], [])


# What is refused


def test_a_link_where_the_file_should_be(host: Host) -> None:
    target = host.root / "etc/ssl/openssl.cnf"
    target.rename(host.root / "etc/ssl/real.cnf")
    target.symlink_to("real.cnf")
    refused(host, SYSTEM, "symlink_in_the_way", "openssl.cnf is a symbolic link")


def test_a_link_of_the_directory_that_leads_elsewhere(host: Host) -> None:
    link = host.root / "usr/lib/ssl/openssl.cnf"
    link.unlink()
    link.symlink_to("/opt/openssl.cnf")
    refused(host, SYSTEM, "symlink_in_the_way", "to /opt/openssl.cnf")


@pytest.mark.parametrize("path", [WEB_CNF, WEB_DROP_IN])
def test_links_where_ours_should_be(host: Host, path: str) -> None:
    target = host.root / path[1:]
    target.parent.mkdir(parents=True)
    target.symlink_to("/etc/passwd")
    refused(host, WEB, "symlink_in_the_way")


@pytest.mark.parametrize("directory", ["etc/ssl", "etc/ktls-fleet"])
def test_a_directory_that_everybody_may_write(host: Host, directory: str) -> None:
    (host.root / directory).mkdir(exist_ok=True)
    (host.root / directory).chmod(0o777)
    refused(host, SYSTEM if directory == "etc/ssl" else WEB, "unsafe_directory", f"chmod o-w {host.root}/{directory}")


@pytest.mark.parametrize("request_name", ["system", "service"])
def test_a_file_that_openssl_cannot_read(host: Host, request_name: str) -> None:
    host.write(CNF, "openssl_conf = i\n[i\n")
    refused(host, ALL[request_name], "malformed_config", r"openssl\.cnf line 2: missing close square bracket")


@pytest.mark.parametrize("request_name", ["system", "service"])
def test_a_file_that_stops_programs_already(host: Host, request_name: str) -> None:
    host.write(CNF, "config_diagnostics = 1\nopenssl_conf = i\n[i]\nssl_conf = s\n[s]\nsystem_default = nosuch\n")
    said = refused(host, ALL[request_name], "malformed_config", "does not work as it is")
    assert "not found: name=system_default, value=nosuch" in said.message


def test_a_file_in_which_it_would_come_to_nothing(host: Host) -> None:
    """Without diagnostics an early mistake goes unnoticed, and what comes behind it is not read."""
    host.write(CNF, "openssl_conf = i\n[i]\nproviders = nosuch\n")
    refused(host, SYSTEM, "validation_failed", "does not ask for kernel TLS.*nothing was changed")


@pytest.mark.parametrize("request_name", ["gnutls system", "gnutls service"])
@pytest.mark.parametrize("text", ["[global]\nktls\n", "[global]\nno-such-setting = 1\n"], ids=["syntax", "setting"])
def test_a_file_that_gnutls_cannot_read(host: Host, request_name: str, text: str) -> None:
    host.write("/etc/gnutls/config", text)
    refused(host, ALL[request_name], "malformed_config", "/etc/gnutls/config")


def test_unknown_services(host: Host) -> None:
    refused(host, WEB, "unknown_service", "no service nosuch.service", services=("web", "nosuch"))
    refused(host, WEB, "bad_service_name", services=("web; reboot",))
    refused(host, WEB, "service_required", services=())
    refused(host, SYSTEM, "unknown_service", services=("nosuch",), restart_ok=True)
    host.systemd = False
    refused(host, WEB, "no_systemd", "scope: system")


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ("RootDirectory=/srv/jail", "root directory of its own"),
        ("UnsetEnvironment=OPENSSL_CONF", "UnsetEnvironment="),
        ("EnvironmentFile=/etc/default/web", "EnvironmentFile=/etc/default/web"),
        ("Environment=OPENSSL_CONF=conf/%i.cnf", "specifier"),
        ("Environment=OPENSSL_CONF=conf/a.cnf", "relative"),
    ],
)
def test_services_that_a_drop_in_does_not_reach(host: Host, line: str, match: str) -> None:
    host.write("/etc/default/web", "OPENSSL_CONF=/x\n")
    host.unit("web.service", f"[Service]\n{line}\nExecStart=/bin/web\n")
    refused(host, WEB, "service_unreachable", match)


def test_another_drop_in_wins(host: Host) -> None:
    """Only systemd can tell, once it has read ours."""
    host.write("/etc/systemd/system/web.service.d/zzz.conf", "[Service]\nEnvironment=OPENSSL_CONF=/x.cnf\n")
    host.reload()
    before = host.snapshot()
    with pytest.raises(KtlsError, match=r"would not get OPENSSL_CONF=.*everything is as it was before") as caught:
        run(host, WEB)
    assert caught.value.code == "validation_failed"
    assert host.snapshot() == before
    assert host.loaded_environment("web.service") == ["OPENSSL_CONF=/x.cnf"]
    assert run(host, replace(WEB, present=False)).restart_required == ()


def test_libraries_that_cannot(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    state = GnutlsState("libgnutls.so.30", "3.8.9", False, "/etc/gnutls/config", None)
    monkeypatch.setattr(gnutls, "probe", lambda root="/": state)
    refused(host, GNUTLS_SYSTEM, "gnutls_without_ktls", "Debian and Ubuntu leave it out.*allow_inert")
    report = run(host, GNUTLS_SYSTEM, allow_inert=True)
    assert report.warnings == ("GnuTLS 3.8.9 was built without kernel TLS: the setting does nothing",)
    assert report.effective[0]["built"] is False
    # Taking it back needs no library at all.
    monkeypatch.setattr(gnutls, "probe", lambda root="/": GnutlsState())
    assert codes(run(host, GNUTLS_SYSTEM, present=False)) == ["remove"]
    refused(host, GNUTLS_SYSTEM, "gnutls_missing")

    monkeypatch.setattr(
        openssl_lib, "probe", lambda: OpensslState("libcrypto.so.3", "OpenSSL 3.9.9", 0x30900090, False)
    )
    refused(host, SYSTEM, "openssl_without_ktls", "built without kernel TLS")
    assert run(host, SYSTEM, check=True, allow_inert=True).warnings[0].startswith("OpenSSL 3.9.9")
    monkeypatch.setattr(openssl_lib, "probe", lambda: OpensslState("libcrypto.so.1.1", "OpenSSL 1.1.1w", 0x1010117F))
    # That one would not start with an option that it does not know.
    refused(host, SYSTEM, "openssl_without_ktls", "OpenSSL 3.0 and later have", allow_inert=True)
    monkeypatch.setattr(openssl_lib, "probe", OpensslState)
    refused(host, SYSTEM, "openssl_missing")


# What others did


def test_a_host_that_asks_already_is_left_as_it_is(host: Host) -> None:
    text = "openssl_conf = i\n[i]\nssl_conf = s\n[s]\nsystem_default = d\n[d]\nOptions = KTLS\n"
    host.write(CNF, text)
    host.write("/etc/gnutls/config", "[global]\nktls = true\n")
    before = host.snapshot()
    for request in (SYSTEM, GNUTLS_SYSTEM):
        report = run(host, request)
        assert (report.steps, report.files) == ((), ())
        assert report.effective[0]["ktls"] is True
        assert run(host, request, present=False).steps == ()
    assert host.snapshot() == before


def test_files_edited_by_hand_are_left_alone(host: Host) -> None:
    run(host, SYSTEM)
    host.write(CNF, host.read(CNF) + "# by hand\n")
    # Our part is still there, so there is nothing to do.
    assert run(host, SYSTEM).steps == ()
    refused(host, SYSTEM, "edited_meanwhile", CNF, present=False)
    report = run(host, SYSTEM, present=False, keep_edited=True)
    assert (report.steps, report.left_alone) == ((), (CNF,))
    assert host.read(CNF).endswith("# by hand\n")
    # And now it is theirs, with lines of ours in it.
    refused(host, SYSTEM, "record_missing", "by hand", present=False)
    assert run(host, SYSTEM, present=False, keep_edited=True).left_alone == (CNF,)


def test_a_block_taken_out_by_hand_is_no_edit(host: Host) -> None:
    before = host.snapshot()
    run(host, SYSTEM)
    host.write(CNF, (policyhost.FIXTURES / "debian12-openssl.cnf").read_text())
    assert run(host, SYSTEM, present=False).steps == ()
    assert set(host.snapshot()) == set(before)


def test_a_setting_that_takes_ours_back_is_noticed(host: Host) -> None:
    host.write(CNF, "openssl_conf = i\n[i]\nssl_conf = s\n[s]\nsystem_default = d\n[d]\nMinProtocol = TLSv1.2\n")
    run(host, SYSTEM)
    host.write(CNF, host.read(CNF) + "[d]\nmine.Options = -KTLS\n")
    refused(host, SYSTEM, "not_effective", "taken back")


def test_an_edited_drop_in_keeps_what_it_points_to(host: Host) -> None:
    run(host, WEB)
    host.write(WEB_DROP_IN, host.read(WEB_DROP_IN) + "Nice=5\n")
    report = run(host, WEB, present=False, keep_edited=True)
    assert (report.steps, set(report.left_alone)) == ((), {WEB_CNF, WEB_DROP_IN})
    assert host.exists(WEB_CNF)
    for keep in (True, False):
        assert set(run(host, WEB, present=False, keep_edited=keep).left_alone) == {WEB_CNF, WEB_DROP_IN}
    assert host.exists(WEB_CNF)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("request_name", ["service", "gnutls service", "gnutls system"])
def test_own_files_without_their_record_go(host: Host, request_name: str) -> None:
    before = host.snapshot()
    request = ALL[request_name]
    run(host, request)
    for record in (host.root / "var/lib/ktls-levers").iterdir():
        record.unlink()
    assert run(host, request).steps == ()
    assert "remove" in codes(run(host, request, present=False))
    after = host.snapshot()
    # Who made the directory of the drop-in is not known any more.
    assert {path for path in after if path not in before} <= {"etc/systemd/system/web.service.d", "etc/gnutls"}
    assert host.loaded_environment("web.service") == []


def test_own_files_without_their_record_are_not_taken_for_the_original(host: Host) -> None:
    run(host, WEB)
    for record in (host.root / "var/lib/ktls-levers").iterdir():
        record.unlink()
    host.unit("web.service", "[Service]\nEnvironment=OPENSSL_CONF=/etc/other.cnf\nExecStart=/bin/web\n")
    assert codes(run(host, WEB)) == ["configure"]
    run(host, WEB, present=False)
    assert not host.exists(WEB_CNF) and not host.exists(WEB_DROP_IN)


def test_a_block_without_its_record_is_not_guessed_at(host: Host) -> None:
    run(host, SYSTEM)
    for record in (host.root / "var/lib/ktls-levers").iterdir():
        record.unlink()
    assert run(host, SYSTEM).steps == ()
    refused(host, SYSTEM, "record_missing", CNF, present=False)
    host.write(CNF, host.read(CNF).replace("ktls_fleet_ssl", "ktls_fleet_other"))
    refused(host, SYSTEM, "record_missing", CNF)


# Several of them


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("order", list(itertools.permutations(ALL)), ids="-".join)
def test_each_goes_alone_and_the_last_leaves_nothing(host: Host, order: tuple[str, ...]) -> None:
    before = host.snapshot()
    for name in ALL:
        run(host, ALL[name])
    for at, name in enumerate(order):
        run(host, ALL[name], present=False)
        for other in order[at + 1 :]:
            report = run(host, ALL[other], check=True)
            assert (report.steps, report.effective[0]["ktls"]) == ((), True), other
    assert host.snapshot() == before


@pytest.mark.usefixtures("quick")
def test_several_services_at_once_are_all_or_none(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    before = host.snapshot()
    both = replace(WEB, services=("web", "mail", "web.service"))
    write, written = files.atomic_write, []

    def failing(path: str, *rest: Any, **more: Any) -> None:
        if path.startswith(f"{host.root}/etc"):
            written.append(path)
            if len(written) == 4:
                raise KtlsError("write_failed", f"cannot write {path} (No space left on device)")
        write(path, *rest, **more)

    monkeypatch.setattr(files, "atomic_write", failing)
    with pytest.raises(KtlsError, match="No space left") as caught:
        run(host, both)
    assert caught.value.code == "write_failed"
    assert len(written) == 4
    assert host.snapshot() == before
    # Nothing came of it, so nobody runs by an old configuration.
    assert run(host, both, check=True, present=False).restart_required == ()
    host.log.clear()
    report = run(host, both)
    assert codes(report) == ["configure", "drop_in", "configure", "drop_in", "daemon_reload"]
    assert host.log.count(("systemctl", "daemon-reload")) == 1
    run(host, both, present=False)
    assert host.snapshot() == before


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("request_name", ALL)
@pytest.mark.parametrize("nth", range(1, 6))
def test_a_disk_that_takes_no_more_changes_nothing(
    host: Host, monkeypatch: pytest.MonkeyPatch, request_name: str, nth: int
) -> None:
    """The nth file, wherever it is, record and notes included."""
    before = host.snapshot()
    write, written = files._write_new, []

    def failing(path: str, *rest: Any, **more: Any) -> None:
        written.append(path)
        if len(written) == nth:
            raise OSError(28, "No space left on device")
        write(path, *rest, **more)

    monkeypatch.setattr(files, "_write_new", failing)
    try:
        run(host, ALL[request_name])
    except KtlsError as error:
        assert error.code == "write_failed", error.message
        assert "No space left on device" in error.message
        assert not error.message.endswith("repeat with state: absent")
        after = {path: entry for path, entry in host.snapshot().items() if path != "var/lib/ktls-levers"}
        assert after == before
        assert host.loaded_environment("web.service") == []
        assert originals.levers(str(host.root)) == ()
    else:
        assert nth >= len(written)


def test_a_narrow_umask_does_not_close_it_to_the_service(host: Host) -> None:
    before = os.umask(0o077)
    try:
        run(host, WEB)
        assert os.umask(0o077) == 0o077
    finally:
        os.umask(before)
    for path in ("etc/ktls-fleet", "etc/ktls-fleet/policy", "etc/systemd/system/web.service.d"):
        assert (host.root / path).stat().st_mode & 0o777 == 0o755, path
    assert (host.root / WEB_CNF[1:]).stat().st_mode & 0o777 == 0o644


def test_two_at_a_time_wait_for_each_other(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    original = originals.lock
    monkeypatch.setattr(originals, "lock", lambda root: original(root, wait_s=0.1))
    with original(str(host.root)):
        refused(host, SYSTEM, "levers_busy")


def test_nothing_is_left_in_run_but_the_note(host: Host) -> None:
    run(host, SYSTEM)
    (host.root / "run/ktls-levers/0123456789abcdef.candidate").write_text("of one who was killed")
    run(host, SYSTEM, check=True)
    left = sorted(path.name for path in (host.root / "run/ktls-levers").iterdir())
    assert left == ["policy:openssl:system.changed"]


def test_the_environment_of_the_caller_does_not_count(
    host: Host, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Who runs this may have OPENSSL_CONF set; what is asked about is the file."""
    (tmp_path / "mine.cnf").write_text(
        "openssl_conf = i\n[i]\nssl_conf = s\n[s]\nsystem_default = d\n[d]\nOptions = KTLS\n"
    )
    monkeypatch.setenv("OPENSSL_CONF", str(tmp_path / "mine.cnf"))
    assert codes(run(host, SYSTEM)) == ["configure"]

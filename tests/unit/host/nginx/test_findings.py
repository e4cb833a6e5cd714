# SPDX-License-Identifier: Apache-2.0
"""What is read from ``nginx -V`` and ``nginx -T``, recorded and written by hand."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from ktls_host.nginx import build, findings, settings, syntax
from ktls_host.nginx.build import Build
from ktls_host.nginx.dropin import Places

HERE = Path(__file__).parent
GOOD = Build(version="1.26.3", openssl="3.5.5", library="OpenSSL 3.5.5", ssl=True)
FOUR = """# configuration file /etc/nginx/nginx.conf:
user www-data;  # "no { block"
http {
    include conf.d/*.conf;
    log_format odd '$a "{;} \\'$b' "x
y";
    include /etc/nginx/sites-enabled/*;
    content_by_lua_block { if a then return "}" .. "{" end -- ; { }
    }
    server { listen 443 ssl; server_name ${host}x; location ~ \\.(a|b)$ { sendfile off; } }
}
stream { server { listen 853 ssl; proxy_pass x; } }

# configuration file /etc/nginx/conf.d/ktls-on.conf:
ssl_conf_command Options KTLS;
# configuration file /etc/nginx/sites-enabled/one:
server {
    listen [::]:8443 ssl http2 default_server;
    ssl_conf_command Options PrioritizeChaCha;
    aio on; directio 4m; limit_rate 1m; gzip on;
    access_log /var/log/one.log;
}
# configuration file /etc/nginx/sites-enabled/two:
server { listen 10.0.0.1:9443 ssl; ssl_conf_command Options "ServerPreference,KTLS"; }
"""


@pytest.mark.parametrize("name", ["debian12", "debian13"])
def test_recorded_builds(name: str) -> None:
    found = build.parse((HERE / f"{name}-V.txt").read_text())
    version, openssl, both = {"debian12": ("1.22.1", "3.0", False), "debian13": ("1.26.3", "3.5", True)}[name]
    assert found.version == version
    assert found.openssl.startswith(openssl)
    assert found.library.startswith(f"OpenSSL {openssl}")
    assert found.both_ways is both
    assert found.ssl
    assert found.http_log == "/var/log/nginx/access.log"
    assert list(findings.refusals(found, findings.Site(http=True, takes_in=True), Places())) == []


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("nginx version: nginx/1.20.1\nbuilt with OpenSSL 3.0.1\n--with-http_ssl_module", "nginx_too_old"),
        ("nginx version: nginx/1.26.3\nconfigure arguments: --prefix=/x", "nginx_without_ssl"),
        (
            "nginx version: nginx/1.26.3\nbuilt with OpenSSL 1.1.1 (compatible; BoringSSL) (running with BoringSSL)\n"
            "--with-http_ssl_module",
            "nginx_other_library",
        ),
        ("nginx version: nginx/1.26.3\nbuilt with LibreSSL 4.0.0\n--with-http_ssl_module", "nginx_other_library"),
        ("nginx version: nginx/1.26.3\nbuilt with OpenSSL 1.1.1w\n--with-http_ssl_module", "nginx_other_library"),
    ],
)
def test_builds_that_cannot(said: str, code: str) -> None:
    found = build.parse(said)
    reasons = list(findings.refusals(found, findings.Site(http=True, takes_in=True), Places()))
    assert [reason.code for reason in reasons] == [code]


def test_running_library_counts_and_not_the_one_built_with() -> None:
    found = build.parse(
        "nginx version: nginx/1.22.1\nbuilt with OpenSSL 3.0.22 25 Aug 2026 (running with OpenSSL 3.5.5 1)"
    )
    assert found.openssl == "3.5.5"
    assert found.library == "OpenSSL 3.5.5 1"


def test_the_configuration_is_read_as_nginx_reads_it() -> None:
    dump = syntax.split(FOUR)
    assert list(dump.files) == [
        "/etc/nginx/nginx.conf",
        "/etc/nginx/conf.d/ktls-on.conf",
        "/etc/nginx/sites-enabled/one",
        "/etc/nginx/sites-enabled/two",
    ]
    top = syntax.tree(dump)
    assert [one.name for one in top] == ["user", "http", "stream"]
    http = top[1].block or ()
    assert [one.name for one in http] == [
        "include", "ssl_conf_command", "log_format", "include", "server", "server", "content_by_lua_block", "server",
    ]  # fmt: skip
    assert http[2].args == ("odd", "$a \"{;} '$b", "x\ny")
    last = http[-1].block or ()
    assert last[1].args == ("${host}x",)
    assert last[2].args == ("~", "\\.(a|b)$")
    assert last[2].where == "/etc/nginx/nginx.conf:9"


def test_the_site() -> None:
    found = findings.site(syntax.split(FOUR), Places())
    assert found.takes_in
    assert found.ports == (443, 8443, 9443)
    assert not found.sendfile
    assert not found.logs, "one of a server block is none of the http block"
    assert not findings.site(syntax.split(FOUR), Places("/etc/nginx/elsewhere")).takes_in
    assert not findings.site(syntax.split("# configuration file /x:\nevents {}\n"), Places()).http


def test_every_caveat_is_named_with_its_place() -> None:
    found = {reason.code: reason.message for reason in findings.notes(GOOD, syntax.split(FOUR))}
    assert found.keys() == {
        "nginx_own_ssl_conf_command", "nginx_ktls_by_itself", "nginx_sendfile_off", "nginx_reads_around_sendfile",
        "nginx_limit_rate", "nginx_changes_bodies", "nginx_http2", "nginx_stream_not_reached", "nginx_own_access_log",
        "nginx_reload_ends_keepalive",
    }  # fmt: skip
    one = "/etc/nginx/sites-enabled/one"
    assert f"{one}:1" in found["nginx_own_ssl_conf_command"]
    assert "two" not in found["nginx_own_ssl_conf_command"]
    assert "/etc/nginx/sites-enabled/two:1" in found["nginx_ktls_by_itself"]
    assert "/etc/nginx/nginx.conf:9" in found["nginx_sendfile_off"]
    assert "aio, directio" in found["nginx_reads_around_sendfile"]
    assert "issue 651" in found["nginx_http2"]
    assert (
        "issue 651"
        not in {
            reason.code: reason.message
            for reason in findings.notes(build.parse((HERE / "debian12-V.txt").read_text()), syntax.split(FOUR))
        }["nginx_http2"]
    )
    quiet = "# configuration file /n:\nhttp { sendfile on; aio threads; gzip off; server { listen 443 ssl; } }\n"
    new = Build(version="1.28.0", openssl="3.5.5", library="OpenSSL 3.5.5", ssl=True)
    assert list(findings.notes(new, syntax.split(quiet))) == []


@pytest.mark.parametrize(
    ("pattern", "path", "takes"),
    [
        ("conf.d/*.conf", "/etc/nginx/conf.d/ktls-on.conf", True),
        ("/etc/nginx/*/*.conf", "/etc/nginx/conf.d/ktls-on.conf", True),
        ("/etc/nginx/*.conf", "/etc/nginx/conf.d/ktls-on.conf", False),
        ("conf.d/*.conf", "/etc/nginx/conf.d/ktls-on.conf.off", False),
        ("conf.d/*", "/etc/nginx/conf.d/.hidden", False),
    ],
)
def test_include_is_glob(pattern: str, path: str, takes: bool) -> None:
    assert syntax.included(pattern, path, "/etc/nginx") is takes


def test_debian_s_own_configuration(tmp_path: Path) -> None:
    program = shutil.which("nginx", path="/usr/sbin:/usr/bin")
    assert program, "tools/prepare installs it"
    done = subprocess.run([program, "-T"], capture_output=True, text=True, check=False)
    dump = syntax.split(done.stdout) if done.returncode == 0 else syntax.split((HERE / "debian13-T.txt").read_text())
    found = findings.site(dump, Places())
    assert (found.http, found.takes_in, found.sendfile, found.logs) == (True, True, True, True)


def test_settings_are_words_and_nothing_else() -> None:
    good = {"probe_port": 8444, "server_name": "web1.example.org"}
    assert settings.parse(good, "x").places.on == "/etc/nginx/conf.d/ktls-on.conf"
    assert b"on=/etc/nginx/conf.d/ktls-on.conf\n" in settings.for_shell(good)
    for odd in (
        {"server_name": "a; include /etc/shadow"},
        {"directory": "/etc/cron.d"},
        {"directory": "/etc/nginx/../cron.d"},
        {"unit": "x.service y"},
        {"program": "nginx"},
        {"probe_port": True},
        {"colour": 1},
        {"log": "no"},
    ):
        with pytest.raises(Exception, match="x: "):
            settings.parse({**good, **odd}, "x")

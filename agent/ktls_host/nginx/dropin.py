# SPDX-License-Identifier: Apache-2.0
"""The two files that we put beside nginx's own: one that stays, and the switch. Pure.

``ktls-base.conf``: the log by which requests are counted, and a server block on loopback with the probe object, so that
the agent's own download goes through this very nginx. It switches nothing. ``ktls-on.conf``: kernel TLS. That file is
there, or it is not: ``ktls-off`` takes it away. It is read after the other (glob(3) sorts), and so what it says of
``$ktls_mode`` wins: a variable of map that is defined again is the later one (ngx_http_add_variable). A worker keeps
what it was started with, so each line of the log is labelled with what its connection could get.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

BASE = "ktls-base.conf"
ON = "ktls-on.conf"
OWED = "ktls-on.conf.off"
"""What the switch is renamed to on its way out, until nginx has been told: no ``*.conf``, so nginx does not read it."""
DIRECTORY = "/etc/nginx/conf.d"
LOG_SOCKET = "/run/ktls-nginx-log.sock"
PROBE_ROOT = "/usr/local/lib/ktls/probe"
TAG = "ktls"
MARK = "k1"
FIELDS = (
    "ktls_mode",
    "connection",
    "connection_requests",
    "ssl_protocol",
    "ssl_cipher",
    "status",
    "bytes_sent",
    "request_length",
    "request_time",
    "request_completion",
)
"""What a line of the log has after its mark, in order. Nothing of it is the client's text."""
_HEAD = "# SPDX-License-Identifier: Apache-2.0\n"
_LABEL = re.compile(r'^map "" \$ktls_mode \{ default (\w+); \}$', re.MULTILINE)


@dataclass(frozen=True)
class Places:
    """Where the drop-ins are. ``directory`` is one that nginx's http block includes ``*.conf`` of."""

    directory: str = DIRECTORY

    @property
    def base(self) -> str:
        """Return the path of the file that stays."""
        return f"{self.directory}/{BASE}"

    @property
    def on(self) -> str:
        """Return the path of the switch."""
        return f"{self.directory}/{ON}"

    @property
    def owed(self) -> str:
        """Return the path of a switch that was taken away while nginx may not know yet."""
        return f"{self.directory}/{OWED}"


@dataclass(frozen=True)
class BaseSettings:
    """What goes into the base. ``default_log``: nginx's own default, written out where nobody set an access_log.

    One of ours would replace it. ``log``: whether requests are counted.
    """

    port: int
    server_name: str
    certificate: str
    key: str
    log: bool = True
    default_log: str = ""


def base(settings: BaseSettings) -> bytes:
    """Return the file that stays."""
    lines = [
        "# Of ktls-fleet (docs/nginx.md). It switches nothing by itself. Leave it as it is.",
        'map "" $ktls_mode { default userspace; }',
    ]
    if settings.log:
        values = " ".join(f"${name}" for name in FIELDS)
        lines += [
            f"log_format ktls '{MARK} {values}';",
            "# To a socket that systemd holds open: no file grows, and nobody waits for whoever reads.",
            f"access_log syslog:server=unix:{LOG_SOCKET},nohostname,tag={TAG} ktls if=$ssl_protocol;",
        ]
        if settings.default_log:
            lines.append(f"access_log {settings.default_log} combined;")
    lines += [
        "server {",
        f"    listen 127.0.0.1:{settings.port} ssl;",
        f"    server_name {settings.server_name};",
        f"    ssl_certificate {settings.certificate};",
        f"    ssl_certificate_key {settings.key};",
        f"    root {PROBE_ROOT};",
        "    access_log off;",
        "    gzip off;",
        "}",
    ]
    return (_HEAD + "\n".join(lines) + "\n").encode()


def on(phase: str, sendfile: bool) -> bytes:
    """Return the switch for ``phase``. ``sendfile``: whether to set it, which nginx takes only once on a level."""
    lines = [
        "# Of ktls-fleet (docs/nginx.md): new connections use kernel TLS while this is here. `ktls-off` takes it away.",
        f'map "" $ktls_mode {{ default {phase}; }}',
        "ssl_conf_command Options KTLS;",
    ]
    if sendfile:
        lines.append("sendfile on;")
    return (_HEAD + "\n".join(lines) + "\n").encode()


def phase_of(text: str | None) -> str | None:
    """Return the phase that a switch was written for; None for no switch, or one that is none of ours."""
    found = _LABEL.search(text or "")
    return found[1] if found else None

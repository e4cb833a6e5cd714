# SPDX-License-Identifier: Apache-2.0
"""A real nginx on loopback, in a directory of its own; systemd is played."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from ktls_host.commands import CommandResult, Runner
from ktls_host.nginx.root import Nginx
from ktls_host.nginx.settings import Settings

PROGRAM = "/usr/sbin/nginx"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Played(Runner):
    """Runs nginx for real, with what is below the directory shown as if it were the root; systemctl is nginx -s."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.ran: list[tuple[str, ...]] = []
        self.config = f"{root}/etc/nginx/nginx.conf"
        self.reloads = True

    def run(self, argv: Sequence[str], stdin: str | None = None) -> CommandResult:
        self.ran.append(tuple(argv))
        command = [*argv]
        if argv[0] == "systemctl":
            assert tuple(argv[1:]) == ("reload", "nginx.service")
            command = [PROGRAM, "-s", "reload"] if self.reloads else ["true"]
        if command[0] == PROGRAM:
            command += ["-c", self.config]
        done = super().run(command, stdin)
        return CommandResult(done.rc, self._plain(done.stdout), self._plain(done.stderr))

    def _plain(self, text: str) -> str:
        return text.replace(str(self.root), "")


class Host:
    """nginx, and what a client sees of it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.port, self.probe_port = free_port(), free_port()
        self.runner = Played(root)
        self.settings = Settings(probe_port=self.probe_port, server_name="localhost")
        self.conf = root / "etc/nginx/nginx.conf"
        self.drop_ins = root / "etc/nginx/conf.d"
        self.on = self.drop_ins / "ktls-on.conf"
        self.base = self.drop_ins / "ktls-base.conf"

    def write(self, http: str = "sendfile on; access_log off;", server: str = "") -> None:
        self.drop_ins.mkdir(parents=True, exist_ok=True)
        self.conf.write_text(
            f"user root; error_log {self.root}/error.log info; pid {self.root}/nginx.pid; worker_processes 2;\n"
            "events { worker_connections 128; }\n"
            f"http {{ {http}\n"
            f"  client_body_temp_path {self.root}/t1; proxy_temp_path {self.root}/t2;\n"
            f"  fastcgi_temp_path {self.root}/t3; uwsgi_temp_path {self.root}/t4; scgi_temp_path {self.root}/t5;\n"
            f"  ssl_certificate {self.root}/cert.pem; ssl_certificate_key {self.root}/key.pem;\n"
            f"  include {self.root}/etc/nginx/conf.d/*.conf;\n"
            f"  server {{ listen 127.0.0.1:{self.port} ssl; root {self.root}/www; {server} }}\n}}\n"
        )

    def start(self) -> None:
        subprocess.run([PROGRAM, "-c", str(self.conf)], check=True, capture_output=True)
        while len(self.nginx().processes().workers) < 2:
            time.sleep(0.01)

    def stop(self) -> None:
        master = self.nginx().processes().master
        if master is not None:
            os.kill(master, 15)

    def pids(self) -> tuple[int, ...]:
        try:
            master = int((self.root / "nginx.pid").read_text())
            children = Path(f"/proc/{master}/task/{master}/children").read_text()
        except (OSError, ValueError):
            return ()
        return (master, *map(int, children.split()))

    def nginx(self) -> Nginx:
        return Nginx(self.settings, str(self.root), self.runner, self.pids)

    def said(self) -> str:
        return (self.root / "error.log").read_text()

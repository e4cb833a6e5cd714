# SPDX-License-Identifier: Apache-2.0
"""nginx and the sidecar as processes: configured alike, pinned to CPUs, without privileges, on loopback."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import proc
from bench.errors import BenchError
from bench.settings import CIPHER
from bench.stage import Stage

REPOSITORY = Path(__file__).resolve().parent.parent
START_S = 60.0
"""An emulated CPU needs some seconds for Python alone."""
STOP_S = 30.0
_QUIET_S = 900
"""No server closes an idle connection while something is measured."""
_MAX_CONNECTIONS = 8192


def nginx_conf(stage_root: str, certificate: str, key: str, prefix: str, port: int, workers: int, ktls: bool) -> str:
    """Return nginx.conf: the defaults of the distribution where nothing else is needed for a like comparison."""
    temporary = "\n".join(
        f"    {name}_temp_path {prefix}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    options = "    ssl_conf_command Options KTLS;\n" if ktls else ""
    return f"""daemon off;
worker_processes {workers};
pid {prefix}/nginx.pid;
error_log {prefix}/error.log warn;
events {{
    worker_connections {_MAX_CONNECTIONS};
}}
http {{
    access_log {prefix}/access.log;
    default_type application/octet-stream;
    sendfile on;
    tcp_nopush on;
    keepalive_timeout {_QUIET_S};
    keepalive_requests 1000000000;
{temporary}
    ssl_certificate {certificate};
    ssl_certificate_key {key};
    ssl_protocols TLSv1.3;
    ssl_conf_command Ciphersuites {CIPHER};
{options}    server {{
        listen 127.0.0.1:{port} ssl{" reuseport" if workers > 1 else ""};
        root {stage_root};
    }}
}}
"""


def sidecar_config(stage_root: str, certificate: str, key: str, prefix: str, port: int, workers: int) -> dict[str, Any]:
    """Return the sidecar's configuration."""
    return {
        "listen": [{"host": "127.0.0.1", "port": port}],
        "root": stage_root,
        "certificate": certificate,
        "key": key,
        "control_socket": f"{prefix}/control.sock",
        "http_socket": None,
        "control_group": None,
        "off_flags": [f"{prefix}/off"],
        "access_log": True,
        "idle_timeout_s": _QUIET_S,
        "max_connections": _MAX_CONNECTIONS,
        "workers": workers,
    }


def free_port() -> int:
    """Return a port of 127.0.0.1 that is free now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Server:
    """A running server. Use as a context: it is ended at the end."""

    def __init__(self, name: str, stage: Stage, label: str, cpus: Sequence[int]) -> None:
        """``label`` names its directory. Nothing runs yet."""
        self.name = name
        self.cpus = list(cpus)
        self.stage = stage
        self.port = free_port()
        self.prefix = stage.make_directory(label)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The first process, whose descendants are the workers."""
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> Server:
        """Start it and wait until it accepts. Raises BenchError with its own last words."""
        self.start()
        return self

    def __exit__(self, *_details: object) -> None:
        """End it, by force if it does not end by itself, and remove its directory."""
        self.stop()
        shutil.rmtree(self.prefix, ignore_errors=True)

    def start(self) -> None:
        """Start the process. Raises BenchError."""
        raise NotImplementedError

    def stop(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            for stat in proc.processes(process.pid):
                os.kill(stat.pid, signal.SIGKILL)
            process.wait()

    def forget_logs(self) -> None:
        """Empty the access log, which grows by the second."""
        log = self.prefix / "access.log"
        if log.exists():
            os.truncate(log, 0)

    def last_words(self) -> str:
        """Return the last lines that it wrote about itself."""
        path = self.prefix / "error.log"
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
        return " / ".join(lines[-3:]) or "it said nothing"

    def _spawn(self, command: Sequence[str], environment: dict[str, str] | None = None) -> None:
        pinned = ["taskset", "--cpu-list", ",".join(map(str, self.cpus)), *command]
        extra: dict[str, Any] = {}
        if self.stage.user is not None:
            extra = {"user": self.stage.user, "group": "nogroup", "extra_groups": []}
        with (
            open(self.prefix / "access.log", "ab") as out,
            open(self.prefix / "error.log", "ab") as err,
        ):
            self.stage.own(self.prefix / "access.log")
            self.stage.own(self.prefix / "error.log")
            self._process = subprocess.Popen(
                pinned, stdin=subprocess.DEVNULL, stdout=out, stderr=err, cwd="/", env=environment, **extra
            )

    def _wait_until_it_accepts(self) -> None:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            assert self._process is not None
            if self._process.poll() is not None:
                break
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                time.sleep(0.05)
        words = self.last_words()
        self.stop()
        raise BenchError(f"{self.name} does not accept connections: {words}")


class Nginx(Server):
    """nginx of the distribution."""

    def __init__(self, stage: Stage, cpus: Sequence[int], workers: int, ktls: bool) -> None:
        """``ktls``: with kernel TLS, which nginx then uses for sending and, where OpenSSL can, for receiving."""
        super().__init__("nginx", stage, "nginx", cpus)
        self._workers = workers
        self._ktls = ktls

    def start(self) -> None:
        """Check the configuration with ``nginx -t``, then start. Raises BenchError."""
        stage = self.stage
        path = self.prefix / "nginx.conf"
        paths = (str(stage.root), str(stage.certificate), str(stage.key), str(self.prefix))
        path.write_text(nginx_conf(*paths, self.port, self._workers, self._ktls), encoding="utf-8")
        command = ["nginx", "-p", str(self.prefix), "-e", str(self.prefix / "error.log"), "-c", str(path)]
        user: dict[str, Any] = {} if stage.user is None else {"user": stage.user, "group": "nogroup"}
        test = subprocess.run([*command, "-t"], capture_output=True, text=True, check=False, **user)
        if test.returncode != 0:
            raise BenchError(f"nginx refuses its configuration: {' '.join(test.stderr.split())}")
        self._spawn(command)
        self._wait_until_it_accepts()


class Sidecar(Server):
    """The sidecar, through its command line and control socket only."""

    def __init__(self, stage: Stage, cpus: Sequence[int], workers: int, mode: str, label: str = "sidecar") -> None:
        """``mode``: what new connections use, ordered over the control socket."""
        super().__init__("sidecar", stage, label, cpus)
        self._workers = workers
        self._mode = mode

    def start(self) -> None:
        """Start it and order the mode. Raises BenchError."""
        stage = self.stage
        paths = (str(stage.root), str(stage.certificate), str(stage.key), str(self.prefix))
        config = sidecar_config(*paths, self.port, self._workers)
        try:
            self._start(config)
        except BenchError:
            # A sidecar with one worker only does not know the key.
            if self._workers != 1 or "unknown key 'workers'" not in self.last_words():
                raise
            del config["workers"]
            self._start(config)
        self._order_mode()

    def _start(self, config: dict[str, Any]) -> None:
        path = self.prefix / "sidecar.json"
        path.write_text(json.dumps(config), encoding="utf-8")
        places = [str(REPOSITORY / "agent"), str(REPOSITORY / "vendor"), os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, "PYTHONPATH": ":".join(filter(None, places)), "PYTHONDONTWRITEBYTECODE": "1"}
        self._spawn([sys.executable, "-m", "ktls_sidecar", "--config", str(path)], environment)
        self._wait_until_it_accepts()

    def _order_mode(self) -> None:
        deadline = time.monotonic() + START_S
        path = self.prefix / "control.sock"
        while True:
            try:
                answer = control(str(path), {"verb": "mode", "mode": self._mode})
                break
            except BenchError:
                # Not there yet, or there and not listening yet.
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
        if not answer.get("ok"):
            error = answer.get("error", {})
            raise BenchError(f"the sidecar refuses mode {self._mode}: {error.get('message', answer)}")


def control(path: str, request: dict[str, Any]) -> dict[str, Any]:
    """Ask the sidecar's control socket: one JSON object a line each way. Raises BenchError."""
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(START_S)
            sock.connect(path)
            sock.sendall(json.dumps(request).encode() + b"\n")
            line = sock.makefile("rb").readline()
        answer = json.loads(line)
    except (OSError, ValueError) as error:
        raise BenchError(f"the sidecar's control socket does not answer: {error}") from error
    return dict(answer)

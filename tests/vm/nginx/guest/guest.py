# SPDX-License-Identifier: Apache-2.0
"""Runs on the host under test, as root: ``python3 guest.py VERB``. Prints one JSON object. Standard library only.

``load`` is a process of its own: wrk with a connection for each request, and curl downloads that are hashed. One is
slow, so that it lives through switches. ``start-load SECONDS``: how long curl waits between two (default: 1).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

HERE = Path("/run/nginx-test")
CA, WWW = "/etc/nginx/site.pem", Path("/srv/www")
ON = Path("/etc/nginx/conf.d/ktls-on.conf")
SLOW = "300k"  # bytes a second


def curl(name: str, *options: str) -> list[str]:
    return ["curl", "-sS", "--fail", "--http1.1", "--cacert", CA, "--resolve", "site:443:127.0.0.1", *options,
            f"https://site/{name}"]  # fmt: skip


def load(pause_s: float) -> None:
    """Until SIGTERM; then what came of it is in ``load.json``."""
    HERE.mkdir(exist_ok=True)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    wanted = {name: hashlib.sha256((WWW / name).read_bytes()).hexdigest() for name in ("small", "large")}
    done = {"downloads": 0, "slow": 0}
    wrong: list[str] = []

    def download(name: str, kind: str, *options: str) -> None:
        while not stop.is_set():
            got = subprocess.run(curl(name, *options), capture_output=True, check=False)
            if got.returncode or hashlib.sha256(got.stdout).hexdigest() != wanted[name]:
                wrong.append(f"{kind}: exit {got.returncode}, {len(got.stdout)} bytes, {got.stderr.decode()[-200:]}")
            done[kind] += 1
            stop.wait(pause_s)

    # A part of the one CPU: whoever is tested needs the rest.
    wrk = ["systemd-run", "--quiet", "--pipe", "--unit=load-wrk", "-p", "CPUQuota=5%", "wrk", "-t1", "-c2", "-d900",
           "--timeout", "30", "-H", "Host: site", "-H", "Connection: close", "https://127.0.0.1/small"]  # fmt: skip
    with subprocess.Popen(wrk, stdout=subprocess.PIPE, text=True) as running:
        threads = [
            threading.Thread(target=download, args=("large", "downloads")),
            threading.Thread(target=download, args=("large", "slow", "--limit-rate", SLOW)),
        ]
        for thread in threads:
            thread.start()
        while not stop.wait(0.2):
            pass
        subprocess.run(["systemctl", "kill", "-s", "INT", "load-wrk.service"], check=False)
        said = running.communicate(timeout=60)[0]
        for thread in threads:
            thread.join()
    (HERE / "load.json").write_text(json.dumps({**done, "wrong": wrong, "wrk": said}))


def stop_load() -> dict[str, Any]:
    subprocess.run(["systemctl", "stop", "load.service"], check=True)
    found: dict[str, Any] = json.loads((HERE / "load.json").read_text())
    requests = re.search(r"(\d+) requests in", found["wrk"])
    found["requests"] = int(requests[1]) if requests else 0
    found["errors"] = [line.strip() for line in found["wrk"].splitlines() if "errors" in line or "Non-2xx" in line]
    return found


def start_load(pause_s: str = "1") -> dict[str, Any]:
    unit = ["systemd-run", "--quiet", "--unit=load.service", "-p", "TimeoutStopSec=60", "-p", "KillMode=process"]
    subprocess.run([*unit, sys.executable, __file__, "load", pause_s], check=True)
    return {}


def new() -> dict[str, Any]:
    """A new connection, and what the kernel says of the server's end of it."""
    context = ssl.create_default_context(cafile=CA)
    with (
        socket.create_connection(("127.0.0.1", 443), 20) as raw,
        context.wrap_socket(raw, server_hostname="site") as tls,
    ):
        tls.sendall(b"GET /small HTTP/1.1\r\nHost: site\r\n\r\n")
        tls.recv(1000)
        port = tls.getsockname()[1]
        told = subprocess.run(
            ["ss", "-tnieOH", "state", "established", f"( sport = :443 and dport = :{port} )"],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
    found = re.search(r"tcp-ulp-tls version: (\S+) cipher: (\S+) rxconf: (\S+) txconf: (\S+)", told)
    return {"ktls": found is not None, "said": told.strip(), "tx": found and found[4], "rx": found and found[3]}


def facts() -> dict[str, Any]:
    """What is there, by other means than ours."""
    titles = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            title = path.read_text().replace("\0", " ").strip()
        except OSError:
            continue
        if title.startswith("nginx:"):
            titles[int(path.parent.name)] = title
    return {
        "on": ON.exists(),
        "owed": ON.with_name(ON.name + ".off").exists(),
        "titles": titles,
        "workers": sorted(pid for pid, title in titles.items() if title.rstrip() == "nginx: worker process"),
        "nginx_log": subprocess.run(
            ["sh", "-c", "grep -c . /var/log/nginx/error.log; grep -v -e notice /var/log/nginx/error.log | tail -5"],
            capture_output=True, text=True, check=False,
        ).stdout,
    }  # fmt: skip


def main() -> None:
    verb = sys.argv[1]
    if verb == "load":
        load(float(sys.argv[2]))
        return
    verbs = {"start-load": start_load, "stop-load": stop_load, "new": new, "facts": facts}
    os.environ["LC_ALL"] = "C"
    print(json.dumps(verbs[verb](*sys.argv[2:])))


if __name__ == "__main__":
    main()

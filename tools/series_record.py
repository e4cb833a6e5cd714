# SPDX-License-Identifier: Apache-2.0
"""Record what an agent samples on a lab host under steady load, as fixtures for the judge's tests.

``python -m tools.series_record --minutes 5`` boots one host, deploys, downloads from it with new connections all the
time, and keeps two files: the baseline in userspace, and a switchback of phase ``tx`` after it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from ktls_control.clients import Target
from ktls_control.demo import target
from ktls_lab import api
from tests.vm.fleet.fleet import Deployed

_BLOCK_S, _WASHOUT_S, _PAUSE_S = 20.0, 3.0, 0.4


def load(host: Target, stop: threading.Event) -> None:
    """Download all small files of ``host`` over a new connection, again and again."""
    small = [path for path in sorted(host.manifest) if "large" not in path]
    command = ["curl", "--silent", "--max-time", "20", "--noproxy", "*", "--cacert", str(host.ca_file)]
    command += ["--connect-to", f"{host.server_name}:{host.port}:127.0.0.1:{host.forwarded_port}"]
    with tempfile.TemporaryDirectory() as scratch:
        for path in small:
            command += ["-o", f"{scratch}/file", f"https://{host.server_name}:{host.port}{path}"]
        while not stop.is_set():
            subprocess.run(command, check=False)
            stop.wait(_PAUSE_S)


def main() -> int:
    """:returns: 0 when both files were written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5.0, help="of each of the two parts (default: %(default)s)")
    parser.add_argument("--lab", default="judge", help="name of the lab (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("tests/fixtures/judge"), help="default: %(default)s")
    arguments = parser.parse_args()
    lab = api.up(name=arguments.lab, hosts=1, say=print)
    stop = threading.Event()
    try:
        fleet = Deployed(lab)
        done = fleet.ktls("deploy")
        if done.returncode:
            print(done.stdout + done.stderr, file=sys.stderr)
            return 1
        host = fleet.hosts()[0]
        client = threading.Thread(target=load, args=(target(host), stop), daemon=True)
        client.start()
        print("baseline", flush=True)
        time.sleep(60 * arguments.minutes)
        keep(fleet, host.name, arguments.output / "lab-userspace.json")
        experiment = {"method": "switchback", "block_s": _BLOCK_S, "washout_s": _WASHOUT_S, "seed": int(time.time())}
        lease = str(60 * arguments.minutes + 120)
        command = ["order", "--id", "record", "--epoch", "1", "--phase", "tx", "--lease", lease]
        fleet.agent(
            host.name,
            *command,
            "--plan-sha256",
            "0" * 64,
            "--experiment",
            json.dumps(experiment, separators=(",", ":")),
        )
        print("switchback", flush=True)
        time.sleep(60 * arguments.minutes)
        keep(fleet, host.name, arguments.output / "lab-switchback.json")
    finally:
        stop.set()
        lab.down()
    return 0


def keep(fleet: Deployed, host: str, path: Path) -> None:
    """Write the agent's series in the form of ``ktls judge --replay``."""
    answer: dict[str, Any] = fleet.agent(host, "series")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"series": [plain(answer.get("series", answer), host)]}, separators=(",", ":")) + "\n")
    print(path, flush=True)


def plain(wire: dict[str, Any], host: str) -> dict[str, Any]:
    """An agent's answer as columns of samples."""
    columns = wire["samples"]
    rows = range(len(columns["at_ms"]))
    samples = {name: columns[name] for name in ("sent", "ktls", "connections", "requests")}
    samples["at_s"] = [one / 1000 for one in columns["at_ms"]]
    samples["seconds"] = [one / 1000 for one in columns["ms"]]
    samples["arm"] = [("off", "on", "mixed")[one] for one in columns["arm"]]
    samples["washout"] = [bool(one) for one in columns["washout"]]
    samples["cpu_s"] = [None if one is None else one / 1e6 for one in columns["cpu_us"]]
    samples["errors"] = [columns["errors"].get(str(index), {}) for index in rows]
    samples["probe_s"] = [columns["probe_s"].get(str(index), []) for index in rows]
    about = {"boot_id": wire["boot_id"], "ordered_at_s": wire.get("ordered_at_s"), "read_at_s": wire["now_s"]}
    return {"host": host, **about, "samples": samples}


if __name__ == "__main__":
    sys.exit(main())

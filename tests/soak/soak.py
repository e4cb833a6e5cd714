# SPDX-License-Identifier: Apache-2.0
"""Half an hour of load on a lab VM while the link flaps and the mode changes every few seconds.

    python -m tests.soak.soak --minutes 30

Every byte is compared. At the end nothing may be left: no kTLS socket, no descriptor, no memory beyond the margins of
judge.py. A record (JSON) and a picture are written to build/soak/; the exit status is 1 when something is wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import secrets
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ktls_lab import api
from ktls_lab.errors import LabError
from tests.vm.sidecar import test_ktls
from tests.vm.sidecar.served import push_tree

from . import sampler
from .judge import Record, judge
from .load import Load
from .picture import draw

REPOSITORY = Path(__file__).parents[2]
OUT = REPOSITORY / "build" / "soak"
HOST = test_ktls.HOST
MODES = ("tx", "rx", "userspace")
SAMPLES = "/run/soak.jsonl"
WARM_UP_PART, WARM_UP_MAX_S = 0.15, 120.0
IDLE_S = 10.0
DRAIN_S = 120.0
_ATTEMPTS = 5


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak.soak", description="soak the sidecar on a lab VM")
    parser.add_argument("--minutes", type=float, default=30.0, help="how long the load lasts (default: %(default)s)")
    parser.add_argument("--image", default="debian13", help="the VM's image (default: %(default)s)")
    parser.add_argument("--clients", type=int, default=8, help="clients at once (default: %(default)s)")
    parser.add_argument("--seed", type=int, help="for the same choices again (default: by chance)")
    parser.add_argument("--out", type=Path, default=OUT, help="directory for the results (default: %(default)s)")
    options = parser.parse_args()
    seed = secrets.randbits(32) if options.seed is None else options.seed
    name = f"soak-{os.getpid()}"
    api.build_image(options.image, print)
    lab = api.up(name, 1, options.image, print)
    try:
        with tempfile.TemporaryDirectory() as directory:
            soak = Soak(lab, Path(directory), options.clients, seed)
            record = soak.run(options.minutes * 60)
    finally:
        api.down(name)
    wrong = judge(record, MODES)
    options.out.mkdir(parents=True, exist_ok=True)
    about = {"seed": seed, "minutes": options.minutes, "image": options.image, "clients": options.clients}
    (options.out / "soak.json").write_text(as_json(about, wrong, record))
    draw(record, options.out / "soak.png")
    tally = record.tally
    print(
        f"seed {seed}: {tally.right} transfers right, {len(tally.wrong)} wrong, {len(tally.broken)} broken,"
        f" {tally.idle_closed} times an idle connection had ended; {tally.bytes / 2**20:.0f} MiB,"
        f" {len(record.modes)} changes of the mode, {len(record.flaps)} flaps;"
        f" {options.out}/soak.json, soak.png"
    )
    for line in wrong:
        print(f"WRONG: {line}", file=sys.stderr)
    return 1 if wrong else 0


def as_json(about: dict[str, Any], wrong: list[str], record: Record) -> str:
    """Return everything, for people and programs that look later."""
    return json.dumps({**about, "wrong": wrong, **asdict(record)}, indent=1) + "\n"


class Soak:
    """One run on ``lab``, which is up."""

    def __init__(self, lab: api.Lab, directory: Path, clients: int, seed: int) -> None:
        """Put the sidecar, the files and the sampler there. Raises AssertionError when that fails."""
        self._rng = random.Random(seed)
        subprocess.run(
            lab.ssh_argv(HOST, "mkdir -p /opt/sidecar && tar -C /opt/sidecar -xf -"),
            input=test_ktls.source_tree(),
            check=True,
            timeout=60,
        )
        done = lab.ssh(HOST, ["bash", "-c", test_ktls.SETUP], timeout=180)
        assert done.returncode == 0, done.stdout + done.stderr
        ca = directory / "ca.pem"
        ca.write_text(done.stdout)
        self._lab = lab
        self._sidecar = test_ktls.Sidecar(lab, ca)
        self._sidecar.run("modprobe tls")
        root = directory / "site"
        root.mkdir()
        files = push_tree(lab, HOST, root)
        script = Path(sampler.__file__).read_text()
        start = f"cat > /root/sampler.py; nohup python3 /root/sampler.py {SAMPLES} >/dev/null 2>&1 </dev/null &"
        assert lab.ssh(HOST, start, stdin=script).returncode == 0
        self._load = Load(lab.https_port(HOST), ca, files, clients, seed)
        self._record = Record(self._load.tally)
        # The VM's clock is not ours: what to add to its times.
        self._ahead = time.time() - float(self._sidecar.run("date +%s.%N"))

    def run(self, seconds: float) -> Record:
        """Warm up, look, put it under load, look again."""
        self._order("userspace")
        self._load.start()
        warm = time.time() + min(WARM_UP_MAX_S, seconds * WARM_UP_PART)
        for mode in MODES:
            self._order(mode)
        time.sleep(max(0.0, warm - time.time()))
        began = self._settle()
        middle = time.time()
        self._load.start()
        self._disturb(middle + seconds)
        ended = self._settle()
        samples = self._samples()
        record = self._record
        record.before = [sample for sample in samples if began <= sample["time"] < middle]
        record.samples = [sample for sample in samples if middle <= sample["time"] < ended]
        record.after = [sample for sample in samples if ended <= sample["time"]]
        record.status = self._sidecar.call(verb="status")
        return record

    def _disturb(self, end: float) -> None:
        """Change the mode every one to five seconds and cut the link now and then, until ``end``."""
        flap_at = time.time() + self._rng.uniform(5, 15)
        number = 0
        while time.time() < end:
            time.sleep(self._rng.uniform(1, 5))
            self._order(MODES[number % len(MODES)] if number % 2 else self._rng.choice(MODES))
            number += 1
            if time.time() >= flap_at:
                self._flap(self._rng.choice((0.2, 1, 2, 5)))
                flap_at = time.time() + self._rng.uniform(10, 40)

    def _flap(self, seconds: float) -> None:
        down = time.time()
        self._lab.fault(HOST, "link-down")
        try:
            time.sleep(seconds)
        finally:
            self._lab.fault(HOST, "link-up")
        self._record.flaps.append((down, time.time()))

    def _order(self, mode: str) -> None:
        why = "no answer"
        for _ in range(_ATTEMPTS):
            try:
                answer = self._sidecar.call(verb="mode", mode=mode)
            except (LabError, ValueError):
                # After a flap the first attempt may not come through.
                time.sleep(1)
                continue
            if answer.get("effective_mode") == mode:
                self._record.modes.append((time.time(), mode))
                return
            why = str(answer)
            break
        self._record.refused[mode] = why

    def _settle(self) -> float:
        """End the load, order userspace, wait until nobody is connected; then rest. Returns when the rest began."""
        self._load.stop()
        self._order("userspace")
        end = time.time() + DRAIN_S
        while time.time() < end:
            status, stat = self._sidecar.call(verb="status"), self._sidecar.tls_stat()
            if not any(status["connections"].values()) and not stat["TlsCurrTxSw"] and not stat["TlsCurrRxSw"]:
                break
            time.sleep(1)
        began = time.time()
        time.sleep(IDLE_S)
        return began

    def _samples(self) -> list[dict[str, Any]]:
        samples = [json.loads(line) for line in self._sidecar.run(f"cat {SAMPLES}").splitlines()]
        return [{**sample, "time": sample["time"] + self._ahead} for sample in samples if "tls" in sample]


if __name__ == "__main__":
    sys.exit(main())

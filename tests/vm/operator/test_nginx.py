# SPDX-License-Identifier: Apache-2.0
"""What an operator does with a host that nginx serves already: drill, plan, rollout, report, off; under load."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ktls_control.plan import file as plan_file
from ktls_control.rollout import journal, store

from ..conftest import StartLab
from ..fleet.fleet import ROOT, Deployed
from .outside import Outside

GUEST = ROOT / "tests/vm/nginx/guest"
HOST, GROUP = "web1", "nginx_served"
POLICY = {
    "waves": ["100%"], "noise_hosts": 0, "headroom_limit": 1,
    "soak": {"min_s": 60, "max_s": 300, "min_bytes": 4_000_000},
    # Nobody has a baseline of ten minutes here.
    "gates": {"method": "none", "on_inconclusive": "fail"},
}  # fmt: skip


class Operator:
    """The control side over one host with nginx."""

    def __init__(self, fleet: Deployed, place: Path) -> None:
        self.fleet, self.place = fleet, place
        self.inventory = place / "inventory"
        self.inventory.mkdir()
        (self.inventory / "lab").symlink_to(ROOT / "inventory/lab")
        variables = {"ktls_datapath": "nginx", "ktls_tx_rx_consent": True, "ktls_rack": "lab"}
        # The lab's is of the sidecar, which is not here; this file is read after the lab's, so it wins.
        variables["ktls_probe_url"] = ""
        group = {GROUP: {"hosts": {HOST: variables}}}
        (self.inventory / "served.yml").write_text(yaml.safe_dump(group))
        (place / "policy.yml").write_text(json.dumps({"ktls_policy": POLICY}))

    def run(self, *argv: str) -> tuple[int, str]:
        """A command of the virtual environment."""
        tool, *arguments = argv
        environment = {**self.fleet.environment(), "KTLS_STATE_DIR": str(self.place / "state")}
        done = subprocess.run(
            [str(Path(sys.executable).with_name(tool)), *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, cwd=ROOT, env={**environment, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}, timeout=500,
            check=False,
        )  # fmt: skip
        print(f"$ {' '.join(argv)}\n{done.stdout}")
        return done.returncode, done.stdout

    def ktls(self, verb: str, *arguments: str) -> tuple[int, str]:
        """``ktls`` over the group."""
        return self.run("ktls", verb, "-i", str(self.inventory), "--group", GROUP, *arguments)

    def shell(self, script: str, stdin: str | None = None) -> str:
        """On the host, as root."""
        done = self.fleet.lab.ssh(HOST, script, stdin=stdin, timeout=150)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def guest(self, verb: str) -> dict[str, Any]:
        """What the host shows of itself."""
        found: dict[str, Any] = json.loads(self.shell(f"python3 /root/guest.py {verb}"))
        return found

    def outside(self) -> Outside:
        """Clients on this machine."""
        digest = self.shell("sha256sum /srv/www/large").split()[0]
        return Outside(self.place, self.fleet.lab.https_port(HOST), self.shell("cat /etc/nginx/site.pem"), digest)

    def events(self) -> list[dict[str, Any]]:
        """The journal of the newest run."""
        fleet = store.Fleet(self.place / "state" / store.fleet_name(str(self.inventory), GROUP))
        return journal.read(fleet.newest().journal)


@pytest.fixture(scope="module")
def operator(start_lab: StartLab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    """Return the control side; nginx serves a site on its host, and knows nothing of us."""
    fleet = Deployed(start_lab("ctl", image=("debian13-bench",)))
    made = Operator(fleet, tmp_path_factory.mktemp("operator"))
    made.shell("sh -s", (GUEST / "site.sh").read_text())
    # The lab forwards no other port from outside.
    made.shell("sed -i 's/listen 443 ssl;/& listen 8443 ssl;/' /etc/nginx/sites-enabled/site; systemctl reload nginx")
    made.shell("cat >/root/guest.py", (GUEST / "guest.py").read_text())
    code, said = made.run(
        "ansible-playbook", "-i", str(made.inventory), "playbooks/deploy.yml", "-e", f"ktls_group={GROUP}"
    )
    assert code == 0, said
    yield made
    fleet.lab.down()


def test_an_operator_rolls_out_over_nginx_and_takes_it_back(operator: Operator) -> None:
    before = operator.shell("find /etc/nginx -type f | sort | xargs sha256sum; stat -c '%n %a %U' /etc/nginx/conf.d/*")
    code, said = operator.ktls("drill")
    assert code == 0, said
    assert "nginx nginx.service, tx+rx: on " in said, said
    after = operator.shell("find /etc/nginx -type f | sort | xargs sha256sum; stat -c '%n %a %U' /etc/nginx/conf.d/*")
    assert after == before, "a drill leaves nothing behind"

    # As an operator's clients do, they come from elsewhere. Clients on the host itself: tests/vm/nginx.
    with operator.outside() as outside:
        _on_off_on(operator)
    print({"requests": outside.requests, "downloads": outside.downloads})
    assert outside.errors == []
    assert outside.requests > 50 and outside.downloads > 3
    shown = operator.shell("find /etc/nginx -type f | sort | xargs sha256sum; stat -c '%n %a %U' /etc/nginx/conf.d/*")
    assert shown == before


def _on_off_on(operator: Operator) -> None:
    plan = operator.place / "plan.yml"
    code, said = operator.ktls("plan", "--phase", "tx", "--policy", str(operator.place / "policy.yml"), "-o", str(plan))
    assert code == 0, said
    assert "phase tx+rx" in said and "as was consented to" in said, said
    assert plan_file.load(plan).hosts[HOST].datapath.tx == "tx+rx"

    _roll_out(operator, plan)
    _code, table = operator.ktls("status")
    assert "SERVED BY" in table and "tx+rx" in table and "nginx" in table
    _off(operator)
    _roll_out(operator, plan, "--clear-off")
    page = operator.place / "report.html"
    code, said = operator.ktls("report", "-o", str(page))
    assert code == 0, said
    assert "tx+rx" in page.read_text(), "the newest run, with what was really in force"
    code, said = operator.ktls("history", "--json")
    assert code == 0, said
    assert [run["outcome"] for run in json.loads(said)["runs"]] == ["completed", "completed"], said
    _off(operator)


def _roll_out(operator: Operator, plan: Path, *options: str) -> None:
    """The gate passes by what was seen and by what is certain; the rest is named."""
    code, said = operator.run("ktls", "apply", str(plan), *options)
    for path in sorted(operator.place.rglob("answers/*.json")):
        status = json.loads(path.read_text()).get("status") or {}
        told = (status.get("evidence") or {}).get("total") or {}
        names = ("by_process", "unattributed", "inferred_share", "presumed", "clients", "ended")
        print(path.name, {name: told.get(name) for name in names}, (status.get("datapath") or {}).get("draining"))
    assert code == 0, said
    assert "every host of the plan is on tx+rx" in said
    events = operator.events()
    verdict = next(event for event in events if event["event"] == "verdict")
    assert verdict["outcome"] == "pass", verdict
    print(verdict, [event for event in events if event["event"] == "observed"][-1])
    seen = operator.guest("new")
    assert (seen["tx"], seen["rx"]) == ("sw", "sw"), "read from outside of our own code"


def _off(operator: Operator) -> None:
    code, said = operator.ktls("off", "--drain", "60", "--json", "--reason", "the operator's word", "--no-publish")
    off = json.loads(said[said.index("{") :])["hosts"][HOST]
    assert (code, off["off"], off["datapath"], off["left"]) == (0, True, "nginx", 0), off
    assert all(off[name] is not None for name in ("last_new_s", "drained_90_s", "none_left_s")), off
    print({name: off[name] for name in ("flag_s", "last_new_s", "drained_90_s", "none_left_s", "old_processes")})
    assert operator.guest("new")["tx"] in (None, "none")

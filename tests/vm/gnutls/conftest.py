# SPDX-License-Identifier: Apache-2.0
"""Two hosts: one with GnuTLS built with kernel TLS, and one with Debian's own. Only with ``pytest -m gnutls``."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ktls_lab import api

from ..conftest import StartLab
from ..levers.by_ansible import ByAnsible

HERE = Path(__file__).parent
REBUILT, STOCK = "web1", "web2"
IMAGES = {REBUILT: "debian13-gnutls", STOCK: "debian13"}
UNIT = "ktls-test.service"  # gnutls-serv on UNIT_PORT
UNIT_PORT = 9444
# What the service of that name gets as GNUTLS_SYSTEM_PRIORITY_FILE; other programs here are started with it, too.
SERVICE_CONFIG = f"/etc/ktls-fleet/policy/{UNIT}.gnutls.config"
SYSTEM_CONFIG = "/etc/gnutls/config"  # for all others

SETUP = f"""set -e
modprobe tls
mkdir -p /etc/ktls-test/pki /etc/ktls-test/client
cd /etc/ktls-test/pki
new="openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -days 2"
$new -subj /CN=ktls-test-ca -addext keyUsage=critical,keyCertSign -keyout ca-key.pem -out ca-cert.pem
$new -subj /CN=localhost -addext subjectAltName=DNS:localhost -addext basicConstraints=critical,CA:FALSE \
  -CA ca-cert.pem -CAkey ca-key.pem -keyout server-key.pem -out server-cert.pem
cp ca-cert.pem ../client
cat >/etc/systemd/system/{UNIT} <<'END'
[Service]
ExecStart=/usr/bin/gnutls-serv --echo --port {UNIT_PORT} --x509certfile /etc/ktls-test/pki/server-cert.pem \
  --x509keyfile /etc/ktls-test/pki/server-key.pem
END
systemctl daemon-reload
"""


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line("markers", "gnutls: needs the image debian13-gnutls, which takes minutes to build")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the tests of this directory out unless they are asked for with ``-m gnutls``."""
    mine = [item for item in items if HERE in item.path.parents]
    for item in mine:
        item.add_marker(pytest.mark.gnutls)
    if mine and "gnutls" not in config.getoption("markexpr"):
        items[:] = [item for item in items if item not in mine]
        config.hook.pytest_deselected(items=mine)


def guest_scripts() -> bytes:
    """The scripts for the hosts as a tar archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path in sorted((HERE / "guest").glob("*.py")):
            archive.add(path, f"guest/{path.name}")
    return buffer.getvalue()


def set_policy(lab: api.Lab, host: str, present: bool, path: str = SERVICE_CONFIG) -> dict[str, Any]:
    """Have GnuTLS asked for kernel TLS at ``path``, or put back what was there; return what our module says.

    Also where GnuTLS is known to be inert, so that the tests can show that it is.
    """
    system = path == SYSTEM_CONFIG
    result = ByAnsible(lab)(
        host,
        "ktls_crypto_policy",
        backend="gnutls",
        scope="system" if system else "service",
        service=[] if system else [UNIT],
        state="present" if present else "absent",
        allow_inert=True,
        restart_ok=not system,
    )[host]
    assert not result.get("failed"), result
    return result


@dataclass(frozen=True)
class Session:
    """One session between two programs: see guest/session.py."""

    sockets: list[str]
    tls_stat: dict[str, int]
    sent: str
    received: str
    ktls: int | None = None


@dataclass(frozen=True)
class Hosts:
    """The lab."""

    lab: api.Lab

    def json(self, host: str, script: str, *arguments: str, timeout: float = 180) -> Any:
        argv = ["env", "PYTHONPATH=/opt/ktls-test", "python3", "-m", f"guest.{script}", *arguments]
        done = self.lab.ssh(host, argv, timeout=timeout)
        assert done.returncode == 0, f"{host}: {script} {arguments}: {done.stdout}{done.stderr}"
        return json.loads(done.stdout)

    def session(
        self, kind: str, host: str = REBUILT, server: str | None = SERVICE_CONFIG, client: str | None = None
    ) -> Session:
        """Run a session whose programs read the GnuTLS configurations ``server`` and ``client`` (None: the system's).

        What arrived is checked here: whatever else, no byte may be wrong.
        """
        wanted = {"kind": kind, "server_policy": server, "client_policy": client}
        session = Session(**self.json(host, "session", json.dumps(wanted)))
        assert session.received == session.sent
        assert session.sockets, "no connection was seen"
        return session


@pytest.fixture(scope="package")
def hosts(lab_images: Callable[[str], Path], start_lab: StartLab) -> Iterator[Hosts]:
    """Return the two hosts, the module loaded, with a certificate authority of their own and no policy."""
    for image in IMAGES.values():
        lab_images(image)
    lab = start_lab("gnutls", hosts=len(IMAGES), image=list(IMAGES.values()))
    for host in IMAGES:
        unpack = lab.ssh_argv(host, "mkdir -p /opt/ktls-test && tar -C /opt/ktls-test -xf -")
        subprocess.run(unpack, input=guest_scripts(), check=True, timeout=60)
        done = lab.ssh(host, ["bash", "-c", SETUP], timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
    yield Hosts(lab)
    lab.down()


@pytest.fixture
def policy(hosts: Hosts) -> Iterator[Callable[..., None]]:
    """Return a setter of policies, which are gone after the test: ``policy(host, present=True, path=...)``."""
    used: set[tuple[str, str]] = set()

    def put(host: str, *, present: bool, path: str = SERVICE_CONFIG) -> None:
        used.add((host, path))
        set_policy(hosts.lab, host, present, path)

    yield put
    for host, path in used:
        set_policy(hosts.lab, host, present=False, path=path)

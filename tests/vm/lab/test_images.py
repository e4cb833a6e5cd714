# SPDX-License-Identifier: Apache-2.0
"""Every image boots, has the versions it promises, and does kTLS by the kernel's own account."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from ktls_lab import api, images

from ..conftest import StartLab

# Runs on the host. A slow client keeps the connection open while ss looks at the server's socket.
KTLS_TRANSFER = """
import hashlib, json, pathlib, platform, socket, ssl, subprocess, time

name, work = socket.getfqdn(), pathlib.Path("/run/ktls-test")
work.mkdir()
run = lambda *argv, **more: subprocess.run(argv, capture_output=True, text=True, check=True, **more).stdout
stat = lambda: dict(line.split() for line in open("/proc/net/tls_stat"))

loaded_before = pathlib.Path("/proc/net/tls_stat").exists()
run("modprobe", "tls")
run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
    "-keyout", str(work / "key.pem"), "-out", str(work / "cert.pem"), "-subj", f"/CN={name}",
    "-addext", f"subjectAltName=DNS:{name}")
(work / "openssl.cnf").write_text(
    "openssl_conf = init\\n[init]\\nssl_conf = ssl\\n[ssl]\\nsystem_default = all\\n[all]\\nOptions = KTLS\\n")
before = stat()
server = subprocess.Popen(
    ["openssl", "s_server", "-accept", "8443", "-cert", str(work / "cert.pem"), "-key", str(work / "key.pem"),
     "-sendfile", "-WWW", "-tls1_3"], cwd="/srv/ktls", env={"OPENSSL_CONF": str(work / "openssl.cnf")},
    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.PIPE)
try:
    deadline = time.monotonic() + 20
    while not run("ss", "-Htln", "sport = :8443").strip():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    context = ssl.create_default_context(cafile=str(work / "cert.pem"))
    digest = hashlib.sha256()
    with context.wrap_socket(socket.create_connection((name, 8443)), server_hostname=name) as client:
        client.sendall(b"GET /large.bin HTTP/1.0\\r\\n\\r\\n")
        data = client.recv(16384)
        sockets = run("ss", "-Htine", "state", "established", "sport = :8443")
        while chunk := client.recv(65536):
            data += chunk
finally:
    server.kill()
body = data.partition(b"\\r\\n\\r\\n")[2]
after = stat()
print(json.dumps({
    "loaded_before": loaded_before, "kernel": platform.release(), "python": platform.python_version(),
    "openssl": run("openssl", "version").split()[1], "ss": sockets, "size": len(body),
    "sha256": hashlib.sha256(body).hexdigest(), "tx_sw": int(after["TlsTxSw"]) - int(before["TlsTxSw"]),
}))
"""


@pytest.mark.timeout(900)  # the first run builds the image
@pytest.mark.parametrize("name", images.names())
def test_image_boots_and_does_ktls(name: str, start_lab: StartLab) -> None:
    image = images.load(name)
    lab = start_lab(f"image-{name}"[-16:], image=name)
    run = lab.ssh("web1", ["python3", "-"], stdin=KTLS_TRANSFER, timeout=120)
    assert run.returncode == 0, run.stderr
    seen: dict[str, Any] = json.loads(run.stdout)
    lab.down()
    assert seen["kernel"].startswith(image.expect.kernel)
    assert seen["openssl"].startswith(image.expect.openssl)
    assert seen["python"].startswith(image.expect.python)
    assert seen["loaded_before"] is False, "a fresh host must not have the module already"
    assert seen["sha256"] == api.manifest()["/large.bin"]
    assert seen["tx_sw"] == 1
    (ulp,) = re.findall(r"tcp-ulp-tls version: (\S+) cipher: (\S+) rxconf: \S+ txconf: (\S+)", seen["ss"])
    assert ulp == ("1.3", "aes-gcm-256", "sw")

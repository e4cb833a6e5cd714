# SPDX-License-Identifier: Apache-2.0
"""ktls-publish on real file systems: the kernel itself refuses to write, and no kill leaves half a file.

Two file systems on loop devices, ext4 with fs-verity and ext4 without it, where the immutable attribute is the seal.
"""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from ktls_lab import api, tools

from ..conftest import StartLab
from .test_ktls import HOST, source_tree

SEALS = {"verity": "fs-verity", "plain": "immutable"}
SETUP = """set -e
for kind in verity plain; do
  mkdir -p /srv/$kind
  mount -o loop /root/$kind.img /srv/$kind
done
printf '#!/bin/sh\\nPYTHONPATH=/opt/sidecar exec python3 -m ktls_sidecar.publish "$@"\\n' > /usr/local/bin/ktls-publish
chmod 755 /usr/local/bin/ktls-publish
head -c 3000000 /dev/urandom > /root/old; head -c 5000000 /dev/urandom > /root/new
cat > /root/kill.py <<'X'
import json, os, signal, sys
sys.path.insert(0, "/opt/sidecar")
from ktls_sidecar import publish, seal, staging
path = sys.argv[1]
content = {open("/root/" + name, "rb").read(): name for name in ("old", "new")}
def state():
    with open(path, "rb") as file:
        return content.get(file.read(), "mixed"), seal.reason(file.fileno())
steps = []
publish.publish_file("/root/old", path)
staging.reached = steps.append
publish.publish_file("/root/new", path)
for step in steps:
    staging.reached = lambda name: None
    publish.publish_file("/root/old", path)
    child = os.fork()
    if child == 0:
        staging.reached = lambda name: os.kill(os.getpid(), signal.SIGKILL) if name == step else None
        publish.publish_file("/root/new", path)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    killed, left = state(), len(os.listdir(os.path.dirname(path)))
    # The next run finishes the work and sweeps.
    publish.publish_file("/root/new", path)
    print(json.dumps([step, status, killed, left, state(), sorted(os.listdir(os.path.dirname(path)))]))
X
cat > /root/reason.py <<'X'
import os, sys
sys.path.insert(0, "/opt/sidecar")
from ktls_sidecar import seal
from ktls_sidecar.web import files
print(repr(seal.reason(os.open(sys.argv[1], os.O_RDONLY))), files._opener.works)
X
"""


class Host:
    """The VM."""

    def __init__(self, lab: api.Lab) -> None:
        self.lab = lab

    def sh(self, script: str) -> subprocess.CompletedProcess[str]:
        return self.lab.ssh(HOST, ["bash", "-c", script], timeout=120)

    def run(self, script: str) -> str:
        done = self.sh(script)
        assert done.returncode == 0, f"{script}: {done.stdout}{done.stderr}"
        return done.stdout

    def refused(self, script: str) -> None:
        done = self.sh(script)
        assert done.returncode != 0, script
        assert "Operation not permitted" in done.stderr, done.stderr

    def holds(self, path: str) -> str:
        """Return ``old`` or ``new``; fails for anything else."""
        sums = self.run(f"sha256sum < {path}; sha256sum < /root/old; sha256sum < /root/new").split("\n")
        assert sums[0] in sums[1:3], f"{path} is neither old nor new"
        return ("old", "new")[sums[1:3].index(sums[0])]

    def reason(self, path: str, wrapper: str = "") -> tuple[str, bool]:
        """What is proved about ``path``, and whether openat2(2) is used."""
        why, works = self.run(f"{wrapper} python3 /root/reason.py {path}").strip().rsplit(" ", 1)
        return why.strip("'"), works == "True"


@pytest.fixture(scope="module")
def host(start_lab: StartLab, lab_images: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A fresh VM with both file systems."""
    lab_images("debian13")
    lab = start_lab("sc-pub", hosts=1, image="debian13")
    unpack = lab.ssh_argv(HOST, "mkdir -p /opt/sidecar && tar -C /opt/sidecar -xf -")
    subprocess.run(unpack, input=source_tree(), check=True, timeout=60)
    mke2fs = tools.find("mke2fs")
    assert mke2fs is not None  # the lab's images are made with it
    for kind in SEALS:
        # Made here: the images of the lab have none.
        image = tmp_path_factory.mktemp("images") / f"{kind}.img"
        feature = "verity" if kind == "verity" else "^verity"
        with image.open("wb") as file:
            file.truncate(64 << 20)
        subprocess.run(
            [mke2fs, "-q", "-F", "-t", "ext4", "-b", "4096", "-O", feature, str(image)], check=True, timeout=60
        )
        unpack = lab.ssh_argv(HOST, f"gunzip > /root/{kind}.img")
        subprocess.run(unpack, input=gzip.compress(image.read_bytes(), 1), check=True, timeout=60)
    host = Host(lab)
    host.run(SETUP)
    yield host
    lab.down()


both = pytest.mark.parametrize("kind", list(SEALS))


@both
def test_the_kernel_refuses_to_write(host: Host, kind: str) -> None:
    path = f"/srv/{kind}/f"
    assert f"(sealed: {SEALS[kind]})" in host.run(f"ktls-publish /root/old {path}")
    for script in (f"echo x >> {path}", f"truncate -s 5 {path}", f"dd if=/dev/zero of={path} conv=notrunc count=1"):
        host.refused(script)
    assert host.holds(path) == "old"
    assert host.reason(path) == (SEALS[kind], True)
    assert host.reason("/root/old") == ("", True)


@both
def test_replacing_and_removing(host: Host, kind: str) -> None:
    path = f"/srv/{kind}/f"
    host.run(f"ktls-publish /root/old {path}")
    # Whoever reads the old file reads it to its end.
    script = f"exec 3< {path}; head -c 1000 <&3 > /root/read; ktls-publish /root/new {path}; cat <&3 >> /root/read"
    host.run(script)
    assert host.holds("/root/read") == "old"
    assert host.holds(path) == "new"
    assert host.reason(path)[0] == SEALS[kind]
    host.run(f"ktls-publish --remove {path}; mkdir -p /root/tree/d; cp /root/old /root/tree/d/f")
    host.run(f"ktls-publish -r /root/tree /srv/{kind}/tree")
    host.refused(f"echo x >> /srv/{kind}/tree/d/f")
    host.run(f"ktls-publish -r --remove /srv/{kind}/tree")
    assert host.run(f"ls -A /srv/{kind}").split() == ["lost+found"]


@both
def test_killed_at_each_step(host: Host, kind: str) -> None:
    path = f"/srv/{kind}/k/f"
    host.run(f"mkdir -p /srv/{kind}/k")
    rows = [json.loads(line) for line in host.run(f"python3 /root/kill.py {path}").splitlines()]
    expected = ["created", "written", "verity", "staged", "renamed", "directory synced"]
    if kind == "plain":
        expected = ["created", "written", "staged", "unsealed", "renamed", "directory synced", "sealed"]
    assert [row[0] for row in rows] == expected
    for step, status, (content, sealed), left, after, names in rows:
        assert os.WTERMSIG(status) == signal.SIGKILL
        before = expected.index(step) < expected.index("renamed")
        assert content == ("old" if before else "new")
        # With the immutable attribute there is a moment without the seal, never without the content.
        unsealed = kind == "plain" and step in ("unsealed", "renamed", "directory synced")
        assert sealed == ("" if unsealed else SEALS[kind])
        assert left == (2 if before else 1)
        assert after == ["new", SEALS[kind]]
        assert names == ["f"]
    host.run(f"ktls-publish -r --remove /srv/{kind}/k")


def test_power_cut_after_publishing(host: Host) -> None:
    """What was said to be published is there when the machine comes back; here: when the file system does."""
    host.run("ktls-publish /root/old /srv/verity/f; ktls-publish /root/new /srv/verity/f")
    host.run("cp /root/verity.img /root/cut.img; mkdir -p /srv/cut; mount -o loop /root/cut.img /srv/cut")
    assert host.holds("/srv/cut/f") == "new"
    assert host.reason("/srv/cut/f")[0] == "fs-verity"
    host.refused("echo x >> /srv/cut/f")
    host.run("umount /srv/cut; ktls-publish --remove /srv/verity/f")


def test_a_read_only_mount_is_proof_only_if_nobody_else_can_write(host: Host) -> None:
    host.run("ktls-publish --seal none /root/old /srv/plain/f; mkdir -p /srv/bound; mount --bind /srv/plain /srv/bound")
    host.run("mount -o remount,bind,ro /srv/bound")
    assert host.reason("/srv/bound/f")[0] == ""
    host.run("umount /srv/bound")
    # As the sidecar's own unit sees everything: mounted read-only for it, and writable for others.
    sandbox = (
        "systemd-run --quiet --pipe --wait -p User=nobody -p ProtectSystem=strict -p ProtectProc=invisible"
        " -p ProcSubset=pid -p PrivateDevices=yes -p NoNewPrivileges=yes -p MemoryDenyWriteExecute=yes"
        " -p SystemCallFilter=@system-service -p SystemCallFilter='~@privileged @resources'"
        " -p SystemCallErrorNumber=EPERM"
    )
    host.run("chmod 755 /root /root/reason.py; ktls-publish --seal immutable /root/old /srv/plain/sealed")
    assert host.reason("/srv/plain/f", sandbox) == ("", True)
    assert host.reason("/srv/plain/sealed", sandbox) == ("immutable", True)
    host.run("mount -o remount,ro /srv/plain")
    assert host.reason("/srv/plain/f") == ("read-only file system", True)
    assert host.reason("/srv/plain/f", sandbox) == ("read-only file system", True)
    host.run("mount -o remount,rw /srv/plain")
    assert host.reason("/srv/plain/f")[0] == ""


def test_without_privilege_it_says_what_it_could_not_do(host: Host) -> None:
    host.run("mkdir -p /srv/plain/nobody; chown nobody /srv/plain/nobody; chmod 755 /root; chmod 644 /root/old")
    said = host.run("setpriv --reuid nobody --clear-groups ktls-publish /root/old /srv/plain/nobody/f")
    assert "not sealed: no fs-verity" in said
    assert "CAP_LINUX_IMMUTABLE" in said
    assert host.holds("/srv/plain/nobody/f") == "old"
    done = host.sh("setpriv --reuid nobody --clear-groups ktls-publish --seal immutable /root/new /srv/plain/nobody/f")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert host.holds("/srv/plain/nobody/f") == "old"
    # fs-verity needs no privilege: the owner of the file is enough.
    host.run("mkdir -p /srv/verity/nobody; chown nobody /srv/verity/nobody")
    said = host.run("setpriv --reuid nobody --clear-groups ktls-publish /root/old /srv/verity/nobody/f")
    assert "(sealed: fs-verity)" in said

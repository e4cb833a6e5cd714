# SPDX-License-Identifier: Apache-2.0
"""Build a Debian source package again with other configure arguments, in a throw-away tree, for an image.

apt fetches the source package: the signed Release file vouches for the index, the index for each file. The build
dependencies come from the image's own sources, the build itself runs as nobody, and its packages are kept in the
cache under the digest of all that decides them.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ktls_lab import cache, tools
from ktls_lab.images import Image, Rebuild
from ktls_lab.paths import cache_dir
from ktls_lab.steps import Steps

BUILDER_VERSION = b"1"
NEEDED_MIB = 1500
SUFFIX = "+ktls1"  # of the version: 'dpkg -l' tells that this is not Debian's binary, and Debian's next one replaces it
_INSTALL = "ktls-rebuilt"  # directory in the image while it is made
_NOBODY = 65534
_PROFILES = "nocheck nodoc"

Say = Callable[[str], None]

# Runs in the build tree, not as root. Arguments: suffix, variable of debian/rules, what is added to it.
# - apt has checked each file; unpacked by hand because dpkg-source wants the upstream author's signature file too,
#   which is no part of what is built. dpkg-buildpackage applies Debian's patches.
# - A variable in a recipe of a makefile is expanded when the recipe runs, so a line at the end of debian/rules counts.
# - Debug information and a second set of packages with it are most of the bytes and nobody's need.
_SCRIPT = """\
#!/bin/sh
set -eu
suffix=$1 variable=$2
shift 2
cd /build
mkdir work
tar --no-same-owner -xf ./*.orig.tar.* -C work --strip-components=1
tar --no-same-owner -xf ./*.debian.tar.* -C work
cd work
printf '\\n%s += %s\\n' "$variable" "$*" >>debian/rules
field() { dpkg-parsechangelog --show-field "$1"; }
{
    printf '%s (%s%s) %s; urgency=medium\\n\\n' "$(field Source)" "$(field Version)" "$suffix" "$(field Distribution)"
    printf '  * Built again with %s.\\n\\n' "$*"
    printf ' -- ktls-fleet lab <root@localhost>  %s\\n\\n' "$(field Date)"
    cat debian/changelog
} >../changelog
mv ../changelog debian/changelog
cpus=$(nproc)
export DEB_BUILD_OPTIONS="nocheck nodoc noautodbgsym parallel=$cpus" DEB_CFLAGS_STRIP=-g DEB_CXXFLAGS_STRIP=-g
dpkg-buildpackage --build=any --no-sign
for flag; do
    if ! grep -rqF --include=config.log -e "$flag" .; then
        echo "E: configure was not given $flag: is $variable the right variable of debian/rules?" >&2
        exit 1
    fi
done
"""


@dataclass(frozen=True)
class _Source:
    """A fetched source package: where its files are, its version, and what names its content."""

    directory: Path
    version: str
    dsc: bytes


def ingredients() -> bytes:
    """What this module adds to the digest of an image that has something rebuilt."""
    return b"\0".join((BUILDER_VERSION, SUFFIX.encode(), _SCRIPT.encode()))


def ensure(
    image: Image, rebuild: Rebuild, place: Path, apt_options: Sequence[str], steps: Steps, say: Say
) -> list[Path]:
    """Return the packages to install, building them if the cache lacks them (some minutes on two cores).

    ``place`` is an empty directory for the work, for instance of the image's build.

    Raises:
        LabError: a command failed, or the source package is not of the kind that we can build.
        OSError: disk full.
    """
    source = _fetch(image, rebuild, place, apt_options, steps)
    sha = hashlib.sha256(source.dsc)
    for part in (ingredients(), repr(rebuild).encode(), repr((image.suite, image.sources)).encode()):
        sha.update(hashlib.sha256(part).digest())
    kept = cache_dir() / "packages" / f"{rebuild.source}-{sha.hexdigest()[:16]}"
    words = f"image {image.name}: {rebuild.source} {source.version} with {' '.join(rebuild.flags)}"

    def build(into: Path) -> None:
        say(f"{words}: building it, which takes some minutes (log: {steps.log})")
        _build(image, rebuild, source, into, apt_options, steps)

    if not cache.make_once(kept, build):
        say(f"{words}: in the cache")
    return [_one(kept, f"{package}_*.deb", steps) for package in rebuild.packages]


def install_hooks(packages: Sequence[Path]) -> list[str]:
    """Return mmdebstrap(1) options that put ``packages`` in place of Debian's.

    dpkg gets the files themselves: a repository of our own would have to be signed, or trusted unsigned.
    """
    if not packages:
        return []
    files = " ".join(shlex.quote(str(package)) for package in packages)
    inside = " ".join(shlex.quote(f"/{_INSTALL}/{package.name}") for package in packages)
    hooks = (
        f'mkdir "$1/{_INSTALL}"',
        f"copy-in {files} /{_INSTALL}",
        f'chroot "$1" dpkg --install {inside}',
        f'rm -r "$1/{_INSTALL}"',
    )
    return [f"--customize-hook={hook}" for hook in hooks]


def _fetch(image: Image, rebuild: Rebuild, place: Path, apt_options: Sequence[str], steps: Steps) -> _Source:
    """Let apt fetch the newest source package, with an apt of its own: nothing of this machine's lists and sources."""
    root, files = place / "apt", place / "source"
    for directory in ("etc/apt.conf.d", "etc/preferences.d", "state/lists/partial", "cache/archives/partial"):
        (root / directory).mkdir(parents=True)
    files.mkdir()
    sources = [source.source_line(tools.KEYRING) for source in image.sources]
    (root / "etc/sources.list").write_text("\n".join(sources) + "\n", encoding="utf-8")
    (root / "state/status").touch()
    (root / "apt.conf").write_text(_apt_conf(root, apt_options), encoding="utf-8")
    environment = {"APT_CONFIG": str(root / "apt.conf")}
    # By default apt-get update forgives a source that cannot be reached: an older package would pass for the newest.
    steps.run(["apt-get", "-q", "-oAPT::Update::Error-Mode=any", "update"], environment)
    for part in ("dsc", "tar", "diff"):
        fetch = ["apt-get", "-q", "source", "--download-only", f"--{part}-only", rebuild.source]
        steps.run(fetch, environment, files)
    for pattern in ("*.orig.tar.*", "*.debian.tar.*"):
        _one(files, pattern, steps)
    dsc = _one(files, "*.dsc", steps).read_bytes()
    version = re.search(rb"^Version: (\S+)$", dsc, re.MULTILINE)
    if version is None:
        raise steps.error(f"the .dsc of {rebuild.source} names no version")
    return _Source(files, version[1].decode(), dsc)


def _apt_conf(root: Path, apt_options: Sequence[str]) -> str:
    """Return an apt.conf(5) that keeps all state below ``root``."""
    lines = [
        f'Dir "{root}"',
        f'Dir::Etc "{root}/etc"',
        f'Dir::State "{root}/state"',
        f'Dir::State::status "{root}/state/status"',
        f'Dir::Cache "{root}/cache"',
        'Acquire::Languages "none"',
        *apt_options,
    ]
    return "".join(f"{line};\n" for line in lines)


def _build(
    image: Image, rebuild: Rebuild, source: _Source, into: Path, apt_options: Sequence[str], steps: Steps
) -> None:
    tree, build = into / "tree", into / "build"
    shutil.copytree(source.directory, build)
    (build / "run").write_text(_SCRIPT, encoding="utf-8")
    (build / "run").chmod(0o755)
    try:
        steps.run(mmdebstrap_argv(image, rebuild, tree, build, apt_options), {"DEB_BUILD_PROFILES": _PROFILES})
        for package in rebuild.packages:
            built = _one(tree / "build", f"{package}_*.deb", steps)
            shutil.copyfile(built, into / built.name)
            (into / built.name).chmod(0o644)
    finally:
        shutil.rmtree(tree, ignore_errors=True)
        shutil.rmtree(build, ignore_errors=True)


def mmdebstrap_argv(image: Image, rebuild: Rebuild, tree: Path, build: Path, apt_options: Sequence[str]) -> list[str]:
    """Command that makes a build tree and builds in it; ``build`` holds the source package and the script."""
    argv = ["mmdebstrap", "--variant=buildd", "--format=directory", "--architectures=amd64"]
    argv += [f"--aptopt={option}" for option in apt_options]
    argv += ['--aptopt=APT::Install-Recommends "false"', "--dpkgopt=force-unsafe-io"]
    argv += [f"--dpkgopt=path-exclude=/usr/share/{path}/*" for path in ("doc", "man", "locale", "info")]
    # As mmdebstrap itself does: apt runs outside the tree, where the network and its settings are, and dpkg in it.
    dependencies = (
        'APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" apt-get --yes -q -oDPkg::Chroot-Directory="$1" '
        f"--build-profiles {_PROFILES.replace(' ', ',')} --arch-only build-dep {shlex.quote(str(build))}/*.dsc"
    )
    run = shlex.join(["/build/run", SUFFIX, rebuild.variable, *rebuild.flags])
    hooks = (
        dependencies,
        f"copy-in {shlex.quote(str(build))} /",
        f'chown -R {_NOBODY}:{_NOBODY} "$1/build"',
        f'chroot "$1" setpriv --reuid={_NOBODY} --regid={_NOBODY} --clear-groups --no-new-privs {run}',
    )
    argv += [f"--customize-hook={hook}" for hook in hooks]
    return [*argv, image.suite, str(tree), *(source.line() for source in image.sources)]


def _one(directory: Path, pattern: str, steps: Steps) -> Path:
    found = sorted(directory.glob(pattern))
    if len(found) != 1:
        names = ", ".join(os.listdir(directory)) if directory.is_dir() else "nothing"
        raise steps.error(f"{len(found)} files {pattern} where one is needed, among {names}; see {steps.log}")
    return found[0]

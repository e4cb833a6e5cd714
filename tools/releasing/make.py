# SPDX-License-Identifier: Apache-2.0
"""Make a whole release in one directory, or none of it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType

from ktls_control import signed
from ktls_control.errors import ControlError
from tools import canonical, collection

from . import ReleaseError, lockfile, sbom, sources
from .sources import Sources


def make(root: Path, output: Path, *, key: Path | None = None, allow_dirty: bool = False) -> dict[str, str]:
    """Make the release of the checkout at ``root`` in ``output``, over an older one.

    :param key: signs, as ``ssh-keygen -Y sign -f``; None: nobody does.
    :returns: file name to SHA-256 of every artefact.
    :raises ReleaseError: naming what is wrong and what to do about it.
    """
    made_of = sources.of(root, allow_dirty=allow_dirty)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".ktls-release-", dir=output.parent) as scratch:
        place = Path(scratch) / "release"
        place.mkdir(mode=0o755)
        zipapp = _zipapp(made_of, place)
        _collection(made_of, place, Path(scratch))
        _wheel(made_of, place, Path(scratch))
        _boms(made_of, place, zipapp)
        (place / "release.json").write_text(made_of.control.text(), encoding="utf-8")
        for path in place.iterdir():
            path.chmod(0o755 if path == zipapp else 0o644)
        artefacts = sorted(place.iterdir())
        (place / signed.SUMS).write_text(signed.sums(artefacts), encoding="utf-8")
        if key is not None:
            try:
                signed.sign(place, key)
            except ControlError as error:
                raise ReleaseError(error.message) from error
            (place / signed.SIGNATURE).chmod(0o644)
        (place / signed.SUMS).chmod(0o644)
        found = {path.name: signed.digest(path) for path in artefacts}
        shutil.rmtree(output, ignore_errors=True)
        place.rename(output)
    return found


def _zipapp(made_of: Sources, place: Path) -> Path:
    builder = _builder(made_of.root)
    try:
        built = builder.build(made_of.root, place / "ktls.pyz")
    except builder.BuildError as error:
        raise ReleaseError(str(error)) from error
    return (place / "ktls.pyz").rename(place / f"ktls-{built['version']}.pyz")


def _collection(made_of: Sources, place: Path, scratch: Path) -> None:
    try:
        built = collection.build(scratch / "collection", made_of.root)
    except collection.BuildError as error:
        raise ReleaseError(f"the collection: {error}") from error
    shutil.copyfile(built, place / built.name)


def _wheel(made_of: Sources, place: Path, scratch: Path) -> None:
    tree = sources.export(made_of, scratch / "tree")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--no-build-isolation", "--no-index", "--wheel-dir", str(scratch / "wheel"), str(tree)]
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(made_of.time), "LC_ALL": "C.UTF-8", "TZ": "UTC"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    wheels = list((scratch / "wheel").glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        said = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
        raise ReleaseError(f"the wheel: {said[-1]}: see `pip wheel --no-deps --no-index .`")
    try:
        (place / wheels[0].name).write_bytes(canonical.wheel(wheels[0], made_of.time))
    except canonical.CanonicalError as error:
        raise ReleaseError(f"the wheel: {error}") from error


def _boms(made_of: Sources, place: Path, zipapp: Path) -> None:
    artefacts = {path.name: signed.digest(path) for path in place.iterdir()}
    texts = {
        "ktls-control.cdx.json": sbom.control(
            made_of.control,
            _locked(made_of.root, "control"),
            {name: sha256 for name, sha256 in artefacts.items() if name != zipapp.name},
            made_of.time,
        ),
        "ktls-host.cdx.json": sbom.host(
            made_of.host, _locked(made_of.root, "host"), (zipapp.name, artefacts[zipapp.name]), made_of.time
        ),
    }
    for name, text in texts.items():
        (place / name).write_text(text, encoding="utf-8")


def _locked(root: Path, name: str) -> tuple[lockfile.Locked, ...]:
    path = root / "requirements" / f"{name}.lock"
    try:
        return lockfile.parse(path.read_text(encoding="utf-8"))
    except (OSError, lockfile.LockError) as error:
        raise ReleaseError(f"{path}: {error}: write it anew with tools/lock") from error


def _builder(root: Path) -> ModuleType:
    """``agent/build.py``, which is a program beside its sources and in no package."""
    spec = importlib.util.spec_from_file_location("ktls_release_builder", root / "agent" / "build.py")
    if spec is None or spec.loader is None:
        raise ReleaseError(f"{root / 'agent' / 'build.py'} is missing; check out the whole repository")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

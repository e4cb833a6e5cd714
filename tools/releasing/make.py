# SPDX-License-Identifier: Apache-2.0
"""Make a whole release in one directory, or none of it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

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
    check_place(output)
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
        check_place(output)
        if output.exists():
            output.rename(Path(scratch) / "before")
        place.rename(output)
    return found


def check_place(output: Path) -> None:
    """Whether a release may take the place of what is there: nothing, or an earlier release and nothing else.

    :raises ReleaseError: there is something that a release did not make.
    """
    if not os.path.lexists(output):
        return
    found = sorted(output.iterdir()) if output.is_dir() and not output.is_symlink() else None
    if found is None:
        raise ReleaseError(f"{output} is no directory: name another one with --output")
    others = [path.name for path in found if not path.is_file() or path.is_symlink()]
    names = {path.name for path in found}
    if found and (others or not {"release.json", signed.SUMS} <= names):
        raise ReleaseError(f"{output} holds what is no release ({(others or sorted(names))[0]}): name a new directory")


def _zipapp(made_of: Sources, place: Path) -> Path:
    builder = collection.release_builder(made_of.root)
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

# SPDX-License-Identifier: Apache-2.0
"""Bills of materials in CycloneDX's JSON (ECMA-424): what a control node installs, what is in the host's zipapp.

They come from the lock files, so they say what may be installed, to the hash, and not what happens to be there. Number
and time are those of the content and of the commit: the same sources give the same document.
"""

from __future__ import annotations

import importlib.metadata
import uuid
from collections.abc import Iterable
from datetime import datetime, timezone
from typing import Any

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, Property, XsUri
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from cyclonedx.validation import make_schemabased_validator
from packageurl import PackageURL

from ktls_host.buildinfo import BuildInfo

from . import ReleaseError
from .lockfile import Locked

SCHEMA = SchemaVersion.V1_6
_SPACE = uuid.UUID("6c9f0c6e-1d5b-5c77-9f0b-4e2d3a8b7c10")
_PROJECT = "ktls-fleet"


def control(info: BuildInfo, locked: Iterable[Locked], artefacts: dict[str, str], when: int) -> str:
    """The control node's: the project, and every package of control.lock that Linux installs.

    :param artefacts: file name to SHA-256 of what the project is delivered as.
    :param when: Unix seconds.
    :raises ReleaseError: the document is not valid by CycloneDX's own schema.
    """
    root = _root(ComponentType.APPLICATION, _PROJECT, info, {})
    for name, sha256 in sorted(artefacts.items()):
        root.external_references.add(
            ExternalReference(
                type=ExternalReferenceType.DISTRIBUTION,
                url=XsUri(name),
                hashes=[_sha256(sha256)],
            )
        )
    return _document(root, [entry for entry in locked if entry.on_linux], when, "control.lock")


def host(info: BuildInfo, locked: Iterable[Locked], zipapp: tuple[str, str], when: int) -> str:
    """The host's: one zipapp, and the packages that are inside it. ``zipapp`` is its name and SHA-256.

    :raises ReleaseError: the document is not valid by CycloneDX's own schema.
    """
    name, sha256 = zipapp
    needs = {"ktls:needs": "Python 3.9 or later, OpenSSL 3, systemd: those of the host, not part of it"}
    root = _root(ComponentType.APPLICATION, name, info, needs)
    root.hashes.add(_sha256(sha256))
    return _document(root, list(locked), when, "host.lock")


def _root(kind: ComponentType, name: str, info: BuildInfo, more: dict[str, str]) -> Component:
    properties = {
        "ktls:commit": info.commit or "unknown",
        "ktls:changed-since": str(info.dirty).lower(),
        f"ktls:{info.lock_name}": f"sha256:{info.lock}",
        **more,
    }
    return Component(
        type=kind, name=name, version=info.version, bom_ref=_PROJECT,
        licenses=[LicenseFactory().make_from_string("Apache-2.0")],
        properties=[Property(name=key, value=value) for key, value in properties.items()],
    )  # fmt: skip


def _document(root: Component, locked: list[Locked], when: int, lock_name: str) -> str:
    bom = Bom()
    bom.metadata.component = root
    bom.metadata.timestamp = datetime.fromtimestamp(when, timezone.utc)
    components = {(entry.name, entry.version): _component(entry, lock_name) for entry in locked}
    for component in components.values():
        bom.components.add(component)
    for parent in [root, *components.values()]:
        wanted = [components[entry.name, entry.version] for entry in locked if _name(parent) in entry.wanted_by]
        bom.register_dependency(parent, wanted)
    identity = "\n".join([str(root.version), *(f"{name}=={version}" for name, version in sorted(components))])
    bom.serial_number = uuid.uuid5(_SPACE, f"{lock_name}\n{identity}\n{when}")
    text = str(make_outputter(bom, OutputFormat.JSON, SCHEMA).output_as_string(indent=1)) + "\n"
    validate(text)
    return text


def validate(text: str) -> None:
    """:raises ReleaseError: what CycloneDX's schema says against it."""
    problem: Any = make_schemabased_validator(OutputFormat.JSON, SCHEMA).validate_str(text)
    if problem is not None:
        raise ReleaseError(f"the bill of materials is not valid: {' '.join(str(problem).split())[:300]}")


def _name(component: Component) -> str:
    return _PROJECT if component.bom_ref.value == _PROJECT else component.name


def _component(entry: Locked, lock_name: str) -> Component:
    purl = PackageURL("pypi", name=entry.name.lower().replace("_", "-"), version=entry.version)
    files = ExternalReference(
        type=ExternalReferenceType.DISTRIBUTION,
        url=XsUri(f"https://pypi.org/simple/{entry.name}/"),
        comment=f"the files that requirements/{lock_name} allows",
        hashes=[_sha256(sha256) for sha256 in entry.hashes],
    )
    marker = [Property(name="ktls:marker", value=entry.marker)] if entry.marker else []
    licence = licence_of(entry)
    return Component(
        type=ComponentType.LIBRARY, name=entry.name, version=entry.version, bom_ref=str(purl), purl=purl,
        external_references=[files], properties=marker,
        licenses=[LicenseFactory().make_from_string(licence)] if licence else [],
    )  # fmt: skip


def licence_of(entry: Locked) -> str | None:
    """What the package says of itself where just this version is installed; else nothing is said."""
    try:
        found = importlib.metadata.distribution(entry.name)
    except importlib.metadata.PackageNotFoundError:
        return None
    if found.version != entry.version:
        return None
    metadata: Any = found.metadata
    said = metadata.get("License-Expression") or metadata.get("License") or ""
    # Some packages put the whole text there.
    return str(said).strip() if 0 < len(str(said).strip()) <= 60 and "\n" not in str(said).strip() else None


def _sha256(value: str) -> HashType:
    return HashType(alg=HashAlgorithm.SHA_256, content=value)

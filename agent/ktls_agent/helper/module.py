# SPDX-License-Identifier: Apache-2.0
"""Load the kernel module ``tls``, or unload it while nothing uses it. What the host was before is recorded first."""

from __future__ import annotations

from typing import Any, Callable

from ktls_host import module_lever, originals
from ktls_host.commands import Runner
from ktls_host.errors import KtlsError
from ktls_host.module_lever import DesiredModule


def load(root: str = "/", runner: Runner | None = None) -> dict[str, Any]:
    """Load it now; not at boot, which is the operator's choice. Raises :class:`KtlsError`: those of the lever."""
    with originals.lock(root):
        wanted = DesiredModule(loaded=True)
        before = module_lever.probe(root)
        steps = module_lever.plan(before, wanted)
        if steps:
            module_lever.adopt(before, steps, root)
            module_lever.apply(steps, runner, root)
        after = module_lever.probe(root)
        module_lever.verify(after, wanted)
    return {"changed": bool(steps), "loaded": after.present, "refcount": after.refcount}


def unload(root: str = "/", runner: Runner | None = None) -> dict[str, Any]:
    """Unload it. Raises :class:`KtlsError`: ``module_in_use``, ``module_builtin`` and others of the lever."""
    notes: list[str] = []
    with originals.lock(root):
        wanted = DesiredModule(loaded=False)
        before = module_lever.probe(root)
        steps = module_lever.plan(before, wanted)
        if steps:
            try:
                module_lever.adopt(before, steps, root)
            except KtlsError as error:  # off does not wait for a disk
                notes.append(f"not recorded: {error.message}")
            module_lever.apply(steps, runner, root)
        after = module_lever.probe(root)
        module_lever.verify(after, wanted)
    return {"changed": bool(steps), "loaded": after.present, "refcount": after.refcount, "notes": notes}


VERBS: dict[str, Callable[[], dict[str, Any]]] = {"load": load, "unload": unload}

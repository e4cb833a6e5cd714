# SPDX-License-Identifier: Apache-2.0
"""The control side inside an installed collection, where nothing of ours is importable by its own name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]

CODE = """
import sys
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder)]
sys.path = [place for place in sys.path if not place.startswith(ROOT) or "site-packages" in place]
sys.path_hooks = [hook for hook in sys.path_hooks if "editable" not in repr(hook)]
import importlib.util
if OTHER:
    sys.path.insert(0, OTHER)
assert bool(importlib.util.find_spec("ktls_host")) == bool(OTHER) and importlib.util.find_spec("ktls_control") is None
from ansible.utils.collection_loader._collection_finder import _AnsibleCollectionFinder
_AnsibleCollectionFinder(paths=[ROOT + "/collections"])._install()
base = "ansible_collections.ktls.fleet.plugins.plugin_utils.ktls_control"
for name in ("rollout.engine", "rollout.begin", "rollout.implicit", "reach", "flag"):
    importlib.import_module(f"{base}.{name}")
print(sys.modules["ktls_host"].__file__)
"""


@pytest.mark.parametrize("other", [False, True])
def test_the_engine_finds_the_hosts_library_in_the_collection(tmp_path: Path, other: bool) -> None:
    """Also where somebody has installed another version of it with pip."""
    (tmp_path / "ktls_host").mkdir()
    (tmp_path / "ktls_host" / "__init__.py").write_text("")
    code = f"ROOT, OTHER = {str(ROOT)!r}, {str(tmp_path) if other else ''!r}\n{CODE}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/", check=False)
    assert done.returncode == 0, done.stderr
    assert "module_utils/ktls_host" in done.stdout

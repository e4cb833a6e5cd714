# SPDX-License-Identifier: Apache-2.0
"""The agent's configuration file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ktls_host import configfile
from ktls_host.datapath import registry
from ktls_host.datapath.registry import Choice
from ktls_host.errors import KtlsError
from ktls_host.probe_object import EXPECTED_SHA256, PROBE_SIZE

from . import defaults
from .evidence import config as evidence
from .evidence.config import EvidenceConfig
from .guards import config as guards
from .guards.config import GuardsConfig
from .metrics import config as metrics
from .metrics.config import MetricsConfig
from .series import config as series
from .series.config import SeriesConfig

DEFAULT_PATH = defaults.CONFIG
DEFAULT_SOCKET = defaults.SOCKET
DEFAULT_METRICS_SOCKET = defaults.METRICS_SOCKET
DEFAULT_RUN_DIR = defaults.RUN_DIR
DEFAULT_STATE_DIR = defaults.STATE_DIR
DEFAULT_DIAG_SOCKET = defaults.DIAG_SOCKET
# Of the helpers that do root's part; null in the configuration: there is none.
HELPER_SOCKETS = {
    "lease_socket": "/run/ktls-lease.sock",
    "module_socket": "/run/ktls-module.sock",
    "nic_socket": "/run/ktls-nic.sock",
}


@dataclass(frozen=True)
class ProbeConfig:
    """Where the self-probe connects, and what it verifies there.

    ``path`` is what it downloads, whose ``sha256`` and ``size`` in bytes are known; None: it ends with the handshake,
    unless the file ``known`` has an object of the server (:mod:`.probe_known`).
    """

    host: str
    port: int
    server_name: str
    ca: str
    path: str | None
    sha256: str = EXPECTED_SHA256
    size: int = PROBE_SIZE
    known: str | None = None


@dataclass(frozen=True)
class AgentConfig:
    """Everything that the agent needs to know about its host."""

    socket: str
    state_dir: str
    run_dir: str
    sidecar_socket: str
    probe: ProbeConfig
    diag_socket: str = DEFAULT_DIAG_SOCKET
    lease_socket: str | None = HELPER_SOCKETS["lease_socket"]
    module_socket: str | None = HELPER_SOCKETS["module_socket"]
    nic_socket: str | None = HELPER_SOCKETS["nic_socket"]
    group: str | None = "ktls"
    evidence: EvidenceConfig = field(default_factory=EvidenceConfig)
    guards: GuardsConfig = field(default_factory=GuardsConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    series: SeriesConfig = field(default_factory=SeriesConfig)
    datapath: Choice | None = None
    """What serves on this host; None: the sidecar, on ``sidecar_socket``."""
    tls12_consent: bool = False
    """Whether phase hw may move new connections to TLS 1.2, which is what network cards take."""

    @property
    def run_flag(self) -> str:
        """The off flag that is lost at boot."""
        return f"{self.run_dir}/off"

    @property
    def durable_flag(self) -> str:
        """The off flag that is not."""
        return f"{self.state_dir}/off"


def load(path: str = DEFAULT_PATH) -> AgentConfig:
    """Read the configuration at ``path``. Raises :class:`KtlsError`: bad_config."""
    return parse(configfile.read(path, "deploy the agent's role"), path)


def parse(raw: Any, source: str) -> AgentConfig:
    """Check ``raw``. Raises :class:`KtlsError`: bad_config, naming ``source`` and the key."""
    if not isinstance(raw, dict):
        raise _bad(source, "is not an object")
    raw = dict(raw)
    probe = raw.pop("probe", None)
    if not isinstance(probe, dict):
        raise _bad(source, "probe is missing or not an object")
    probe = dict(probe)
    port = probe.pop("port", None)
    if isinstance(port, bool) or not isinstance(port, int) or not 1 <= port <= 65535:
        raise _bad(source, "probe.port is not a port number")
    target = {"port": port, **_target(source, probe)}
    target.update({key: _text(source, "probe.", probe, key) for key in ("host", "server_name", "ca")})
    optional: dict[str, Any] = {}
    if "diag_socket" in raw:
        optional["diag_socket"] = _text(source, "", raw, "diag_socket")
    for key in HELPER_SOCKETS:
        if key in raw:
            optional[key] = raw.pop(key) if raw[key] is None else _text(source, "", raw, key)
    if "group" in raw:
        group = raw.pop("group")
        if group is not None and not isinstance(group, str):
            raise _bad(source, "group is not a name or null")
        optional["group"] = group
    optional["evidence"] = evidence.parse(raw.pop("evidence", {}), source)
    optional["guards"] = guards.parse(raw.pop("guards", {}), source)
    optional["metrics"] = metrics.parse(raw.pop("metrics", {}), source)
    optional["series"] = series.parse(raw.pop("series", {}), source)
    chosen = raw.pop("datapath", {})
    if "tls12_consent" in raw:
        consent = raw.pop("tls12_consent")
        if not isinstance(consent, bool):
            raise _bad(source, "tls12_consent is not true or false")
        optional["tls12_consent"] = consent
    paths: dict[str, Any] = {
        key: _text(source, "", raw, key) for key in ("socket", "state_dir", "run_dir", "sidecar_socket")
    }
    if isinstance(chosen, dict) and chosen.get("kind", registry.DEFAULT) == registry.DEFAULT:
        chosen = {"socket": paths["sidecar_socket"], **chosen}
    optional["datapath"] = registry.parse(chosen, source)
    odd = sorted(str(key) for key in (*raw, *(f"probe.{key}" for key in probe)))
    if odd:
        raise _bad(source, f"unknown key {odd[0]}")
    return AgentConfig(probe=ProbeConfig(**target), **paths, **optional)


def _target(source: str, probe: dict[str, Any]) -> dict[str, Any]:
    """Take out of ``probe`` what is downloaded: our object, or with a path of null what ``known`` has recorded."""
    if "path" not in probe or probe["path"] is not None:
        return {"path": _text(source, "probe.", probe, "path")}
    del probe["path"]
    return {"path": None, "known": _text(source, "probe.", probe, "known") if "known" in probe else None}


def _text(source: str, prefix: str, raw: dict[str, Any], key: str) -> str:
    value = raw.pop(key, None)
    if not isinstance(value, str) or not value:
        raise _bad(source, f"{prefix}{key} is missing or not a text")
    return value


def _bad(source: str, what: str) -> KtlsError:
    return KtlsError("bad_config", f"{source}: {what}; correct it and restart the agent")

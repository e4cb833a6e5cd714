# SPDX-License-Identifier: Apache-2.0
"""Media types by the extension of a name: one table, the same on every host and every Python."""

from __future__ import annotations

import mimetypes
from collections.abc import Mapping

UNKNOWN = "application/octet-stream"

# What Python lacks, or what its versions disagree about. A compressed file is what it is, not what it holds.
_OURS = {
    ".aac": "audio/aac",
    ".apk": "application/vnd.android.package-archive",
    ".avif": "image/avif",
    ".br": "application/x-brotli",
    ".bz2": "application/x-bzip2",
    ".cjs": "text/javascript",
    ".crt": "application/x-x509-ca-cert",
    ".deb": "application/vnd.debian.binary-package",
    ".dmg": "application/x-apple-diskimage",
    ".epub": "application/epub+zip",
    ".flac": "audio/flac",
    ".geojson": "application/geo+json",
    ".gz": "application/gzip",
    ".heic": "image/heic",
    ".heif": "image/heif",
    ".ico": "image/x-icon",
    ".img": UNKNOWN,
    ".iso": "application/x-iso9660-image",
    ".jar": "application/java-archive",
    ".js": "text/javascript",
    ".jsonld": "application/ld+json",
    ".jxl": "image/jxl",
    ".log": "text/plain",
    ".lz4": "application/x-lz4",
    ".m3u8": "application/vnd.apple.mpegurl",
    ".m4a": "audio/mp4",
    ".m4s": "video/iso.segment",
    ".m4v": "video/mp4",
    ".map": "application/json",
    ".md": "text/markdown",
    ".mjs": "text/javascript",
    ".mkv": "video/x-matroska",
    ".mpd": "application/dash+xml",
    ".oga": "audio/ogg",
    ".ogg": "audio/ogg",
    ".ogv": "video/ogg",
    ".opus": "audio/ogg",
    ".otf": "font/otf",
    ".qcow2": UNKNOWN,
    ".rar": "application/vnd.rar",
    ".rpm": "application/x-rpm",
    ".rss": "application/rss+xml",
    ".svgz": "application/gzip",
    ".tbz2": "application/x-bzip2",
    ".tgz": "application/gzip",
    ".toml": "application/toml",
    ".ts": "video/mp2t",
    ".ttf": "font/ttf",
    ".txz": "application/x-xz",
    ".wasm": "application/wasm",
    ".wav": "audio/wav",
    ".weba": "audio/webm",
    ".webm": "video/webm",
    ".webmanifest": "application/manifest+json",
    ".webp": "image/webp",
    ".whl": "application/zip",
    ".woff": "font/woff",
    ".woff2": "font/woff2",
    ".xhtml": "application/xhtml+xml",
    ".xml": "application/xml",
    ".xz": "application/x-xz",
    ".yaml": "application/yaml",
    ".yml": "application/yaml",
    ".z": "application/x-compress",
    ".zip": "application/zip",
    ".zst": "application/zstd",
    ".7z": "application/x-7z-compressed",
}
# An instance holds Python's own table and nothing of the host's mime.types.
_TABLE: dict[str, str] = {**mimetypes.MimeTypes().types_map[1], **_OURS}


def media_type(name: str, over: Mapping[str, str] | None = None) -> str:
    """Return the media type for a file name. ``over`` (lower-case extension with its dot -> type) wins, as it is.

    Text is said to be UTF-8: without that a browser guesses.
    """
    dot = name.rfind(".")
    if dot <= 0:
        return UNKNOWN
    extension = name[dot:].lower()
    if over and extension in over:
        return over[extension]
    kind = _TABLE.get(extension, UNKNOWN)
    return f"{kind}; charset=utf-8" if kind.startswith("text/") else kind

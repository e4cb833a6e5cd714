# SPDX-License-Identifier: Apache-2.0
"""The files that are served, and their SHA-256: reproducible bytes of sizes around what TLS and TCP cut at."""

from __future__ import annotations

import gzip
import hashlib
import random
from pathlib import Path

MIB = 1024 * 1024
SIZES = {
    "empty.bin": 0,
    "one.bin": 1,
    "record-1.bin": 16383,
    "record.bin": 16384,
    "record+1.bin": 16385,
    "small.bin": 10 * 1024,
    "buffer.bin": 256 * 1024,
    "medium.bin": MIB,
    "medium+1.bin": MIB + 1,
    "large.bin": 8 * MIB,
}
TEXT = "".join(f"line {number}: the quick brown fox jumps over the lazy dog\n" for number in range(400)).encode()
#: What clients ask for when any body will do.
COMMON = ("small.bin", "medium+1.bin", "large.bin")

PAGE = b"""<!doctype html>
<html><head><title>conformance</title><link rel="stylesheet" href="style.css"></head>
<body><pre id="result">running</pre><script src="page.js"></script></body></html>
"""
SCRIPT = b"""// Downloads with fetch, hashes with SubtleCrypto, and leaves the result in the page.
"use strict";
const files = ["small.bin", "record+1.bin", "medium+1.bin", "large.bin", "text.txt"];
async function sha256(buffer) {
  const digest = await crypto.subtle.digest("SHA-256", buffer);
  return Array.from(new Uint8Array(digest), (b) => b.toString(16).padStart(2, "0")).join("");
}
async function whole(name, round) {
  const response = await fetch(`${name}?round=${round}`, {cache: "no-store"});
  return [response.status, await sha256(await response.arrayBuffer())];
}
async function main() {
  const found = {files: {}, style: getComputedStyle(document.body).getPropertyValue("--marker").trim()};
  for (let round = 0; round < 2; round++)
    await Promise.all(files.map(async (name) => { found.files[`${name}#${round}`] = await whole(name, round); }));
  const part = await fetch("large.bin", {headers: {Range: "bytes=1000000-1999999"}, cache: "no-store"});
  found.part = [part.status, part.headers.get("content-range"), await sha256(await part.arrayBuffer())];
  const head = await fetch("large.bin", {method: "HEAD", cache: "no-store"});
  found.head = [head.status, head.headers.get("content-length")];
  const again = await fetch("text.txt", {cache: "no-cache"});
  const revalidated = await fetch("text.txt", {cache: "no-cache"});
  found.cached = [again.status, revalidated.status, await sha256(await revalidated.arrayBuffer())];
  found.missing = (await fetch("nothing.bin")).status;
  return found;
}
main().then((found) => JSON.stringify(found), (error) => JSON.stringify({error: String(error)}))
  .then((text) => { document.getElementById("result").textContent = text; });
"""
STYLE = b"body { --marker: applied; }\n"


def blob(name: str, size: int) -> bytes:
    """Return ``size`` bytes that depend on ``name`` only."""
    return random.Random(name).randbytes(size)


def make_tree(root: Path) -> dict[str, bytes]:
    """Write the tree below ``root`` and return what each file holds, by name."""
    files = {name: blob(name, size) for name, size in SIZES.items()}
    files |= {"index.html": PAGE, "page.js": SCRIPT, "style.css": STYLE, "text.txt": TEXT}
    files |= {"plain.txt": b"hello, world\n", "dir/index.html": b"<p>in a directory</p>\n", "dir/a b.txt": b"a space\n"}
    # Siblings: real gzip, and for brotli and zstd any bytes, because nothing here decodes them.
    files |= {
        "style-guide.css": TEXT,
        "style-guide.css.gz": gzip.compress(TEXT, mtime=0),
        "style-guide.css.br": blob("br", 900),
        "style-guide.css.zst": blob("zst", 950),
    }
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (root / ".hidden").write_bytes(b"secret\n")
    (root / "nowhere").mkdir()
    (root / "outside").symlink_to("/etc/passwd")
    (root / "inside").symlink_to("plain.txt")
    return files


def sha256(data: bytes) -> str:
    """Return the digest in hexadecimal."""
    return hashlib.sha256(data).hexdigest()

# SPDX-License-Identifier: Apache-2.0
"""The ``__main__`` of the zipapp: one file that is several commands, by the name that it is called by."""

from __future__ import annotations

import os
import sys


def main() -> int:
    """Dispatch on the program's name, else on the first argument. Imports only what the chosen part needs."""
    name = os.path.basename(sys.argv[0])
    arguments = sys.argv[1:]
    if name in ("ktls-agent", "ktls-sidecar", "ktls-publish", "ktls-sentinel"):
        part = name[len("ktls-") :]
    elif arguments:
        part = arguments.pop(0)
    else:
        part = "help"
    if part == "agent" and arguments[:1] == ["helper"] and len(arguments) == 2 and "LISTEN_FDS" in os.environ:
        # The agent waits for it, and a zipapp compiles all that it imports: without the command line's part.
        from ktls_agent.helper.serve import main as helper

        return helper(arguments[1])
    if part == "agent" and arguments == ["task"]:
        # A wave asks all of its hosts at once, and most of them are busy with something else.
        from ktls_host.task import main as task

        return task()
    if part == "agent":
        from ktls_agent.cli import main as agent

        return agent(arguments)
    if part == "sidecar":
        from ktls_sidecar.cli import main as sidecar

        return int(sidecar(arguments) or 0)
    if part == "publish":
        from ktls_sidecar.publish import main as publish

        return publish(arguments)
    if part == "sentinel":
        from ktls_sentinel.cli import main as sentinel

        return sentinel(arguments)
    if part == "release" and len(arguments) == 1:
        return _release(arguments[0])
    if part == "version" and not arguments:
        sys.stdout.write(_meta())
        return 0
    usage = "usage: ktls.pyz agent|sidecar|publish|sentinel ARGUMENTS... | version | release PATH"
    print(usage, file=sys.stdout if part in ("help", "-h", "--help") else sys.stderr)
    return 0 if part in ("help", "-h", "--help") else 2


def _meta() -> str:
    import zipfile

    with zipfile.ZipFile(sys.path[0]) as archive:
        return archive.read("meta.json").decode()


def _release(path: str) -> int:
    """Check the release at ``path`` and print what it is."""
    import json

    from ktls_host import release
    from ktls_host.errors import KtlsError

    try:
        info = release.inspect(path)
    except KtlsError as error:
        print(f"ktls.pyz: {error.message}", file=sys.stderr)
        return 1
    print(json.dumps({"version": info.version, "sha256": info.sha256, "commit": info.commit}))
    return 0


if __name__ == "__main__":
    sys.exit(main())

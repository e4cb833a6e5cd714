# SPDX-License-Identifier: Apache-2.0
"""What stands for the agent's command line and for ktls-off on a fake host: one request to its fake agent.

Run as ``python3 -ISs hostcli.py DIRECTORY HOST PROGRAM WORDS...``; HOST ``-`` is the address that ssh connected to.
"""

import json
import os
import socket
import sys
from typing import Any

Request = dict[str, Any]


def main() -> int:
    base, host, *words = sys.argv[1:]
    if host == "-":
        host = os.environ["SSH_CONNECTION"].split()[2]
    answer = ask(f"{base}/{host}/agent.sock", request(words))
    print(json.dumps(answer, sort_keys=True))
    return 0 if answer["ok"] else 1


def request(words: list[str]) -> Request:
    if words[0] == "ktls-off":
        return {"verb": "off", "reason": " ".join(words[1:])}
    verb = words[1]
    options = dict(zip(words, words[1:], strict=False))
    if verb == "order":
        order = {"phase": options["--phase"], "id": options["--id"], "epoch": int(options["--epoch"])}
        return {"verb": verb, "order": {**order, "lease_s": float(options["--lease"])}}
    if verb == "confirm":
        return {"verb": verb, "id": options["--id"], "epoch": int(options["--epoch"])}
    return {"verb": verb}


def ask(path: str, request: Request) -> Request:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(20)
        sock.connect(path)
        sock.sendall(json.dumps(request).encode() + b"\n")
        data = b""
        while not data.endswith(b"\n"):
            more = sock.recv(65536)
            if not more:
                break
            data += more
    answer: Request = json.loads(data)
    return answer


if __name__ == "__main__":
    sys.exit(main())

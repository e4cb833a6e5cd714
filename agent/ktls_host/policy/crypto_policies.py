# SPDX-License-Identifier: Apache-2.0
"""The contract of crypto-policies (Fedora, RHEL, openSUSE): what to put into ``local.d``, and how it takes effect.

update-crypto-policies(8) appends ``local.d/<backend>-*.config``, in order of names and as they are, to the generated
file of the back-end.
"""

from __future__ import annotations

from .. import textfile
from ..commands import Runner
from ..errors import KtlsError
from .marks import HEADER, signed

#: Without an argument the policy in force is applied anew; without ``--no-reload`` sshd, ipsec and bind are restarted
#: (reload-cmds.sh of crypto-policies), for which nobody asked here.
REGENERATE = ("update-crypto-policies", "--no-reload")
DIRECTORY = "/etc/crypto-policies"
#: Back-end by our names: the part of the file name that counts.
NAMES = {"openssl": "opensslcnf", "gnutls": "gnutls"}


def backend_file(backend: str) -> str:
    """Return the generated file that the library reads."""
    return f"{DIRECTORY}/back-ends/{NAMES[backend]}.config"


def local_file(backend: str) -> str:
    """Return our file in ``local.d``; with another ending than ``.config`` it would be ignored."""
    return f"{DIRECTORY}/local.d/{NAMES[backend]}-ktls.config"


def local_text(lines: str) -> str:
    """Return the content of our file. The empty line ends a file before ours that lacks its newline."""
    return f"\n{signed(lines)}"


def stale(backend: str, local: str | None, root: str = "/") -> bool:
    """True when the generated file was not made with ``local``, the content of our file, or ``None`` for none."""
    generated = textfile.read(root, backend_file(backend)) or ""
    return HEADER in generated if local is None else local.strip() not in generated


def regenerate(runner: Runner) -> None:
    """Generate the files of all back-ends anew.

    Raises :class:`KtlsError` ``crypto_policies_failed``, and ``command_missing`` of the runner.
    """
    result = runner.run(REGENERATE)
    if result.rc:
        message = (
            f"{' '.join(REGENERATE)} failed ({result.reason}); run it by hand, mend what it complains of, then repeat"
        )
        raise KtlsError("crypto_policies_failed", message)

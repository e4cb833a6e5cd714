# SPDX-License-Identifier: Apache-2.0
"""The command ``ktls-publish``: content that a server may send without a copy, because it cannot change."""

from __future__ import annotations

import argparse
import contextlib
import os
import stat
import sys
from collections import Counter
from collections.abc import Sequence

from ktls_host.errors import KtlsError
from ktls_host.version_option import add_version

from . import staging
from .staging import Staged

_DESCRIPTION = """Publish a file (or, with -r, what is in a directory) so that a server sees the old content or the new
content, never a mixture: written beside the destination, made durable, sealed, renamed."""
_EPILOG = """Seals: verity is fs-verity (ext4 and f2fs with the feature, btrfs); immutable is the attribute of chattr +i
(needs root); auto takes the first that works and says when none does. A running server needs no restart."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns 0, or 1 after one line on standard error; nothing is half-done then."""
    parser = argparse.ArgumentParser(prog="ktls-publish", description=_DESCRIPTION, epilog=_EPILOG)
    parser.add_argument("-r", "--recursive", action="store_true", help="publish or remove a directory")
    parser.add_argument("--remove", action="store_true", help="remove what was published, sealed or not")
    parser.add_argument("--seal", choices=staging.SEALS, default="auto", help="default: %(default)s")
    add_version(parser)
    parser.add_argument("paths", nargs="+", metavar="PATH", help="SOURCE DESTINATION, or with --remove DESTINATION")
    options = parser.parse_intermixed_args(argv)
    wanted = 1 if options.remove else 2
    if len(options.paths) != wanted:
        parser.error("--remove takes one path" if options.remove else "give SOURCE and DESTINATION")
    try:
        if options.remove:
            said = remove(options.paths[0], options.recursive)
        elif options.recursive:
            said = publish_tree(options.paths[0], options.paths[1], options.seal)
        else:
            said = publish_file(options.paths[0], options.paths[1], options.seal)
    except KtlsError as error:
        print(f"ktls-publish: {error.message}", file=sys.stderr)
        return 1
    except OSError as error:
        where = os.fsdecode(error.filename) if error.filename is not None else options.paths[-1]
        print(f"ktls-publish: {where}: {error.strerror}; nothing was left half-done", file=sys.stderr)
        return 1
    for line in said:
        print(line)
    return 0


def publish_file(source: str, destination: str, how: str = "auto") -> list[str]:
    """Publish one file; a destination that is a directory gets it under its own name.

    Returns what to tell the user, a line each. Raises KtlsError and OSError.
    """
    if os.path.isdir(source):
        raise KtlsError("is_a_directory", f"{source} is a directory; use -r to publish what is in it")
    path = os.path.abspath(destination)
    if os.path.isdir(path) or destination.endswith("/"):
        path = os.path.join(path, os.path.basename(source))
    with staging.locked(os.path.dirname(path)):
        staged = staging.stage(source, path, how)
        mode = stat.S_IMODE(os.stat(staged.temporary).st_mode)
        _commit(staged)
    held = f"sealed: {staged.seal}" if staged.seal else f"not sealed: {staged.why}"
    said = [f"published {path} ({held})"]
    if not mode & 0o004:
        said.append(f"note: its mode is {mode:04o}, so the server may not be allowed to read it; chmod the source")
    return said


def publish_tree(source: str, destination: str, how: str = "auto") -> list[str]:
    """Publish what is in the directory ``source`` to the directory ``destination``, which is made if missing.

    Every file is complete and durable beside its place before the first is renamed, so a full disk or an unreadable
    file leaves all as it was. Each file changes at once, the tree does not: for that, publish to a new directory and
    switch a link. Files of the destination that the source lacks stay. Names with a leading dot are left out.
    Returns what to tell the user. Raises KtlsError and OSError.
    """
    if not os.path.isdir(source):
        raise KtlsError("not_a_directory", f"{source} is not a directory; leave out -r to publish a file")
    root = os.path.abspath(destination)
    real = os.path.realpath(source)
    if os.path.commonpath((real, os.path.realpath(root))) == real:
        raise KtlsError("inside_itself", f"{destination} lies inside of {source}; publish to another place")
    left_out = 0
    made: list[str] = []
    staged: list[Staged] = []
    with contextlib.ExitStack() as stack:
        try:
            for directory, inner, names in os.walk(source, onerror=_fail):
                inner.sort()
                hidden = [name for name in (*inner, *names) if name.startswith(".")]
                left_out += len(hidden)
                links = [name for name in inner if os.path.islink(os.path.join(directory, name))]
                inner[:] = [name for name in inner if not name.startswith(".") and name not in links]
                there = os.path.normpath(os.path.join(root, os.path.relpath(directory, source)))
                _make(there, made)
                stack.enter_context(staging.locked(there))
                for name in sorted({*names, *links} - set(hidden)):
                    path, place = os.path.join(directory, name), os.path.join(there, name)
                    if os.path.islink(path):
                        staged.append(staging.stage_link(os.readlink(path), place))
                    else:
                        staged.append(staging.stage(path, place, how))
        except BaseException:
            for one in staged:
                one.discard()
            for path in reversed(made):
                with contextlib.suppress(OSError):
                    os.rmdir(path)
            raise
        _commit_all(staged)
    return _summary(root, staged, left_out)


def remove(path: str, recursive: bool = False) -> list[str]:
    """Remove a published file, or with ``recursive`` a directory. Raises KtlsError and OSError."""
    path = os.path.abspath(path)
    with staging.locked(os.path.dirname(path)):
        if os.path.isdir(path) and not os.path.islink(path):
            if not recursive:
                raise KtlsError("is_a_directory", f"{path} is a directory; use -r to remove it with all that is in it")
            staging.remove_tree(path)
        else:
            staging.remove_file(path)
    return [f"removed {path}"]


def _commit_all(staged: Sequence[Staged]) -> None:
    done = 0
    try:
        for one in staged:
            _commit(one)
            done += 1
    except BaseException as error:
        for one in staged[done + 1 :]:
            one.discard()
        if done and isinstance(error, KtlsError):
            rest = f"{done} of {len(staged)} files were published before; publish again when it is cured"
            raise KtlsError(error.code, f"{error.message}; {rest}") from error
        raise


def _commit(staged: Staged) -> None:
    try:
        staged.commit()
    except OSError as error:
        staged.discard()
        message = f"cannot put {staged.destination} in place ({error.strerror}); check the directory and run as root"
        raise KtlsError("publish_failed", message) from error
    except BaseException:
        staged.discard()
        raise


def _make(path: str, made: list[str]) -> None:
    """Make the directory and its parents; note those that are new. Raises OSError."""
    if os.path.isdir(path):
        return
    parent = os.path.dirname(path)
    if parent != path:
        _make(parent, made)
    os.mkdir(path, 0o755)
    os.chmod(path, 0o755)
    made.append(path)
    staging.sync_directory(parent)


def _fail(error: OSError) -> None:
    raise error


def _summary(root: str, staged: Sequence[Staged], left_out: int) -> list[str]:
    files = [one for one in staged if not isinstance(one, staging.StagedLink)]
    said = [f"published {len(files)} files and {len(staged) - len(files)} links below {root}"]
    for (name, why), count in sorted(Counter((one.seal, one.why) for one in files).items()):
        said.append(f"{count} files sealed: {name}" if name else f"{count} files not sealed: {why}")
    if left_out:
        said.append(f"{left_out} names with a leading dot were left out; they are never served")
    return said


if __name__ == "__main__":
    sys.exit(main())

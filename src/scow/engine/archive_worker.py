"""The process that reads and writes files of one container for one request, in a mount namespace of its own.

    python -m scow.engine.archive_worker '{"operation": ..., "root": ..., "path": ..., "mounts": [...]}'

It mounts the container's volumes over its root, where only it sees them, and answers with one line of JSON on standard
output: what it found, or an error. After a `get` or `export` the tar follows; `put` takes one from standard input. For
`trees` the request has no container: directories, each with a prefix, and files from elsewhere to be put beside them.
"""

import ctypes
import json
import os
import sys
import tarfile
from typing import Any

from scow.engine.rooted import Found, look, open_directory
from scow.engine.subpaths import SubpathFailed, bind, open_subpath
from scow.engine.tarring import Extractor, Refused, Writer, bind_targets
from scow.linux.mount import MS_PRIVATE, MS_REC, mount

_CLONE_NEWNS = 0x20000
_CLONE_NEWUSER = 0x10000000


def main(request: dict[str, Any]) -> int:
    """Do what is asked; the exit code is 0 if the answer, and all that follows it, was written."""
    try:
        operation = request["operation"]
        if operation == "trees":
            _answer({})
            _trees(request)
            return 0
        root = _enter(request["root"], request["mounts"], request.get("user_namespace"))
        path = request["path"]
        if operation == "put":
            _put(root, path, request)
            _answer({})
            return 0
        if operation == "export":
            _answer({})
            Writer(1).contents(root)
            return 0
        _answer(_described(look(root, path)))
        if operation == "get":
            Writer(1).tree(root, path)
        return 0
    except Refused as error:
        return _fail("refused", str(error))
    except tarfile.TarError as error:
        return _fail("archive", str(error))
    except FileNotFoundError as error:
        return _fail("missing", error.strerror or "")
    except OSError as error:
        return _fail("system", f"{error.filename or ''}: {(error.strerror or str(error)).lower()}".removeprefix(": "))


_answered = False


def _answer(message: dict[str, Any]) -> None:
    global _answered
    _answered = True
    os.write(1, json.dumps(message).encode() + b"\n")


def _fail(kind: str, text: str) -> int:
    if not _answered:
        _answer({"error": kind, "message": text})
        return 0
    print(text, file=sys.stderr)
    return 1


def _enter(root: str, mounts: list[dict[str, Any]], user_namespace: str | None) -> int:
    """Open the root, with volumes mounted in a namespace of our own.

    In the container's user namespace, if it has one, files have the owners that the container sees: we become its root.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if mounts:
        if libc.unshare(_CLONE_NEWNS) != 0:
            raise OSError(ctypes.get_errno(), "cannot make a mount namespace")
        mount(None, "/", None, MS_REC | MS_PRIVATE)
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    for each in mounts:
        # One after the other: a volume may lie inside another one.
        source = each["source"]
        if each.get("subpath"):
            try:
                source = f"/proc/self/fd/{open_subpath(source, each['subpath'])}"
            except SubpathFailed:
                continue  # the container could not be started either
        for target, _ in bind_targets(fd, [(each["destination"], os.path.isdir(source))]):
            # By descriptor: the container can't put another place under the path meanwhile. What is read-only for the
            # container stays writable here: the engine has refused what must not be written.
            bind(source, f"/proc/self/fd/{target}", user_namespace if each["shifted"] else None)
            os.close(target)
    if user_namespace is not None:
        namespace = os.open(user_namespace, os.O_RDONLY | os.O_CLOEXEC)
        if libc.setns(namespace, _CLONE_NEWUSER) != 0:
            raise OSError(ctypes.get_errno(), "cannot enter the container's user namespace")
        os.setgroups([])
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
    return fd


def _trees(request: dict[str, Any]) -> None:
    writer = Writer(1, request["mtime"])
    for each in request["trees"]:
        if each["root"]:
            root = os.open(each["root"], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            writer.below(root, each["prefix"])
            os.close(root)
        for name, source in each["files"].items():
            writer.file(source, "/".join(filter(None, (each["prefix"], name))))
    writer.end()


def _put(root: int, path: str, request: dict[str, Any]) -> None:
    try:
        os.close(open_directory(root, path))
    except NotADirectoryError:
        raise Refused("extraction point is not a directory") from None
    owner = tuple(request["owner"]) if request.get("owner") else None
    extractor = Extractor(root, path, keep_kinds=request["keep_kinds"], owner=owner)
    with open(0, "rb", buffering=1 << 20, closefd=False) as source:
        extractor.extract(source)
        while source.read(1 << 20):  # what follows the archive's end is the client's padding
            pass


def _described(found: Found) -> dict[str, Any]:
    return found._asdict()


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))

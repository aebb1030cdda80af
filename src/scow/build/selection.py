"""What COPY and ADD copy, and where to: sources and patterns matched in a tree. Dockerfile reference, COPY and ADD.

A source that is a directory means what is in it; a pattern means each thing that it matches. Wildcards are those of
Go's filepath.Match, within one name each.
"""

import contextlib
import hashlib
import posixpath
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

from scow.build.ignore import BadPattern, compile_name
from scow.build.suggest import did_you_mean, nearest
from scow.build.trees import ContextRefused, Tree, find, join, walk
from scow.errors import InvalidArgument
from scow.store.tree import Node

_WILD: Final = re.compile(rb"[*?\[\\]")

Keep = Callable[[bytes, Node], bool]
"""Whether a path of the tree is there for the build at all: what `.dockerignore` and --exclude say."""


class NothingFound(InvalidArgument):
    """A source that isn't there. The words are those of docker's classic builder."""

    def __init__(self, source: str, *, pattern: bool, suggestion: str | None = None) -> None:
        said = (
            "no source files were specified"
            if pattern
            else f"file not found in build context or excluded by .dockerignore: stat {source}: file does not exist"
        )
        super().__init__(said + did_you_mean(suggestion))
        where = f"stat {source.lstrip('/')}: file does not exist" + did_you_mean(suggestion)
        self.elsewhere = str(self) if pattern else where
        """The same of a source that is in no context."""


class Selected(NamedTuple):
    """One source as it was found. `top` is the name for the destination; empty means the contents of a directory."""

    path: bytes  # in the tree, without symlinks
    node: Node
    name: bytes  # what it is called below the destination
    parents: tuple[tuple[bytes, Node], ...] = ()  # with --parents: directories to be made first, by name


def everything(path: bytes, node: Node) -> bool:
    """Keep all."""
    return True


def select(
    tree: Tree, source: str, keep: Keep = everything, *, parents: bool = False, optional: bool = False
) -> list[Selected]:
    """What one source means. Raises NothingFound, and ContextRefused for loops of symlinks."""
    pivot, path = b"", source.encode("utf-8", "surrogateescape")
    if parents and b"/./" in b"/" + path:
        head, _, rest = (b"/" + path).partition(b"/./")
        pivot, path = _clean(head), _clean(head) + b"/" + rest if _clean(head) else rest
    cleaned = _clean(path)
    selected: list[Selected] = []
    if _WILD.search(cleaned):
        found = [each for each in _matches(tree, cleaned.split(b"/")) if not each[0] or keep(each[0], each[2])]
        if not found and not optional:
            raise NothingFound(source, pattern=True)
    else:
        direct = find(tree, cleaned)
        if direct is None or (direct[0] and not _kept(tree, direct[0], keep)):
            if optional:
                return []
            raise NothingFound(source, pattern=False, suggestion=_like(tree, cleaned, keep))
        # What a copy is called is what was asked for: a symlink's own name.
        return [_selected(tree, cleaned, *direct, pivot, parents)]
    for written, real, node in found:
        # A symlink that leads nowhere is copied as it is.
        selected.append(_selected(tree, written, *(find(tree, written) or (real, node)), pivot, parents))
    return selected


def _like(tree: Tree, path: bytes, keep: Keep) -> str | None:
    """What is in the same folder and has nearly this name."""
    above, _, name = path.rpartition(b"/")
    folder = find(tree, above)
    if folder is None or not folder[1].is_directory:
        return None
    names = (each for each, node in tree.children(*folder) if keep(join(folder[0], each), node))
    found = nearest(name.decode("utf-8", "replace"), [each.decode("utf-8", "replace") for each in names])
    return f"{above.decode('utf-8', 'replace')}/{found}".lstrip("/") if found else None


def _selected(tree: Tree, written: bytes, real: bytes, node: Node, pivot: bytes, parents: bool) -> Selected:
    if not parents:
        return Selected(real, node, b"" if node.is_directory else written.rpartition(b"/")[2])
    inner = written[len(pivot) :].lstrip(b"/") if pivot else written
    made: list[tuple[bytes, Node]] = []
    names = inner.split(b"/")
    for depth in range(1, len(names)):
        name = b"/".join(names[:depth])
        above = find(tree, join(pivot, name))
        if above is not None and above[1].is_directory:
            made.append((name, above[1]))
    if node.is_directory and inner:
        made.append((inner, node))
    return Selected(real, node, inner, tuple(made))


def _kept(tree: Tree, path: bytes, keep: Keep) -> bool:
    """Whether a path is kept, or is a directory in which something may be."""
    found = find(tree, path, follow=False)
    return found is not None and (keep(path, found[1]) or found[1].is_directory)


def _clean(path: bytes) -> bytes:
    """Relative to the root, simple, and never above it."""
    return posixpath.normpath(b"/" + path).lstrip(b"/") if path.strip(b"/") not in (b"", b".") else b""


def _matches(tree: Tree, parts: Sequence[bytes]) -> Iterator[tuple[bytes, bytes, Node]]:
    """Everything whose names match, by path as written and without symlinks above it, in bytewise order.

    `**` means any number of directories.
    """
    level: list[tuple[bytes, bytes, Node]] = [(b"", b"", tree.root)]
    for number, part in enumerate(parts):
        last = number == len(parts) - 1
        following: list[tuple[bytes, bytes, Node]] = []
        for written, real, node in level:
            if not node.is_directory:
                continue
            if part == b"**":
                following.append((written, real, node))
                following += [(path, path, each) for path, each in walk(tree, real, node) if last or each.is_directory]
                continue
            for name, each in _named(tree, real, node, part):
                path = join(written, name)
                if last or not each.is_symlink:
                    following.append((path, join(real, name), each))
                else:
                    with contextlib.suppress(ContextRefused):  # one that leads nowhere matches nothing
                        resolved = find(tree, join(real, name))
                        if resolved is not None:
                            following.append((path, *resolved))
        level = following
    yield from level


def _named(tree: Tree, path: bytes, node: Node, pattern: bytes) -> list[tuple[bytes, Node]]:
    if not _WILD.search(pattern):
        found = tree.child(path, node, pattern)
        return [] if found is None else [(pattern, found)]
    matcher = compile_match(pattern)
    return [(name, each) for name, each in tree.children(path, node) if matcher(name)]


def compile_match(pattern: bytes) -> Callable[[bytes], object]:
    """Go's filepath.Match for one name. Raises InvalidArgument for a pattern that makes no sense."""
    try:
        compiled = compile_name(pattern.decode("utf-8", "surrogateescape"))
    except BadPattern as error:
        raise InvalidArgument(str(error)) from error
    return lambda name: compiled.match(name.decode("utf-8", "surrogateescape"))


def digest(tree: Tree, selections: Sequence[Selected], keep: Keep, *, owners: bool) -> str:
    """Name what was selected by its content and the attributes that a copy keeps; times are none of them.

    With `owners` the files' own count, else everything will belong to somebody else anyway.
    """
    state = hashlib.sha256()
    for selected in selections:
        for name, node in selected.parents:
            state.update(b"P" + _described(name, node, owners))
        state.update(b"S" + _described(selected.name, selected.node, owners))
        _add_content(state, tree, selected.path, selected.node)
        if selected.node.is_directory:
            start = len(selected.path) + 1 if selected.path else 0
            for path, node in kept_below(tree, selected.path, selected.node, keep):
                state.update(_described(path[start:], node, owners))
                _add_content(state, tree, path, node)
    return state.hexdigest()


def kept_below(tree: Tree, path: bytes, node: Node, keep: Keep) -> Iterator[tuple[bytes, Node]]:
    """All below a directory that is kept, with the directories that lead there."""
    if keep is everything:
        yield from walk(tree, path, node)
        return
    waiting: list[tuple[bytes, Node]] = []
    for here, found in walk(tree, path, node):
        while waiting and not here.startswith(waiting[-1][0] + b"/"):
            waiting.pop()
        if keep(here, found):
            yield from waiting
            waiting.clear()
            yield here, found
        elif found.is_directory:
            waiting.append((here, found))


def _described(name: bytes, node: Node, owners: bool) -> bytes:
    payload = b""
    if node.is_symlink or stat.S_ISCHR(node.mode) or stat.S_ISBLK(node.mode):
        payload = node.payload if isinstance(node.payload, bytes) else str(node.payload).encode()
    owner = b"%d:%d" % (node.uid, node.gid) if owners else b""
    xattrs = b"".join(b"%s=%s;" % item for item in sorted((node.xattrs or {}).items()))
    fields = (name, b"%o" % node.mode, owner, payload, xattrs)
    return b"".join(b"%d:%s" % (len(field), field) for field in fields)


def _add_content(state: "hashlib._Hash", tree: Tree, path: bytes, node: Node) -> None:
    if stat.S_ISREG(node.mode):
        state.update(b"%d;" % node.size)
        for piece in tree.content(path, node):
            state.update(piece)

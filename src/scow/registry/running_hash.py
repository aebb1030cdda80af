"""Hashes whose state can be saved and taken up elsewhere: libcrypto's, by ctypes.

hashlib can't save a state. libcrypto's structures of SHA-256 and SHA-512 have been the same since they were written,
and their functions, which are deprecated, are still in every build of it that Python is linked to. What is saved is the
state in words of its own, not the structure. A test at the first use says whether all of this holds here; where it
doesn't, hashes are hashlib's and can't be saved.
"""

import ctypes
import hashlib
import struct
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from hashlib import _Hash

_VERSION: Final = 1


class _Sha256(ctypes.Structure):
    _fields_ = (
        ("h", ctypes.c_uint32 * 8),
        ("low", ctypes.c_uint32),
        ("high", ctypes.c_uint32),
        ("data", ctypes.c_uint8 * 64),
        ("num", ctypes.c_uint),
        ("md_len", ctypes.c_uint),
    )


class _Sha512(ctypes.Structure):
    _fields_ = (
        ("h", ctypes.c_uint64 * 8),
        ("low", ctypes.c_uint64),
        ("high", ctypes.c_uint64),
        ("data", ctypes.c_uint8 * 128),
        ("num", ctypes.c_uint),
        ("md_len", ctypes.c_uint),
    )


_KINDS: Final[dict[str, tuple[str, Any, str, int]]] = {
    "sha256": ("SHA256", _Sha256, ">B8III64sI", 32),
    "sha512": ("SHA512", _Sha512, ">B8QQQ128sI", 64),
}


@cache
def _library() -> ctypes.CDLL | None:
    try:
        import _hashlib  # its library is the one that Python has loaded already

        library = ctypes.CDLL(_hashlib.__file__)
        for name, kind, _, _ in _KINDS.values():
            for function in (f"{name}_Init", f"{name}_Update", f"{name}_Final"):
                getattr(library, function).restype = ctypes.c_int
            getattr(library, f"{name}_Init").argtypes = [ctypes.POINTER(kind)]
            getattr(library, f"{name}_Update").argtypes = [ctypes.POINTER(kind), ctypes.c_char_p, ctypes.c_size_t]
            getattr(library, f"{name}_Final").argtypes = [ctypes.c_char_p, ctypes.POINTER(kind)]
    except (ImportError, OSError, AttributeError):
        return None
    return library


class RunningHash:
    """The part of a hashlib object that is needed, and `save`."""

    def __init__(self, name: str) -> None:
        library = _library()
        assert library is not None
        prefix, kind, _, self.digest_size = _KINDS[name]
        self.name = name
        self._library = library
        self._prefix = prefix
        self._context = kind()
        getattr(library, f"{prefix}_Init")(ctypes.byref(self._context))

    def update(self, data: bytes) -> None:
        """Feed bytes; the interpreter's lock is released meanwhile."""
        getattr(self._library, f"{self._prefix}_Update")(ctypes.byref(self._context), data, len(data))

    def copy(self) -> "RunningHash":
        other = RunningHash(self.name)
        ctypes.pointer(other._context)[0] = self._context
        return other

    def hexdigest(self) -> str:
        out = ctypes.create_string_buffer(self.digest_size)
        getattr(self._library, f"{self._prefix}_Final")(out, ctypes.byref(self.copy()._context))
        return out.raw.hex()

    def save(self) -> bytes:
        """The state, for `restored`."""
        context, layout = self._context, _KINDS[self.name][2]
        return struct.pack(
            layout, _VERSION, *context.h, context.low, context.high, bytes(context.data), int(context.num)
        )


def restored(name: str, saved: bytes) -> RunningHash | None:
    """Go on from a saved state; None if this can't be done here."""
    return _restored(name, saved) if can_save() else None


def _restored(name: str, saved: bytes) -> RunningHash | None:
    layout = _KINDS[name][2]
    if len(saved) != struct.calcsize(layout):
        return None
    version, *words, low, high, data, count = struct.unpack(layout, saved)
    if version != _VERSION:
        return None
    found = RunningHash(name)
    context = found._context
    for place, word in enumerate(words):
        context.h[place] = word
    context.low, context.high, context.num = low, high, count
    ctypes.memmove(context.data, data, len(data))
    return found


def new_hash(name: str) -> "_Hash | RunningHash":
    """A hash that can be saved if that is possible here."""
    return RunningHash(name) if can_save() else hashlib.new(name)


@cache
def can_save() -> bool:
    """Whether states can be saved here: tried with cuts within and between blocks."""
    if _library() is None:
        return False
    return all(_agrees(name, sizes) for name in _KINDS for sizes in ((0, 1), (63, 1, 200), (128, 7), (1000, 130)))


def _agrees(name: str, sizes: Sequence[int]) -> bool:
    ours, theirs = RunningHash(name), hashlib.new(name)
    for number, size in enumerate(sizes):
        data = bytes([number + 1]) * size
        ours.update(data)
        theirs.update(data)
        again = _restored(name, ours.save())
        if again is None:
            return False
        ours = again
    return ours.hexdigest() == theirs.hexdigest()

"""Digests of content, diff IDs of layers, chain IDs of stacks. image-spec descriptor.md#digests, config.md."""

import hashlib
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NewType

from scow.errors import InvalidArgument

if TYPE_CHECKING:
    from hashlib import _Hash

Digest = NewType("Digest", str)
"""`algorithm:hex` of bytes as they are stored."""
DiffID = NewType("DiffID", Digest)
"""The digest of a layer's uncompressed tar."""
ChainID = NewType("ChainID", Digest)
"""The digest that names a stack of layers."""

HEX_LENGTH: Final = {"sha256": 64, "sha512": 128}
_HEX: Final = re.compile(r"[0-9a-f]+\Z")


class InvalidDigest(InvalidArgument):
    """The text is not a digest of a registered algorithm."""

    def __init__(self, text: str, why: str) -> None:
        super().__init__(f"invalid digest {text[:160]!r}: {why}")
        self.text = text


def parse_digest(text: str) -> Digest:
    """Check `text` against the registered algorithms. Raises InvalidDigest."""
    name, colon, digits = text.partition(":")
    if not colon:
        raise InvalidDigest(text, "expected algorithm:hex")
    length = HEX_LENGTH.get(name)
    if length is None:
        raise InvalidDigest(text, "unsupported algorithm, use sha256 or sha512")
    if len(digits) != length or not _HEX.match(digits):
        raise InvalidDigest(text, f"{name} needs {length} lower case hexadecimal digits")
    return Digest(text)


def is_digest(text: str) -> bool:
    """Tell whether `text` is a digest of a registered algorithm."""
    try:
        parse_digest(text)
    except InvalidDigest:
        return False
    return True


def algorithm(digest: str) -> str:
    """The part before the colon: `sha256`."""
    return digest.partition(":")[0]


def encoded(digest: str) -> str:
    """The part after the colon: hexadecimal digits."""
    return digest.partition(":")[2]


def short(digest: str) -> str:
    """The first 12 hexadecimal digits, as people read them."""
    return encoded(digest)[:12]


def new_hash(digest: str) -> "_Hash":
    """A fresh hash object of the algorithm of `digest`."""
    return hashlib.new(algorithm(digest))


def sha256(data: bytes | bytearray | memoryview) -> Digest:
    """The sha256 digest of `data`."""
    return Digest("sha256:" + hashlib.sha256(data).hexdigest())


def digest_of(data: bytes, like: str) -> Digest:
    """The digest of `data` in the algorithm of `like`."""
    state = new_hash(like)
    state.update(data)
    return Digest(f"{algorithm(like)}:{state.hexdigest()}")


def chain_id(diff_ids: Sequence[DiffID]) -> ChainID:
    """Name the file system that stacking `diff_ids`, base first, gives. image-spec config.md#layer-chainid."""
    chain = ChainID(diff_ids[0])
    for diff_id in diff_ids[1:]:
        chain = ChainID(sha256(f"{chain} {diff_id}".encode()))
    return chain

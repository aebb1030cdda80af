"""Names that come in from the wire: repositories, tags, digests, upload IDs."""

import re
from functools import lru_cache
from typing import Final

from scow.oci.digest import Digest, InvalidDigest, parse_digest
from scow.registry.errors import DigestInvalid, NameInvalid, TagInvalid, UploadUnknown

NAME_LIMIT: Final = 255
"""Longest repository name, in characters: clients refuse longer ones, their own host name included."""

_COMPONENT: Final = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY: Final = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*\Z")
_TAG: Final = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}\Z")
_UPLOAD_ID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\Z")


def is_repository(text: str) -> bool:
    """Whether it can be a repository's name."""
    # The length comes first: it bounds what the pattern has to try.
    return len(text) <= NAME_LIMIT and _REPOSITORY.match(text) is not None


@lru_cache(maxsize=4096)
def parse_repository(text: str) -> str:
    """Check a repository's name. Raises NameInvalid."""
    if not is_repository(text):
        raise NameInvalid(text)
    return text


def is_tag(text: str) -> bool:
    """Whether it can be a tag."""
    return _TAG.match(text) is not None


def parse_tag(text: str) -> str:
    """Check a tag. Raises TagInvalid."""
    if not is_tag(text):
        raise TagInvalid(text)
    return text


@lru_cache(maxsize=4096)
def parse_blob_digest(text: str) -> Digest:
    """Check a digest. Raises DigestInvalid."""
    try:
        return parse_digest(text)
    except InvalidDigest as error:
        raise DigestInvalid(str(error), {"digest": text[:300]}) from error


def parse_reference(text: str) -> tuple[str, bool]:
    """Check what follows `/manifests/`; True with it if it is a digest. Raises TagInvalid and DigestInvalid."""
    if ":" in text:
        return parse_blob_digest(text), True
    return parse_tag(text), False


def parse_upload_id(text: str) -> str:
    """Check an upload's ID, which names a file. Raises UploadUnknown: an ID that we did not give is unknown."""
    if not _UPLOAD_ID.match(text):
        raise UploadUnknown(text)
    return text

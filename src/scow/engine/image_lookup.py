"""From what a user typed to an image: by ID, by reference, by ID prefix, in docker's order."""

import re
from functools import lru_cache
from typing import Final

from scow.errors import InvalidArgument, NotFound
from scow.oci.digest import HEX_LENGTH, Digest
from scow.oci.reference import InvalidReference, Reference, parse_reference
from scow.store.images import Image, Images

_HEX: Final = re.compile(r"(?:sha256:)?([0-9a-f]{1,64})\Z")


class NoSuchImage(NotFound):
    """No local image fits. docker-py tells it from other 404s by its text."""

    def __init__(self, ref: str) -> None:
        super().__init__(f"No such image: {ref}")
        self.ref = ref


class AmbiguousImage(InvalidArgument):
    """Several images' IDs begin with what was typed."""

    def __init__(self, ref: str) -> None:
        super().__init__(f"ambiguous image ID prefix: {ref}")
        self.ref = ref


def find_image(images: Images, ref: str) -> Image | None:
    """The image that `ref` means, if there is one. Raises AmbiguousImage."""
    hexadecimal = _HEX.match(ref)
    if hexadecimal and len(hexadecimal[1]) == 64:
        found = images.find(Digest(f"sha256:{hexadecimal[1]}"))
        if found is not None:
            return found
    reference = _parse(ref)
    if reference is not None:
        found = find_reference(images, reference)
        if found is not None:
            return found
    if hexadecimal:
        matches = images.by_prefix(hexadecimal[1])
        if len(matches) > 1:
            raise AmbiguousImage(ref)
        return matches[0] if matches else None
    return None


def find_reference(images: Images, reference: Reference) -> Image | None:
    """The image that has this name: by digest if it has one, else by tag."""
    named = reference.with_digest(reference.digest) if reference.digest else reference.with_default_tag()
    id = images.resolve(str(named))
    return images.find(id) if id is not None else None


def get_image(images: Images, ref: str) -> Image:
    """Like find_image. Raises NoSuchImage, whose text carries the tag as docker's does, and InvalidReference."""
    found = find_image(images, ref)
    if found is None:
        hexadecimal = _HEX.match(ref)
        if hexadecimal and len(hexadecimal[1]) == 64:
            raise NoSuchImage(f"sha256:{hexadecimal[1]}")  # no reference may look like this
        raise NoSuchImage(parse_reference(ref).with_default_tag().familiar)
    return found


@lru_cache(maxsize=1024)
def _parse(ref: str) -> Reference | None:
    try:
        return parse_reference(ref)
    except InvalidReference:
        return None


def tag_reference(repo: str, tag: str) -> Reference | None:
    """The tag that a new image is to have; None if none was asked for. Raises InvalidReference, InvalidArgument."""
    if not repo:
        return None
    reference = parse_reference(repo)
    if reference.digest is not None:
        raise InvalidArgument("refusing to create a tag with a digest reference")
    if reference.familiar_name in HEX_LENGTH:
        raise InvalidArgument("refusing to create an ambiguous tag using digest algorithm as name")
    return (reference.with_tag(tag) if tag else reference).with_default_tag()

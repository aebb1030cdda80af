"""What a request wants to be so before it is carried out: If-Match and If-None-Match. RFC 9110 section 13.

Readers ask with them whether a copy of theirs is still good. Writers see to it that they overwrite nothing that
somebody else has pushed meanwhile: distribution-spec spec.md#pushing-manifests-with-subject.
"""

from typing import TYPE_CHECKING, Final

import msgspec

from scow.registry.errors import PreconditionFailed

if TYPE_CHECKING:
    from scow.registry.calls import Call

_ANY: Final = "*"


class Conditions(msgspec.Struct, frozen=True):
    """Digests that something must have, or must not have; `*` is any, None says nothing."""

    match: frozenset[str] | None = None
    none_match: frozenset[str] | None = None

    def want(self, current: str | None) -> bool:
        """Whether If-Match holds for what is there; None is nothing."""
        return self.match is None or (current is not None and not self.match.isdisjoint((current, _ANY)))

    def rule_out(self, current: str | None) -> bool:
        """Whether it is what If-None-Match excludes."""
        return self.none_match is not None and current is not None and not self.none_match.isdisjoint((current, _ANY))

    def check(self, current: str | None) -> None:
        """Raise PreconditionFailed unless what is there may be changed; None is nothing."""
        if not self.want(current) or self.rule_out(current):
            raise PreconditionFailed(current)


NO_CONDITIONS: Final = Conditions()


def conditions_of(call: "Call") -> Conditions:
    """What a request's headers say."""
    match, none_match = _field(call, "If-Match"), _field(call, "If-None-Match")
    if match is None and none_match is None:
        return NO_CONDITIONS
    # A weak tag never matches where it matters that every byte is the same, and does where it is about a copy.
    return Conditions(
        None if match is None else frozenset(_plain(tag) for tag in match if not tag.startswith("W/")),
        None if none_match is None else frozenset(_plain(tag.removeprefix("W/")) for tag in none_match),
    )


def is_unmodified(call: "Call", digest: str) -> bool:
    """Whether a reader has this content already. Raises PreconditionFailed if it wants other content."""
    conditions = conditions_of(call)
    if not conditions.want(digest):
        raise PreconditionFailed(digest)
    return conditions.rule_out(digest)


def _field(call: "Call", name: str) -> list[str] | None:
    """The tags of a header, which may come in several lines; None without it."""
    lines = call.headers.getall(name, None)
    return None if lines is None else [tag.strip() for line in lines for tag in line.split(",")]


def _plain(tag: str) -> str:
    # In quotation marks a star is a tag like others, which nothing here has.
    return tag if tag == '"*"' else tag.strip('"')

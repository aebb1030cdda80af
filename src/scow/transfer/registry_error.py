"""What a registry, or the way to it, answers when it doesn't answer well.

The words are those of docker's daemon (and through it of Go's HTTP library): people search for them, tools match on
them. Errors say whether trying again can help (`transient`) and when (`retry_after_s`).
"""

import email.utils
import time
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any, Final

import msgspec

from scow.errors import Forbidden, InvalidArgument, NotFound, NotSupported, ScowError, Unauthorized, Unavailable
from scow.transfer.challenge import Challenge

DEFAULT_MESSAGES: Final = {
    "UNKNOWN": "unknown error",
    "UNSUPPORTED": "The operation is unsupported.",
    "UNAUTHORIZED": "authentication required",
    "DENIED": "requested access to the resource is denied",
    "UNAVAILABLE": "service unavailable",
    "TOOMANYREQUESTS": "too many requests",
    "DIGEST_INVALID": "provided digest did not match uploaded content",
    "SIZE_INVALID": "provided length did not match content length",
    "NAME_INVALID": "invalid repository name",
    "TAG_INVALID": "manifest tag did not match URI",
    "NAME_UNKNOWN": "repository name not known to registry",
    "MANIFEST_UNKNOWN": "manifest unknown",
    "MANIFEST_INVALID": "manifest invalid",
    "MANIFEST_UNVERIFIED": "manifest failed signature verification",
    "MANIFEST_BLOB_UNKNOWN": "blob unknown to registry",
    "BLOB_UNKNOWN": "blob unknown to registry",
    "BLOB_UPLOAD_UNKNOWN": "blob upload unknown to registry",
    "BLOB_UPLOAD_INVALID": "blob upload invalid",
}
"""The codes of the distribution specification, with the words that docker has for those that come without."""

LASTING: Final = frozenset({"UNAUTHORIZED", "DENIED", "UNSUPPORTED", "TOOMANYREQUESTS", "NAME_UNKNOWN"})
"""Codes after which trying again is pointless, as docker sees it."""
_BUSY: Final = frozenset({408, 429, 500, 502, 503, 504})


class RegistryFailure(ScowError):
    """Base of all errors of talking to a registry."""

    transient: bool = False
    retry_after_s: float | None = None


class RegistryUnreachable(RegistryFailure, Unavailable):
    """There was no HTTP answer, or it broke off. `reason` is in the words of Go's net package."""

    def __init__(self, method: str, url: str, reason: str, *, transient: bool = True) -> None:
        super().__init__(f'{method.capitalize()} "{url}": {reason}')
        self.url = url
        self.reason = reason
        self.transient = transient


class AuthenticationFailed(RegistryFailure, Unauthorized):
    """The registry asks who we are, and there is no answer to give, or the token service took none."""

    def __init__(self, method: str, url: str, reason: str) -> None:
        super().__init__(f'{method.capitalize()} "{url}": {reason}')
        self.url = url
        self.reason = reason


class BadAnswer(RegistryFailure, Unavailable):
    """The registry's answer breaks the protocol."""

    def __init__(self, url: str, why: str) -> None:
        super().__init__(f"unexpected answer from {url}: {why}")
        self.url = url
        self.why = why


class ErrorItem(msgspec.Struct, frozen=True):
    """One entry of a registry's error document. distribution-spec spec.md#error-codes."""

    code: str = "UNKNOWN"
    message: str = ""
    detail: Any = None

    def __str__(self) -> str:
        code = self.code if self.code in DEFAULT_MESSAGES else "UNKNOWN"
        return f"{code.lower().replace('_', ' ')}: {self.message or DEFAULT_MESSAGES[code]}"


class Refused(RegistryFailure):
    """The registry answered with a status that tells of an error."""

    def __init__(self, status: int, items: tuple[ErrorItem, ...], text: str, retry_after_s: float | None) -> None:
        super().__init__(text)
        self.status = status
        self.items = items
        self.retry_after_s = retry_after_s
        self.transient = status in _BUSY and (retry_after_s is not None or self.code not in LASTING)

    @property
    def code(self) -> str:
        """The first error's code, or UNKNOWN."""
        return self.items[0].code if self.items else "UNKNOWN"


class RefusedInvalid(Refused, InvalidArgument): ...


class RefusedUnauthorized(Refused, Unauthorized): ...


class RefusedForbidden(Refused, Forbidden): ...


class RefusedNotFound(Refused, NotFound): ...


class RefusedUnsupported(Refused, NotSupported): ...


class RefusedUnavailable(Refused, Unavailable): ...


_KINDS: Final[dict[int, type[Refused]]] = {
    401: RefusedUnauthorized,
    403: RefusedForbidden,
    404: RefusedNotFound,
    405: RefusedUnsupported,
    429: RefusedUnavailable,
    501: RefusedUnsupported,
}
_CODES: Final[dict[str, type[Refused]]] = {
    "UNAUTHORIZED": RefusedUnauthorized,
    "DENIED": RefusedForbidden,
    "UNSUPPORTED": RefusedUnsupported,
    "TOOMANYREQUESTS": RefusedUnavailable,
}


class _Document(msgspec.Struct, frozen=True):
    errors: list[ErrorItem] | None = None
    details: str = ""  # Docker Hub's rate limiter and token services of old


def refusal(
    status: int, headers: Mapping[str, str], body: bytes, challenges: Iterable[Challenge], *, method: str = "GET"
) -> Refused:
    """Make the error that an answer of `status` >= 400 (or an unexpected one) means."""
    retry_after_s = _retry_after(headers.get("Retry-After", ""))
    items: tuple[ErrorItem, ...] = ()
    text = f"received unexpected HTTP status: {status} {_phrase(status)}"
    if 400 <= status < 500:
        items, text = _read_items(status, headers.get("Content-Type", ""), body, has_body=method != "HEAD")
    for challenge in challenges:
        # RFC 6750 section 3.1: the reason of a refused token stands in the challenge, and weighs more than the body.
        code = {"invalid_token": "UNAUTHORIZED", "insufficient_scope": "DENIED"}.get(challenge.get("error"))
        if challenge.scheme == "bearer" and code and 400 <= status < 500:
            first = ErrorItem(code, challenge.get("error_description"))
            items, text = (first, *items), str(first)
            break
    kind = (_CODES.get(items[0].code) if items else None) or _KINDS.get(status)
    if kind is None:
        kind = RefusedUnavailable if status >= 500 or status < 400 else RefusedInvalid
    return kind(status, items, text, retry_after_s)


def _read_items(status: int, content_type: str, body: bytes, *, has_body: bool) -> tuple[tuple[ErrorItem, ...], str]:
    own = {401: "UNAUTHORIZED", 403: "DENIED", 429: "TOOMANYREQUESTS"}.get(status, "UNKNOWN")
    try:
        document = msgspec.json.decode(body, type=_Document)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        excerpt = body[:256].decode("utf-8", "replace").strip()
        if own != "UNKNOWN" or not excerpt:
            is_text = content_type.startswith("text/plain") and excerpt
            item = ErrorItem(own, excerpt if is_text else "" if own != "UNKNOWN" else _phrase(status).lower())
            if not has_body and status == 404:
                item = ErrorItem("UNKNOWN", "not found")
            return (item,), str(item)
        return (), f"error parsing HTTP {status} response body: not an error document: {excerpt!r}"
    if document.details:
        item = ErrorItem(own, document.details)
        return (item,), str(item)
    items = tuple(document.errors or ())
    if not items:
        if own != "UNKNOWN":
            item = ErrorItem(own)
            return (item,), str(item)
        return (), f"error parsing HTTP {status} response body: no error details found in HTTP response body"
    if len(items) == 1:
        return items, str(items[0])
    return items, "errors:\n" + "".join(f"{item}\n" for item in items)


def _retry_after(value: str) -> float | None:
    """Seconds from now, of a number or an HTTP date; None if the header says nothing usable."""
    value = value.strip()
    if not value:
        return None
    if value.isdigit():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "status"

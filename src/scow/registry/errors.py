"""What the registry refuses, each with its code of distribution-spec spec.md#error-codes."""

import math
from http import HTTPStatus
from typing import ClassVar

from scow.errors import (
    Conflict,
    Forbidden,
    InvalidArgument,
    NotFound,
    NotSupported,
    ScowError,
    Unauthorized,
    Unavailable,
)


class Refusal(ScowError):
    """Base of what is answered with an error document: one or several entries, a status and headers."""

    code: ClassVar[str]
    status: ClassVar[HTTPStatus]

    def __init__(
        self, message: str, detail: "str | dict[str, object] | None" = None, headers: tuple[tuple[str, str], ...] = ()
    ) -> None:
        super().__init__(message)
        self.detail = detail
        self.headers = headers

    def entries(self) -> list[dict[str, object]]:
        """The errors of the document, as the specification lays them out."""
        return [{"code": self.code, "message": str(self), "detail": self.detail}]


class NameInvalid(Refusal, InvalidArgument):
    """The repository's name does not match the grammar."""

    code, status = "NAME_INVALID", HTTPStatus.BAD_REQUEST

    def __init__(self, name: str) -> None:
        super().__init__("invalid repository name", {"name": name[:300]})


class TagInvalid(Refusal, InvalidArgument):
    """The tag does not match the grammar."""

    code, status = "TAG_INVALID", HTTPStatus.BAD_REQUEST

    def __init__(self, tag: str) -> None:
        super().__init__("invalid tag", {"tag": tag[:300]})


class DigestInvalid(Refusal, InvalidArgument):
    """The digest is malformed, of an unsupported algorithm, or not that of the content."""

    code, status = "DIGEST_INVALID", HTTPStatus.BAD_REQUEST


class SizeInvalid(Refusal, InvalidArgument):
    """Fewer or more bytes came than were announced."""

    code, status = "SIZE_INVALID", HTTPStatus.BAD_REQUEST


class BlobUploadInvalid(Refusal, InvalidArgument):
    """The upload cannot go on in this way."""

    code, status = "BLOB_UPLOAD_INVALID", HTTPStatus.BAD_REQUEST


class RangeRefused(BlobUploadInvalid):
    """A chunk does not begin where the last one ended, or a range lies outside of the blob."""

    status = HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE


class UploadBusy(Refusal, Conflict):
    """Another request is writing to the same upload."""

    code, status = "BLOB_UPLOAD_INVALID", HTTPStatus.CONFLICT

    def __init__(self, upload_id: str, patience_s: float = 2.0) -> None:
        """`patience_s` is how long it is worth while to try again: often it is the client's own request, just cut."""
        super().__init__("another request is writing to this upload", {"upload": upload_id})
        self.patience_s = patience_s


class UploadUnknown(Refusal, NotFound):
    """There is no such upload in this repository: never begun, ended, cancelled or expired."""

    code, status = "BLOB_UPLOAD_UNKNOWN", HTTPStatus.NOT_FOUND

    def __init__(self, upload_id: str) -> None:
        super().__init__("blob upload unknown to registry", {"upload": upload_id[:100]})


class BlobUnknown(Refusal, NotFound):
    """The repository does not have the blob."""

    code, status = "BLOB_UNKNOWN", HTTPStatus.NOT_FOUND

    def __init__(self, digest: str) -> None:
        super().__init__("blob unknown to registry", {"digest": digest})


class ManifestUnknown(Refusal, NotFound):
    """The repository does not have the manifest or tag."""

    code, status = "MANIFEST_UNKNOWN", HTTPStatus.NOT_FOUND

    def __init__(self, repository: str, reference: str) -> None:
        super().__init__("manifest unknown", {"name": repository, "reference": reference})


class NameUnknown(Refusal, NotFound):
    """There is no such repository."""

    code, status = "NAME_UNKNOWN", HTTPStatus.NOT_FOUND

    def __init__(self, name: str) -> None:
        super().__init__("repository name not known to registry", {"name": name})


class PageUnknown(Refusal, NotFound):
    """The path belongs to no endpoint of the API."""

    code, status = "UNSUPPORTED", HTTPStatus.NOT_FOUND

    def __init__(self, path: str) -> None:
        super().__init__("no such endpoint", {"path": path[:300]})


class ManifestRefused(Refusal, InvalidArgument):
    """The manifest is malformed or not what it was announced as."""

    code, status = "MANIFEST_INVALID", HTTPStatus.BAD_REQUEST

    def __init__(self, why: str, detail: "str | dict[str, object] | None" = None) -> None:
        # In the message, for clients show nothing else.
        super().__init__(f"manifest invalid: {why}", detail or why)


class ManifestTooLarge(ManifestRefused):
    """The manifest is larger than the registry takes."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE

    def __init__(self, limit: int) -> None:
        super().__init__(f"it is larger than {limit} bytes", {"limit": limit})


class ReferencesUnknown(Refusal, InvalidArgument):
    """The manifest refers to content that the repository does not have; one entry for each."""

    code, status = "MANIFEST_BLOB_UNKNOWN", HTTPStatus.BAD_REQUEST

    def __init__(self, digests: list[str]) -> None:
        super().__init__("manifest references a manifest or blob unknown to registry")
        self.digests = digests

    def entries(self) -> list[dict[str, object]]:
        return [
            {"code": self.code, "message": f"{self}: {digest}", "detail": {"digest": digest}} for digest in self.digests
        ]


class QueryInvalid(Refusal, InvalidArgument):
    """A query parameter is not what it has to be."""

    code, status = "UNSUPPORTED", HTTPStatus.BAD_REQUEST


class MethodUnsupported(Refusal, NotSupported):
    """The endpoint exists and does not take this method."""

    code, status = "UNSUPPORTED", HTTPStatus.METHOD_NOT_ALLOWED

    def __init__(self, method: str, allowed: tuple[str, ...]) -> None:
        super().__init__(f"{method} is not supported here", headers=(("Allow", ", ".join(allowed)),))


class RequestMalformed(Refusal, InvalidArgument):
    """It is no HTTP, or could be read in two ways."""

    code, status = "UNSUPPORTED", HTTPStatus.BAD_REQUEST


class HeadTooLarge(RequestMalformed):
    """A line of the request's head is longer than it may be, or there are too many."""

    status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE


class CodingUnsupported(Refusal, NotSupported):
    """The body is compressed for its transfer. RFC 9112 section 6.1."""

    code, status = "UNSUPPORTED", HTTPStatus.NOT_IMPLEMENTED

    def __init__(self, coding: str) -> None:
        super().__init__("the only transfer coding that is supported is chunked", {"coding": coding[:100]})


class AuthenticationRequired(Refusal, Unauthorized):
    """Credentials are missing or wrong."""

    code, status = "UNAUTHORIZED", HTTPStatus.UNAUTHORIZED

    def __init__(self, challenge: str, message: str = "authentication required") -> None:
        super().__init__(message, headers=(("WWW-Authenticate", challenge),))


class LoginRefused(Refusal, Forbidden):
    """An issuer has not said who it is, or said it in a way that does not do."""

    code, status = "DENIED", HTTPStatus.FORBIDDEN


class IssuerUnreachable(Refusal, Unavailable):
    """Somebody whose word is needed does not answer."""

    code, status = "UNSUPPORTED", HTTPStatus.SERVICE_UNAVAILABLE

    def __init__(self, url: str, why: str) -> None:
        super().__init__(f"cannot ask {url}: {why}")


class AccessDenied(Refusal, Forbidden):
    """The caller is known, and may not do this."""

    code, status = "DENIED", HTTPStatus.FORBIDDEN


class TagImmutable(Refusal, Forbidden):
    """A policy says that the tag never moves nor goes."""

    code, status = "DENIED", HTTPStatus.FORBIDDEN

    def __init__(self, tag: str) -> None:
        super().__init__(f"tag {tag} is immutable", {"tag": tag})


class PreconditionFailed(Refusal, Conflict):
    """The request was for something else than is there: If-Match or If-None-Match says so. `current` is what is there.

    The specification has no code for it; this one keeps clients from trying the same again.
    """

    code, status = "DENIED", HTTPStatus.PRECONDITION_FAILED

    def __init__(self, current: str | None) -> None:
        what = f"it is at {current}" if current is not None else "it does not exist"
        super().__init__(f"the precondition failed: {what}", {"digest": current})


class QuotaExceeded(Refusal, Forbidden):
    """The blob would take more room than the repository or its namespace has."""

    code, status = "DENIED", HTTPStatus.FORBIDDEN

    def __init__(self, repository: str) -> None:
        super().__init__(f"the quota of {repository} is used up", {"name": repository})


class BlobTooLarge(Refusal, InvalidArgument):
    """The blob is larger than the registry takes."""

    code, status = "SIZE_INVALID", HTTPStatus.REQUEST_ENTITY_TOO_LARGE

    def __init__(self, limit: int) -> None:
        super().__init__(f"a blob may have {limit} bytes here", {"limit": limit})


class ReadOnly(Refusal, NotSupported):
    """The registry takes nothing at present. The specification asks for 400 or 405 where deletion is disabled."""

    code, status = "UNSUPPORTED", HTTPStatus.METHOD_NOT_ALLOWED

    def __init__(self) -> None:
        super().__init__("the registry is read-only at present", headers=(("Allow", "GET, HEAD"),))


class TooManyRequests(Refusal, Unavailable):
    """The client has to slow down."""

    code, status = "TOOMANYREQUESTS", HTTPStatus.TOO_MANY_REQUESTS

    def __init__(self, wait_s: float, message: str = "too many requests") -> None:
        self.wait_s = wait_s
        after = str(max(math.ceil(wait_s), 1))
        super().__init__(f"{message}, try again after {after} s", headers=(("Retry-After", after),))


class UpstreamDenied(AccessDenied):
    """The registry behind a proxy does not let us in, or says so of what it does not have."""


class UpstreamBusy(TooManyRequests):
    """The registry behind a proxy wants us to slow down, and there is no copy here."""

    def __init__(self, upstream: str, wait_s: float) -> None:
        super().__init__(wait_s, f"{upstream} refuses more requests at present, and there is no copy here")


class UpstreamUnavailable(Refusal, Unavailable):
    """The registry behind a proxy can't be asked, and there is no copy here."""

    code, status = "UNAVAILABLE", HTTPStatus.SERVICE_UNAVAILABLE


class PushRefused(Refusal, NotSupported):
    """Somebody pushes to a namespace that belongs to another registry."""

    code, status = "UNSUPPORTED", HTTPStatus.METHOD_NOT_ALLOWED

    def __init__(self, repository: str, upstream: str) -> None:
        super().__init__(
            f"{repository} is a copy of a repository of {upstream} and takes no pushes: push there",
            {"name": repository},
            (("Allow", "GET, HEAD, DELETE"),),
        )


class StorageFull(Refusal, Unavailable):
    """The disk has no room; what is stored goes on being served."""

    code, status = "UNSUPPORTED", HTTPStatus.INSUFFICIENT_STORAGE

    def __init__(self, why: str = "") -> None:
        """`why` is for the log, not for clients."""
        super().__init__("no space left in the registry's storage")
        self.why = why


class StorageUnavailable(Refusal, Unavailable):
    """The database or the object store does not answer; `why` is for the log, not for clients."""

    code, status = "UNAVAILABLE", HTTPStatus.SERVICE_UNAVAILABLE

    def __init__(self, why: str) -> None:
        super().__init__("the registry's storage cannot be reached", headers=(("Retry-After", "1"),))
        self.why = why


class TimedOut(Refusal, Unavailable):
    """The client stopped sending."""

    code, status = "BLOB_UPLOAD_INVALID", HTTPStatus.REQUEST_TIMEOUT


class BlobDamaged(Refusal):
    """The bytes of a blob are gone, or not what they were."""

    code, status = "UNKNOWN", HTTPStatus.INTERNAL_SERVER_ERROR

    def __init__(self, digest: str) -> None:
        super().__init__(
            f"the content of blob {digest} is missing or damaged here: push it again",
            {"digest": digest},
        )


class Draining(Refusal, Unavailable):
    """The registry is shutting down."""

    code, status = "UNAVAILABLE", HTTPStatus.SERVICE_UNAVAILABLE

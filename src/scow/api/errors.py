"""Where kinds of errors meet HTTP statuses, and the body that carries an error's sentence."""

import os
from http import HTTPStatus
from typing import Final

import msgspec
from aiohttp import web

from scow.errors import (
    Conflict,
    Forbidden,
    Internal,
    InvalidArgument,
    NotFound,
    NotSupported,
    ScowError,
    Unauthorized,
    Unavailable,
)

STATUS: Final[dict[type, HTTPStatus]] = {
    InvalidArgument: HTTPStatus.BAD_REQUEST,
    Unauthorized: HTTPStatus.UNAUTHORIZED,
    Forbidden: HTTPStatus.FORBIDDEN,
    NotFound: HTTPStatus.NOT_FOUND,
    Conflict: HTTPStatus.CONFLICT,
    Internal: HTTPStatus.INTERNAL_SERVER_ERROR,
    NotSupported: HTTPStatus.NOT_IMPLEMENTED,
    Unavailable: HTTPStatus.SERVICE_UNAVAILABLE,
}


class PageNotFound(NotFound):
    """No endpoint answers this method and path."""

    def __init__(self) -> None:
        super().__init__("page not found")


class RequestTooLarge(ScowError):
    """A body is larger than any real request."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"request body is larger than {limit} bytes")


STATUS[RequestTooLarge] = HTTPStatus.REQUEST_ENTITY_TOO_LARGE


class Prefixed(ScowError):
    """An error told with what was being done in front, keeping its kind."""

    def __init__(self, doing: str, error: ScowError) -> None:
        super().__init__(f"{doing}: {error}")
        self.error = error


def status_of(error: BaseException) -> HTTPStatus:
    """Tell the status that answers an error of this kind."""
    if isinstance(error, Prefixed):
        return status_of(error.error)
    return next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), HTTPStatus.INTERNAL_SERVER_ERROR)


def sentence(error: BaseException) -> str:
    """What a client is told. The kernel's words come as dockerd writes them, `no space left on device` for instance."""
    if isinstance(error, OSError) and error.strerror:
        where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
        return f"{where}{error.strerror[0].lower()}{error.strerror[1:]}"
    return str(error) or type(error).__name__


def error_body(error: BaseException) -> bytes:
    """Write the JSON that clients take the sentence from."""
    return msgspec.json.encode({"message": sentence(error)}) + b"\n"


def error_response(error: BaseException) -> web.Response:
    """Answer with an error. The content type has no charset: with one, docker prints the JSON instead of the text."""
    return web.Response(status=status_of(error), body=error_body(error), headers={"Content-Type": "application/json"})

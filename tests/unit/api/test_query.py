"""Query values are read as docker's daemon reads them."""

import errno

import pytest

from scow.api.errors import Prefixed, sentence, status_of
from scow.api.mux import frame, raw
from scow.api.query import BadNumber, boolean, integer, optional_integer, timestamp
from scow.api.routes import split_version
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


@pytest.mark.parametrize("text", ["", "0", "no", "false", "none", "No", "FALSE", "False", "None", " false "])
def test_these_are_false(text: str) -> None:
    assert boolean({"x": text}, "x", default=True) is False


@pytest.mark.parametrize("text", ["1", "true", "True", "yes", "on", "2", "anything"])
def test_all_else_is_true(text: str) -> None:
    assert boolean({"x": text}, "x") is True


@pytest.mark.parametrize("default", [False, True])
def test_what_is_absent_has_its_default(default: bool) -> None:
    assert boolean({}, "x", default) is default


@pytest.mark.parametrize(("text", "value"), [("5", 5), ("-1", -1), ("+3", 3), ("", None)])
def test_whole_numbers(text: str, value: int | None) -> None:
    assert optional_integer({"x": text}, "x") == value


@pytest.mark.parametrize("text", ["x", "1.5", "1e3", "0x10", "٣", "9" * 30])
def test_other_numbers_are_refused(text: str) -> None:
    with pytest.raises(BadNumber):
        optional_integer({"x": text}, "x")


def test_a_number_that_has_to_be_there() -> None:
    with pytest.raises(BadNumber):
        integer({}, "h")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("0", None),
        ("17", 17 * 10**9),
        ("17.5", 17_500_000_000),
        ("1700000000.123456789", 1_700_000_000_123_456_789),
        ("-5", -5 * 10**9),
    ],
)
def test_times_are_seconds_and_nanoseconds(text: str, value: int | None) -> None:
    assert timestamp({"since": text}, "since") == value


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        ("/v1.41/info", ("1.41", "/info")),
        ("/info", (None, "/info")),
        ("/v1.41/images/a%2Fb/json?x=/y", ("1.41", "/images/a/b/json")),
        ("/vx/info", (None, "/vx/info")),
        ("/volumes", (None, "/volumes")),
    ],
)
def test_a_path_begins_with_its_version(path: str, parts: tuple[str | None, str]) -> None:
    assert split_version(path) == parts


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (InvalidArgument, 400),
        (Unauthorized, 401),
        (Forbidden, 403),
        (NotFound, 404),
        (Conflict, 409),
        (Internal, 500),
        (NotSupported, 501),
        (Unavailable, 503),
        (ScowError, 500),
        (RuntimeError, 500),
    ],
)
def test_every_kind_of_error_has_its_status(kind: type[Exception], status: int) -> None:
    assert status_of(type("Derived", (kind,), {})("x")) == status


def test_a_prefix_keeps_the_kind() -> None:
    error = Prefixed("cannot kill container: x", Conflict("it is not running"))
    assert (status_of(error), str(error)) == (409, "cannot kill container: x: it is not running")


def test_a_frame_is_eight_bytes_and_data() -> None:
    assert frame([(1, b"ab")]) == b"\1\0\0\0\0\0\0\2ab"
    assert frame([(1, b"ab"), (2, b"c")]) == b"\1\0\0\0\0\0\0\2ab\2\0\0\0\0\0\0\1c"
    assert raw([(1, b"ab"), (1, b"c")]) == b"abc"
    assert frame([]) == raw([]) == b""


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "no space left on device"),
        (OSError(errno.EACCES, "Permission denied", "/x"), "/x: permission denied"),
        (OSError(errno.EACCES, "Permission denied", b"/x"), "/x: permission denied"),
        (OSError("plain words"), "plain words"),
        (ValueError(), "ValueError"),
    ],
)
def test_what_the_kernel_says_is_told_as_dockerd_does(error: Exception, said: str) -> None:
    assert sentence(error) == said

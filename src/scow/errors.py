"""What can go wrong: one family, arranged by what a caller can do about it.

`str(error)` is the sentence that a user reads, and clients match on some of them. Domain errors derive from the
kinds here, live beside the noun they are about, and make their own sentence from attributes. The edges map kinds to
statuses and exit codes: api/ and registry/ to HTTP, cli/ to exit codes.
"""


class ScowError(Exception):
    """Base of everything raised on purpose."""


class InvalidArgument(ScowError):
    """The request is wrong in itself; the same request will never succeed."""


class Unauthorized(ScowError):
    """Credentials are missing or wrong."""


class Forbidden(ScowError):
    """The caller is known, and may not do this."""


class NotFound(ScowError):
    """The thing that was named does not exist."""


class Conflict(ScowError):
    """The state of the thing does not allow this now."""


class NotSupported(ScowError):
    """A real request for something that this engine or machine cannot do."""


class Unavailable(ScowError):
    """A peer or resource does not answer now; trying later can help."""


class Internal(ScowError):
    """Something that should not happen did: the state on disk or a tool's answer makes no sense."""

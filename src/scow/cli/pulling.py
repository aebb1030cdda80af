"""Pull an image: the request, and its progress on stdout (`pull`) or stderr (`run`, `create`)."""

from __future__ import annotations

from scow.cli.credentials import encode_header, find_credentials
from scow.cli.errors import CliError
from scow.cli.http import HttpError
from scow.cli.progress import ProgressView

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TextIO

    from scow.cli.names import Name
    from scow.cli.session import Session


def registry_header(session: Session, name: Name) -> dict[str, str]:
    """The header that carries the credentials for an image's registry."""
    credentials = find_credentials(session.config, session.environment, name.auth_key)
    return {"X-Registry-Auth": encode_header(credentials)}


def pull(
    session: Session,
    name: Name,
    out: TextIO,
    platform: str = "",
    quiet: bool = False,
    every_tag: bool = False,
    every_platform: bool = False,
) -> None:
    """Have the engine pull an image and show the progress. Raises CliError when it fails."""
    query = {"fromImage": name.full, "tag": "" if every_tag else name.digest or name.tag}
    if platform:
        query["platform"] = platform.lower()
    if every_platform:
        query["allPlatforms"] = "1"
    response = session.engine.open("POST", "/images/create", query, headers=registry_header(session, name))
    if quiet:
        for message in response.messages():
            if message.get("error"):
                raise CliError(str(message["error"]))
    else:
        try:
            ProgressView(out, out.isatty()).show_all(response.messages())
        except HttpError as error:
            raise CliError(str(error)) from None
    session.engine.done(response)

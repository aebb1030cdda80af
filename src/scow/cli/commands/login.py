"""`scow login` and `logout`: credentials for registries, kept where docker keeps them."""

from __future__ import annotations

import os
import sys

from scow.cli.command import Command
from scow.cli.credentials import HelperError, erase_credentials, find_credentials, store_credentials
from scow.cli.errors import CliError, EngineError
from scow.cli.flags import Flag, Options
from scow.cli.names import INDEX_SERVER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from scow.cli.session import Session


def server_key(text: str) -> str:
    """The key under which a server's credentials are kept."""
    bare = text.removeprefix("https://").removeprefix("http://").rstrip("/")
    if bare in ("", "docker.io", "index.docker.io", "registry-1.docker.io", "index.docker.io/v1"):
        return INDEX_SERVER
    return bare.split("/", 1)[0]


def ask(prompt: str, secret: bool = False) -> str:
    """Ask on the terminal. Raises CliError without one."""
    if not os.isatty(0):
        raise CliError("Error: Cannot perform an interactive login from a non TTY device")
    if secret:
        import getpass

        return getpass.getpass(prompt)
    sys.stdout.write(prompt)
    sys.stdout.flush()
    return sys.stdin.readline().rstrip("\r\n")


def login(session: Session, options: Options) -> None:
    """Check credentials with the engine and keep them."""
    key = server_key(options.args[0] if options.args else "")
    user, password = options.text("username"), options.text("password")
    if options.flag("password-stdin"):
        if options.changed("password"):
            raise CliError("conflicting options: cannot specify both --password and --password-stdin")
        if not user:
            raise CliError("the --password-stdin option requires --username to be set")
        password = sys.stdin.read().rstrip("\r\n")
    elif options.changed("password"):
        session.warn("WARNING! Using --password via the CLI is insecure. Use --password-stdin.")
    credentials: dict[str, Any] = {"username": user, "password": password, "serveraddress": key}
    if not user or not password:
        kept = {} if user else find_credentials(session.config, session.environment, key)
        if kept:
            session.print("Authenticating with existing credentials...")
            credentials = kept
        else:
            credentials["username"] = user or ask("Username: ").strip()
            if not credentials["username"]:
                raise CliError("username is required")
            credentials["password"] = password or ask("Password: ", secret=True)
            if not credentials["password"]:
                raise CliError("password is required")
    try:
        answer = session.engine.post("/auth", None, credentials) or {}
    except EngineError as error:
        raise CliError(error.message) from None
    if answer.get("IdentityToken"):
        credentials["identitytoken"] = answer["IdentityToken"]
        credentials["password"] = ""
    try:
        path = store_credentials(session.config, key, credentials)
    except HelperError as error:
        raise CliError(f"Error saving credentials: {error.message}") from None
    if path:
        session.warn(
            f"\nWARNING! Your credentials are stored unencrypted in '{path}'.\n"
            "Configure a credential helper to remove this warning. See\n"
            "https://docs.docker.com/go/credential-store/\n"
        )
    if answer.get("Status"):
        session.print(str(answer["Status"]))


def logout(session: Session, options: Options) -> None:
    """Forget the credentials for a registry."""
    key = server_key(options.args[0] if options.args else "")
    shown = key if options.args and key != INDEX_SERVER else INDEX_SERVER
    session.print(f"Removing login credentials for {shown}")
    try:
        erase_credentials(session.config, key)
    except HelperError as error:
        session.warn(f"WARNING: could not erase credentials:\n{shown}: {error.message}")


COMMANDS = {
    "login": Command(
        login,
        "[SERVER]",
        (
            Flag("password", "p", "string", "Password or Personal Access Token (PAT)"),
            Flag("password-stdin", "", "bool", "Take the Password or Personal Access Token (PAT) from stdin"),
            Flag("username", "u", "string", "Username"),
        ),
        0,
        1,
        long="Authenticate to a registry.\nDefaults to Docker Hub if no server is specified.",
    ),
    "logout": Command(
        logout,
        "[SERVER]",
        (),
        0,
        1,
        long="Log out from a registry.\nIf no server is specified, the default is Docker Hub.",
    ),
}

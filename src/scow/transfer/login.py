"""Login: a check of credentials against a registry, for `POST /auth`."""

from urllib.parse import urlsplit

from scow.errors import InvalidArgument, Unauthorized
from scow.transfer.client import RegistryClient
from scow.transfer.credentials import Credentials
from scow.transfer.hosts import HUB_KEY
from scow.transfer.registries import Registries
from scow.transfer.registry_error import Refused, RegistryFailure

SUCCEEDED = "Login Succeeded"


class LoginRefused(RegistryFailure, Unauthorized):
    """The registry didn't take the credentials."""

    def __init__(self, url: str, status: int, phrase: str) -> None:
        super().__init__(f"login attempt to {url} failed with status: {status} {phrase}".rstrip())
        self.url = url
        self.status = status


async def authenticate(credentials: Credentials, registries: Registries) -> tuple[str, str]:
    """Log in to `credentials.server_address` (the Hub if empty): docker's status text and an identity token.

    The token is empty where the registry gives none; clients then keep the password. Raises Unauthorized kinds for
    wrong credentials, RegistryUnreachable if nobody answers.
    """
    host = registry_host(credentials.server_address)

    async def log_in(client: RegistryClient) -> str:
        try:
            await client.ping()
        except Refused as error:
            if error.status == 401:
                raise LoginRefused(str(client.base), 401, "Unauthorized") from error
            raise
        return client.identity_token

    return SUCCEEDED, await registries.try_host(host, credentials, log_in)


def registry_host(server_address: str) -> str:
    """The host that a server address of a client means: `https://host:port/v1/` is `host:port`, nothing is the Hub."""
    text = (server_address or HUB_KEY).strip()
    host = urlsplit(text if "://" in text else f"//{text}").netloc.rpartition("@")[2]
    if not host:
        raise InvalidArgument(f"invalid registry address: {server_address!r}")
    return host

"""Who asks: the credentials that a client sends along with a pull, push or login."""

import base64
import binascii

import msgspec


class Credentials(msgspec.Struct, frozen=True, kw_only=True, rename="lower", omit_defaults=True):
    """One registry's credentials, in the shape of the Engine API's AuthConfig."""

    username: str = ""
    password: str = ""
    auth: str = ""  # base64 of user:password, as in ~/.docker/config.json
    server_address: str = msgspec.field(name="serveraddress", default="")
    identity_token: str = msgspec.field(name="identitytoken", default="")  # a refresh token of the token service
    registry_token: str = msgspec.field(name="registrytoken", default="")  # a bearer token, used as it is

    def __repr__(self) -> str:
        # A credential that is logged by accident must not be readable.
        return f"Credentials({self.username!r} at {self.server_address!r})"

    @property
    def is_empty(self) -> bool:
        """Whether nothing in it could authenticate anybody."""
        return not (self.username or self.password or self.identity_token or self.registry_token)


def decode_registry_auth(header: str | None) -> Credentials | None:
    """Read `X-Registry-Auth`: base64url (or base64) of JSON. None if there is none in it.

    Docker ignores what it can't decode, since clients send odd values; so does this.
    """
    if not header:
        return None
    try:
        padded = header.strip().replace("+", "-").replace("/", "_")
        data = base64.urlsafe_b64decode(padded + "=" * (-len(padded) % 4))
        credentials = _plain(msgspec.json.decode(data, type=Credentials))
    except (binascii.Error, msgspec.DecodeError, UnicodeDecodeError, ValueError):
        return None
    return None if credentials.is_empty else credentials


def credentials_by_host(header: str | None) -> dict[str, Credentials]:
    """Read `X-Registry-Config`: base64 of JSON with the credentials of each registry, by a host as a reference has it.

    Empty if there is nothing in it that can be read.
    """
    if not header:
        return {}
    try:
        padded = header.strip().replace("+", "-").replace("/", "_")
        data = base64.urlsafe_b64decode(padded + "=" * (-len(padded) % 4))
        listed = msgspec.json.decode(data, type=dict[str, Credentials])
        found = {_host(name): _plain(credentials) for name, credentials in listed.items()}
    except (binascii.Error, msgspec.DecodeError, UnicodeDecodeError, ValueError):
        return {}
    return {host: credentials for host, credentials in found.items() if not credentials.is_empty}


def _host(name: str) -> str:
    """The host of an entry of ~/.docker/config.json: Docker Hub's is a URL."""
    host = name.partition("://")[2] or name
    host = host.partition("/")[0]
    return "docker.io" if host in ("index.docker.io", "registry-1.docker.io") else host


def _plain(credentials: Credentials) -> Credentials:
    """Take user and password out of `auth` if they stand only there, and `<token>` as what docker means by it."""
    if credentials.auth and not credentials.username:
        user, _, password = base64.b64decode(credentials.auth).decode().partition(":")
        credentials = msgspec.structs.replace(credentials, username=user, password=password.rstrip("\0"))
    if credentials.username == "<token>" and not credentials.identity_token:
        # Credential helpers name an identity token's owner so.
        credentials = msgspec.structs.replace(
            credentials, username="", password="", identity_token=credentials.password
        )
    return msgspec.structs.replace(credentials, auth="")

"""Credentials for registries: config.json, credential helpers, DOCKER_AUTH_CONFIG, and the header that carries them."""

from __future__ import annotations

import binascii

from scow.cli.errors import CliError
from scow.cli.jsontext import dumps, loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from scow.cli.config import Config

TOKEN_USER = "<token>"


class HelperError(CliError):
    """A credential helper failed."""


def encode_header(credentials: Mapping[str, Any]) -> str:
    """Encode credentials for X-Registry-Auth; none at all is `e30=`."""
    data = binascii.b2a_base64(dumps(dict(credentials)).encode(), newline=False)
    return data.translate(bytes.maketrans(b"+/", b"-_")).decode()


def host_of(server: str) -> str:
    """Reduce a server's address to its host: "https://index.docker.io/v1/" is "index.docker.io"."""
    return server.removeprefix("https://").removeprefix("http://").split("/", 1)[0]


def run_helper(helper: str, action: str, data: str) -> str:
    """Ask `docker-credential-HELPER`; returns what it printed. Raises HelperError."""
    import subprocess

    program = f"docker-credential-{helper}"
    try:
        done = subprocess.run([program, action], input=data.encode(), capture_output=True, check=False)
    except OSError as error:
        raise HelperError(f"error getting credentials - err: exec: {program!r}: {error.strerror}, out: ``") from None
    output = done.stdout.decode("utf-8", "replace").strip()
    if done.returncode:
        detail = output or done.stderr.decode("utf-8", "replace").strip()
        raise HelperError(f"error getting credentials - err: exit status {done.returncode}, out: `{detail}`")
    return output


def helper_for(config: Config, key: str) -> str:
    """The helper that keeps the credentials of `key`; "" for config.json itself."""
    return str(
        config.table("credHelpers").get(host_of(key), "")
        or config.table("credHelpers").get(key, "")
        or config.text("credsStore")
    )


def find_credentials(config: Config, environment: Mapping[str, str], key: str) -> dict[str, Any]:
    """The credentials kept for a registry (see Name.auth_key), {} if there are none. Raises HelperError."""
    if environment.get("DOCKER_AUTH_CONFIG"):
        try:
            table = loads(environment["DOCKER_AUTH_CONFIG"]).get("auths") or {}
        except (ValueError, AttributeError) as error:
            raise CliError(f"DOCKER_AUTH_CONFIG: {error}") from None
        found = from_table(table, key)
        if found:
            return found
    helper = helper_for(config, key)
    if helper:
        try:
            answer = loads(run_helper(helper, "get", key))
        except HelperError as error:
            if "credentials not found" in error.message:
                return {}
            raise
        user, secret = answer.get("Username") or "", answer.get("Secret") or ""
        if user == TOKEN_USER:
            return {"identitytoken": secret, "serveraddress": key}
        return {"username": user, "password": secret, "serveraddress": key}
    return from_table(config.table("auths"), key)


def all_credentials(config: Config, environment: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Every registry's credentials that the configuration names, by its key; a helper that fails is left out."""
    keys = dict.fromkeys([*config.table("auths"), *config.table("credHelpers")])
    found: dict[str, dict[str, Any]] = {}
    for key in keys:
        try:
            credentials = find_credentials(config, environment, key)
        except CliError:
            continue
        if credentials:
            found[key] = credentials
    return found


def from_table(auths: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Look a registry up among `auths`, by its key and then by its host."""
    entry = auths.get(key)
    if entry is None:
        entry = next((held for server, held in auths.items() if host_of(server) == host_of(key)), None)
    if not isinstance(entry, dict):
        return {}
    found: dict[str, Any] = {}
    if entry.get("auth"):
        try:
            user, _, password = binascii.a2b_base64(entry["auth"]).decode("utf-8").partition(":")
        except ValueError:
            raise CliError("Invalid auth configuration file") from None
        found["username"], found["password"] = user, password.strip("\x00")
    for name in ("username", "password", "identitytoken", "registrytoken"):
        if entry.get(name):
            found[name] = entry[name]
    if found:
        found["serveraddress"] = key
    return found


def store_credentials(config: Config, key: str, credentials: Mapping[str, Any]) -> str:
    """Keep credentials for a registry; returns the file they went to in clear, "" if a helper took them."""
    helper = helper_for(config, key)
    token = credentials.get("identitytoken")
    auths = config.values.setdefault("auths", {})
    if helper:
        secret = {
            "ServerURL": key,
            "Username": TOKEN_USER if token else credentials["username"],
            "Secret": token or credentials["password"],
        }
        run_helper(helper, "store", dumps(secret))
        auths[key] = {}
        config.save()
        return ""
    pair = f"{credentials['username']}:{'' if token else credentials['password']}"
    entry = {"auth": binascii.b2a_base64(pair.encode(), newline=False).decode()}
    if token:
        entry["identitytoken"] = token
    auths[key] = entry
    config.save()
    return config.path


def erase_credentials(config: Config, key: str) -> None:
    """Forget a registry's credentials."""
    helper = helper_for(config, key)
    if helper:
        run_helper(helper, "erase", key)
    if config.table("auths").pop(key, None) is not None or helper:
        config.save()

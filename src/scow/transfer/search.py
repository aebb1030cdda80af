"""Search: repositories whose names or descriptions have a word in them.

Docker Hub and some others answer docker's search API; any other registry's catalogue is looked through, as are those of
the Hub's mirrors if the Hub can't be reached.
"""

from contextlib import suppress
from typing import Final
from urllib.parse import quote

import msgspec
from yarl import URL

from scow.errors import InvalidArgument
from scow.transfer.client import RegistryClient
from scow.transfer.credentials import Credentials
from scow.transfer.hosts import Endpoint
from scow.transfer.http import read_limited
from scow.transfer.registries import Registries
from scow.transfer.registry_error import AuthenticationFailed, BadAnswer, Refused, RegistryUnreachable

HUB_SEARCH: Final = "https://index.docker.io"
MAX_RESULTS: Final = 100
DEFAULT_RESULTS: Final = 25
CATALOG_PAGES: Final = 100
"""How far a catalogue is read: pages of 1,000 names."""
_ANSWER_LIMIT: Final = 8 << 20
_CATALOG: Final = frozenset(["registry:catalog:*"])


class Match(msgspec.Struct, frozen=True, kw_only=True):
    """One repository that was found."""

    name: str = ""
    description: str | None = ""
    star_count: int = 0
    is_official: bool = False
    is_automated: bool = False


class _Answer(msgspec.Struct, frozen=True):
    results: list[Match] | None = None


class _Page(msgspec.Struct, frozen=True):
    repositories: list[str] | None = None


async def search(
    term: str, limit: int, *, registries: Registries, credentials: Credentials | None = None, hub: str = HUB_SEARCH
) -> list[Match]:
    """Find repositories; `term` may begin with a registry's host. Raises InvalidArgument, RegistryUnreachable, Refused.

    At most `limit` are returned, 25 if it is 0.
    """
    if not 0 <= limit <= MAX_RESULTS:
        raise InvalidArgument(f"limit {limit} is outside the range of [1, {MAX_RESULTS}]")
    if "://" in term:
        raise InvalidArgument(f'invalid repository name: repository name "{term}" should not have a scheme')
    limit = limit or DEFAULT_RESULTS
    host, word = _split(term)
    if host:
        return await registries.try_host(host, credentials, lambda client: _in_registry(client, word, limit))
    client = registries.client(Endpoint(url=hub), "", credentials)
    try:
        return await _by_search(client, word.removeprefix("library/"), limit)
    except RegistryUnreachable as unreachable:
        for mirror in registries.policy.mirrors:
            client = registries.client(Endpoint(url=mirror, mirror=True), "", None)
            try:
                found = await _by_catalog(client, word.removeprefix("library/"), limit, mirror=True)
            except (RegistryUnreachable, BadAnswer, Refused):
                continue
            return found
        raise unreachable


def _split(term: str) -> tuple[str, str]:
    """The registry's host, "" for the Hub, and the word."""
    first, slash, rest = term.partition("/")
    if slash and (any(mark in first for mark in ".:") or first == "localhost"):
        return ("", rest) if first in ("docker.io", "index.docker.io") else (first, rest)
    return "", term


async def _in_registry(client: RegistryClient, word: str, limit: int) -> list[Match]:
    try:
        return await _by_search(client, word, limit)
    except (Refused, BadAnswer):
        return await _by_catalog(client, word, limit)


async def _by_search(client: RegistryClient, word: str, limit: int) -> list[Match]:
    url = URL(f"{client.endpoint.url}/v1/search?q={quote(word, safe='')}&n={limit}", encoded=True)
    headers = {"Accept": "application/json"}
    async with client.request("GET", url, expect=(200,), headers=headers) as response:
        data = await read_limited(response, _ANSWER_LIMIT)
    try:
        return (msgspec.json.decode(data, type=_Answer).results or [])[:limit]
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadAnswer(str(url), f"no search results: {error}") from error


async def _by_catalog(client: RegistryClient, word: str, limit: int, *, mirror: bool = False) -> list[Match]:
    found: list[Match] = []
    last = ""
    with suppress(Refused, AuthenticationFailed):
        # There we learn how to say who we are: some list what everybody may see to whoever does not say it.
        await client.ping()
    for _ in range(CATALOG_PAGES):
        query = f"?n=1000&last={quote(last, safe='')}" if last else "?n=1000"
        url = URL(f"{client.endpoint.url}/v2/_catalog{query}", encoded=True)
        async with client.request("GET", url, expect=(200,), also=_CATALOG) as response:
            data = await read_limited(response, _ANSWER_LIMIT)
            has_more = "Link" in response.headers
        try:
            names = msgspec.json.decode(data, type=_Page).repositories or []
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BadAnswer(str(url), f"no catalogue: {error}") from error
        for name in names:
            is_official = mirror and name.startswith("library/")
            shown = name.removeprefix("library/") if mirror else f"{client.endpoint.host}/{name}"
            if word.lower() in name:
                found.append(Match(name=shown, is_official=is_official))
        if not has_more or not names or names[-1] == last or len(found) >= limit:
            break
        last = names[-1]
    return found[:limit]

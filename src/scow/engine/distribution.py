"""What registries say: a reference's digest and platforms, its manifest, and searches. Engine API, /distribution."""

from collections.abc import Sequence
from typing import Final

from scow.engine import validation
from scow.engine.filters import Filters, switch
from scow.errors import Internal, InvalidArgument, Unauthorized
from scow.oci.descriptor import Descriptor
from scow.oci.digest import Digest
from scow.oci.image_config import MAX_CONFIG_SIZE, decode_config
from scow.oci.manifest import Index, Manifest, decode
from scow.oci.platform import Platform
from scow.oci.reference import Reference, parse_reference
from scow.transfer.client import RegistryClient
from scow.transfer.credentials import Credentials, decode_registry_auth
from scow.transfer.documents import is_image_config
from scow.transfer.lists import push_list
from scow.transfer.pull import resolve
from scow.transfer.registries import Registries
from scow.transfer.search import search
from scow.wire.image import DistributionInspect, SearchResult

SEARCH_FILTERS: Final = frozenset({"is-automated", "is-official", "stars"})


class Distribution:
    """Asks registries on behalf of clients; nothing is stored."""

    def __init__(self, registries: Registries) -> None:
        self._registries = registries

    async def inspect(self, ref: str, auth: str | None) -> DistributionInspect:
        """GET /distribution/{name}/json. Raises PullRefused and the other errors of a pull."""
        credentials = decode_registry_auth(auth)
        reference = _reference(ref)
        descriptor, data = await resolve(reference, registries=self._registries, credentials=credentials)
        document = decode(data, descriptor.media_type)
        if isinstance(document, Index):
            platforms = [each.platform for each in document.manifests if each.platform is not None]
        else:
            platforms = await self._platforms(reference, document, credentials)
        return DistributionInspect(descriptor=descriptor, platforms=platforms)

    async def manifest(self, ref: str, auth: str | None) -> tuple[Descriptor, bytes]:
        """GET /scow/distribution/{name}/manifest, ours: a manifest or index as the registry has it."""
        return await resolve(_reference(ref), registries=self._registries, credentials=decode_registry_auth(auth))

    async def put_list(
        self, ref: str, data: bytes, media_type: str, sources: Sequence[str], auth: str | None
    ) -> Digest:
        """PUT /scow/distribution/{name}/manifest, ours: as push_list."""
        return await push_list(
            _reference(ref),
            data,
            media_type,
            [_reference(each) for each in sources],
            registries=self._registries,
            credentials=decode_registry_auth(auth),
        )

    async def _platforms(
        self, reference: Reference, manifest: Manifest, credentials: Credentials | None
    ) -> list[Platform]:
        if not is_image_config(manifest.config.media_type) or manifest.config.size > MAX_CONFIG_SIZE:
            return []

        async def fetch(client: RegistryClient) -> bytes:
            return await client.small_blob(manifest.config, MAX_CONFIG_SIZE, "image config")

        return [decode_config(await self._registries.try_endpoints(reference, credentials, fetch)).platform]

    async def search(self, term: str, limit: int, filters: Filters, auth: str | None) -> list[SearchResult]:
        """GET /images/search. Raises InvalidArgument, RegistryUnreachable."""
        validation.check_filters(filters, SEARCH_FILTERS)
        official, automated = switch(filters, "is-official"), switch(filters, "is-automated")
        stars = _stars(filters)
        try:
            found = await search(term, limit, registries=self._registries, credentials=decode_registry_auth(auth))
        except Unauthorized as error:
            raise Internal(str(error)) from error  # as for pulls: 401 makes clients ask for a login for ever
        return [
            SearchResult(
                name=each.name,
                description=each.description or "",
                star_count=each.star_count,
                is_official=each.is_official,
                is_automated=False,
            )
            for each in found
            if each.star_count >= stars and official in (None, each.is_official) and not automated
        ]


def _reference(ref: str) -> Reference:
    reference = parse_reference(ref)
    return reference.with_digest(reference.digest) if reference.digest else reference.with_default_tag()


def _stars(filters: Filters) -> int:
    values = filters.get("stars") or ()
    for value in values:
        if not value.isdigit():
            raise InvalidArgument(f"invalid filter 'stars={value}'")
    return max(map(int, values), default=0)

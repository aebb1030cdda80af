"""What `cachefrom` and `cacheto` of a build ask for, in docker's words: `IMAGE`, or `type=registry,ref=IMAGE`."""

import contextlib
import csv
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import Final

import msgspec

from scow.build.cache import Record
from scow.build.cache_export import Mode, push_cache
from scow.build.cache_imports import Source
from scow.build.cache_sources import LocalImage, RegistryCache, SentCache
from scow.engine.build_sessions import BuildSessions
from scow.engine.image_lookup import find_image
from scow.errors import InvalidArgument, ScowError
from scow.oci.platform import Platform
from scow.oci.reference import Reference, parse_reference
from scow.store.images import NoSuchImageID
from scow.store.store import Store
from scow.transfer.credentials import Credentials
from scow.transfer.registries import Registries
from scow.wire.progress import ProgressMessage

CredentialsFor = Callable[[Reference], Credentials | None]
Emit = Callable[[ProgressMessage], None]
IMPORTS: Final = ("registry", "upload")
EXPORTS: Final = ("inline", "registry", "download")


class CacheSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One `cachefrom` or `cacheto`, checked."""

    type: str
    reference: Reference | None = None  # of `registry`
    id: str = ""  # of `upload` and `download`
    mode: Mode = "min"
    ignore_error: bool = False
    local: bool = False  # an image that is here will do


def parse_import(text: str) -> CacheSpec:
    """Read a `cachefrom`. Raises InvalidArgument."""
    if "=" not in text:
        return CacheSpec(type="registry", reference=parse_reference(text), local=True)
    return _parsed(text, IMPORTS, "importer")


def parse_export(text: str) -> CacheSpec:
    """Read a `cacheto`. Raises InvalidArgument."""
    if "=" not in text:
        return CacheSpec(type="inline") if text == "inline" else _parsed(f"type=registry,ref={text}", EXPORTS, "")
    return _parsed(text, EXPORTS, "exporter")


def _parsed(text: str, types: Sequence[str], what: str) -> CacheSpec:
    fields = dict(field.strip().partition("=")[::2] for field in next(csv.reader([text]), []))
    kind = fields.get("type", "registry")
    if kind not in types:
        hint = ": the client sends and stores it" if kind == "local" else f": there are {', '.join(types)}"
        raise InvalidArgument(f"unknown cache {what}: {kind!r}{hint}")
    mode = fields.get("mode") or "min"
    if mode not in ("min", "max"):
        raise InvalidArgument(f"unsupported cache mode {mode!r}: min or max")
    reference = None
    if kind == "registry":
        if not fields.get("ref"):
            raise InvalidArgument(f"invalid cache {text!r}: a registry's needs ref=NAME")
        reference = parse_reference(fields["ref"])
    if kind in ("upload", "download") and not fields.get("id"):
        raise InvalidArgument(f"invalid cache {text!r}: it needs an id")
    return CacheSpec(
        type=kind,
        reference=reference,
        id=fields.get("id", ""),
        mode="max" if mode == "max" else "min",
        ignore_error=fields.get("ignore-error", "").lower() in ("1", "true"),
    )


class BuildCaches:
    """Opens and writes caches from and for elsewhere."""

    def __init__(self, store: Store, registries: Registries, sessions: BuildSessions) -> None:
        self._store = store
        self._registries = registries
        self._sessions = sessions

    async def sources(
        self,
        specs: Sequence[CacheSpec],
        platform: Platform,
        credentials_for: CredentialsFor,
        keep: AsyncExitStack,
    ) -> list[Source]:
        """The caches to be asked; what a client sent is closed by `keep`. Raises InvalidArgument."""
        found: list[Source] = []
        for spec in specs:
            if spec.type == "upload":
                archive = self._sessions.take_upload(spec.id)
                keep.push_async_callback(archive.aclose)
                found.append(SentCache("that was sent", archive, self._store))
                continue
            assert spec.reference is not None
            image = find_image(self._store.images, str(spec.reference)) if spec.local else None
            if image is not None:
                with contextlib.suppress(NoSuchImageID):  # or not any more
                    config = await self._store.images.config(image.id)
                    found.append(LocalImage(self._store, spec.reference.familiar, config))
                    continue
            credentials = credentials_for(spec.reference)
            found.append(RegistryCache(spec.reference, platform, self._registries, self._store, credentials))
        return found

    async def export(
        self,
        specs: Sequence[CacheSpec],
        records: Callable[[Mode], list[Record]],
        credentials_for: CredentialsFor,
        emit: Emit,
    ) -> None:
        """Write the caches that were asked for. Raises what a push raises, unless its error is to be ignored."""
        for spec in specs:
            if spec.type == "download":
                self._sessions.keep_cache(spec.id, records(spec.mode))
            elif spec.reference is not None:
                emit(ProgressMessage(stream=f"Exporting cache to {spec.reference.familiar}\n"))
                try:
                    await push_cache(
                        spec.reference,
                        records(spec.mode),
                        registries=self._registries,
                        store=self._store,
                        emit=emit,
                        credentials=credentials_for(spec.reference),
                    )
                except ScowError as error:
                    if not spec.ignore_error:
                        raise
                    emit(ProgressMessage(stream=f"[Warning] failed to export the cache: {error}\n"))

"""Events: what a call that was answered has done, in docker's notification format.

https://distribution.github.io/distribution/about/notifications/
"""

import os
import socket
import uuid
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Final

import msgspec

from scow.errors import ScowError
from scow.oci import manifest as manifests
from scow.oci.descriptor import Descriptor
from scow.oci.digest import Digest
from scow.registry.calls import Call
from scow.registry.metadata import KnownManifest, Metadata, StoredManifest
from scow.registry.replies import Reply
from scow.registry.settings import EventAction

CONTENT_TYPE: Final = "application/vnd.docker.distribution.events.v1+json"
BLOB_TYPE: Final = "application/octet-stream"


class Target(msgspec.Struct, rename="camel", omit_defaults=True, kw_only=True):
    """What was pushed, pulled or deleted."""

    media_type: str = ""
    size: int = 0
    digest: str = ""
    length: int = 0  # the same as size, as docker has it
    repository: str = ""
    from_repository: str = ""  # of a mount
    url: str = ""
    tag: str = ""
    references: list[Descriptor] = []


class RequestOf(msgspec.Struct, omit_defaults=True, kw_only=True):
    """The request that did it."""

    id: str
    addr: str = ""
    host: str = ""
    method: str = ""
    useragent: str = ""


class Actor(msgspec.Struct, omit_defaults=True):
    """Who did it; without a name if nobody logged in."""

    name: str = ""


class Source(msgspec.Struct, omit_defaults=True, kw_only=True):
    """The registry that tells."""

    addr: str = ""
    instance_id: str = msgspec.field(name="instanceID", default="")


class Event(msgspec.Struct, kw_only=True):
    """One thing that happened."""

    id: str
    timestamp: str
    action: EventAction
    target: Target
    request: RequestOf
    actor: Actor
    source: Source


def this_registry() -> Source:
    """This process as the source of events."""
    return Source(addr=f"{socket.gethostname()}:{os.getpid()}", instance_id=str(uuid.uuid4()))


class Witness:
    """Makes the events of calls."""

    def __init__(self, metadata: Metadata, url: str) -> None:
        """`url` is the registry's as clients reach it; empty: what the request says."""
        self._metadata = metadata
        self._url = url.rstrip("/")
        self._source = this_registry()

    async def events(self, call: Call, reply: Reply) -> list[Event]:
        """What a call has done that was answered well; nothing for most."""
        action = action_of(call, reply)
        if action is None:
            return []
        return [self._event(call, action, target) for target in await self._targets(call, reply, action)]

    def _event(self, call: Call, action: EventAction, target: Target) -> Event:
        return Event(
            id=str(uuid.uuid4()),
            timestamp=datetime.now(UTC).isoformat().replace("+00:00", "Z"),
            action=action,
            target=target,
            request=RequestOf(
                id=call.request_id,
                addr=call.remote,
                host=call.headers.get("Host", ""),
                method=call.method,
                useragent=call.headers.get("User-Agent", ""),
            ),
            actor=Actor((call.caller.name if call.caller is not None else None) or ""),
            source=self._source,
        )

    async def _targets(self, call: Call, reply: Reply, action: EventAction) -> list[Target]:
        repository, reference = call.repository, call.route.reference
        digest = next((value for name, value in reply.headers if name == "Docker-Content-Digest"), "")
        base = f"{self._url or call.base_url}/v2/{repository}"
        if action == "delete":
            kind = "blobs" if call.route.kind == "blob" else "manifests"
            if ":" in reference:
                return [Target(digest=reference, repository=repository, url=f"{base}/{kind}/{reference}")]
            return [Target(tag=reference, repository=repository)]
        if call.route.kind != "manifest":
            blob_digest = Digest(digest or reference)
            blob = self._metadata.blob_now(repository, blob_digest)
            blob = blob or await self._metadata.blob(repository, blob_digest)
            size = blob.size if blob is not None else reply.length
            source = call.parameter("from") or "" if action == "mount" else ""
            return [
                Target(
                    media_type=BLOB_TYPE,
                    size=size,
                    length=size,
                    digest=blob_digest,
                    repository=repository,
                    from_repository=source,
                    url=f"{base}/blobs/{blob_digest}",
                )
            ]
        found = self._metadata.manifest_now(repository, digest)
        found = found or await self._metadata.find_manifest(repository, digest, True)
        size = found.size if found is not None else reply.length
        media_type = found.media_type if found is not None else ""
        target = Target(
            media_type=media_type,
            size=size,
            length=size,
            digest=digest,
            repository=repository,
            url=f"{base}/manifests/{digest}",
            references=await self._references(repository, found) if found is not None and action == "push" else [],
        )
        tags = list(call.query.get("tag", [])) if ":" in reference else [reference]
        if action == "pull":
            tags = tags[:1] if ":" not in reference else []
        return [msgspec.structs.replace(target, tag=tag) for tag in tags] or [target]

    async def _references(self, repository: str, manifest: KnownManifest) -> list[Descriptor]:
        whole = (
            manifest
            if isinstance(manifest, StoredManifest)
            else await self._metadata.manifest(repository, manifest.digest, True)
        )
        return _references(whole.data, whole.media_type) if whole is not None else []


def action_of(call: Call, reply: Reply) -> EventAction | None:
    """What kind of event a call is that was answered with `reply`."""
    kind, method, status = call.route.kind, call.method, reply.status
    if kind in ("manifest", "blob"):
        if method == "GET":
            return "pull" if status in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT, 307) else None
        if method == "PUT":
            return "push" if status == HTTPStatus.CREATED else None
        return "delete" if method == "DELETE" and status == HTTPStatus.ACCEPTED else None
    if kind == "web-image":
        return "delete" if method == "POST" and status == HTTPStatus.SEE_OTHER else None
    if status != HTTPStatus.CREATED or kind not in ("upload", "uploads"):
        return None
    return "mount" if kind == "uploads" and call.parameter("mount") is not None else "push"


def _references(data: bytes, media_type: str) -> list[Descriptor]:
    try:
        document = manifests.decode(data, media_type)
    except ScowError:
        return []
    if isinstance(document, manifests.Index):
        return list(document.manifests)
    return [document.config, *document.layers]

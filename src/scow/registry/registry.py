"""The registry without a network: storage, names, and an answer for each call."""

import logging
from collections.abc import Awaitable, Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

from scow.oci.digest import Digest
from scow.registry.access import Access
from scow.registry.accounts import Accounts, SqlAccounts
from scow.registry.audit import Audit
from scow.registry.blobs import Blobs
from scow.registry.calls import Call, Route
from scow.registry.collector import Collector
from scow.registry.errors import AuthenticationRequired, MethodUnsupported, NameUnknown, PageUnknown, ReadOnly, Refusal
from scow.registry.health import Health
from scow.registry.jobs import Jobs
from scow.registry.listings import Listings
from scow.registry.manifest_bodies import ManifestBodies
from scow.registry.manifest_requests import ManifestRequests
from scow.registry.metadata import Metadata
from scow.registry.metrics import Metrics
from scow.registry.names import parse_repository
from scow.registry.objects import Objects
from scow.registry.passwords import Passwords
from scow.registry.policies import Policies
from scow.registry.replies import Reply, json_reply
from scow.registry.settings import Settings
from scow.registry.shared import SharedTable
from scow.registry.sql import Database
from scow.registry.sql_metadata import SqlMetadata
from scow.registry.storage import check_spool, has_bucket, open_database, open_objects, spool_folder
from scow.registry.token_requests import TokenRequests
from scow.registry.upload_ids import UploadIds
from scow.registry.upload_requests import UploadRequests
from scow.registry.uploads import Uploads
from scow.registry.upstream.places import Places
from scow.registry.upstream.relay import RelayClient
from scow.registry.uses import Uses
from scow.registry.warnings import deprecation_warning, quota_warnings
from scow.registry.web.login import Login
from scow.registry.web.oidc import OidcLogin
from scow.registry.web.pages import Pages
from scow.registry.webhooks.queue import Notices
from scow.registry.webhooks.webhooks import Webhooks

if TYPE_CHECKING:
    from scow.registry.upstream.requests import UpstreamRequests
    from scow.registry.upstream.sync import Syncs

log = logging.getLogger("scow.registry")

READING: Final = frozenset({"GET", "HEAD"})
PUSHING: Final = frozenset({"POST", "PUT"})
PUSHED: Final = frozenset({"uploads", "upload", "manifest"})
UNLIMITED: Final = 1 << 62
OPEN: Final = frozenset({"token", "keys", "web-asset", "web-login", "web-logout", "web-oidc"})
"""Endpoints that see to their callers themselves."""
WITHOUT_REPOSITORY: Final = OPEN | {"ping", "catalog", "metrics", "web-home"}


class Registry:
    """Answers calls. Whoever made it closes it."""

    def __init__(
        self,
        database: Database,
        objects: Objects,
        metadata: Metadata,
        accounts: Accounts,
        settings: Settings,
        metrics: Metrics,
        failures: SharedTable | None = None,
        relay: RelayClient | None = None,
    ) -> None:
        """`database` is what the names are kept in, to be closed at the end; `failures` as of Passwords.

        `relay` leads to the worker that fetches from other registries, if it is not this one.
        """
        self.uploads = uploads = Uploads(
            objects, metadata, UploadIds(database), settings.limits.blob_size, settings.database.blob_size
        )
        upload_requests = UploadRequests(uploads, metadata)
        listings = Listings(metadata)
        auth = settings.auth
        passwords = Passwords(accounts, Path(auth.htpasswd) if auth.htpasswd else None, failures)
        self.objects = objects
        self.metadata = metadata
        self.accounts = accounts
        self.passwords = passwords
        self.metrics = metrics
        self._database = database
        self.health = Health(database, Path(settings.storage) / "blobs" if not has_bucket(settings) else None)
        self._settings = settings
        self._access = Access(accounts, passwords, settings)
        self._audit = Audit(Path(auth.audit_log) if auth.audit_log else None)
        token_requests = TokenRequests(self._access, auth.token, metrics)
        self._policies = policies = Policies(settings.policies)
        self.jobs = jobs = Jobs(database)
        self.collector = Collector(
            objects, metadata, uploads, policies, settings.gc.upload_expiry_s, metrics, jobs, settings.gc.retention
        )
        self.uses = Uses(database, policies)
        self._places = Places(settings.proxy, settings.url)
        self._relay = relay
        if settings.sync:
            _ = self.syncs  # a rule that is wrong is refused at start
        self.notices = Notices(database)
        self.webhooks = Webhooks(settings.webhooks, self.notices, jobs, metadata, metrics, settings.url)
        self._bodies = bodies = ManifestBodies(metadata, spool_folder(settings))
        self._pages = pages = Pages(metadata, objects, settings.url, self._places)
        login = Login(self._access, metrics, settings.url)
        self._endpoints: dict[str, Callable[[Call], Awaitable[Reply]]] = {
            "ping": _ping,
            "manifest": ManifestRequests(metadata, bodies, settings.limits.manifest_size or UNLIMITED).answer,
            "blob": Blobs(objects, metadata).answer,
            "uploads": upload_requests.answer_begin,
            "upload": upload_requests.answer,
            "tags": listings.answer_tags,
            "catalog": listings.answer_catalog,
            "referrers": listings.answer_referrers,
            "metrics": self._show_metrics,
            "token": token_requests.answer,
            "keys": token_requests.answer_keys,
            **{f"web-{page}": pages.answer for page in ("home", "repository", "image", "asset")},
            "web-login": login.answer,
            "web-logout": login.answer_end,
            "web-oidc": OidcLogin(self._access, settings.url).answer,
        }
        self._upstreams: UpstreamRequests | None = None
        if settings.proxy:
            self._upstreams = self._open_upstreams(relay)

    def _open_upstreams(self, relay: RelayClient | None) -> "UpstreamRequests":
        # Here, for whoever copies nothing needs neither this nor the client of registries that it brings.
        from scow.registry.upstream.cache import Cache
        from scow.registry.upstream.requests import UpstreamRequests

        cache = Cache(self.metadata, self.uploads, self.metrics, spool_folder(self._settings))
        return UpstreamRequests(cache, self.metadata, self._bodies, self.metrics, self._endpoints, relay)

    @classmethod
    def open(
        cls,
        settings: Settings,
        metrics: Metrics | None = None,
        failures: SharedTable | None = None,
        relay: RelayClient | None = None,
    ) -> "Registry":
        """Open the storage that the settings name. Blocks: to be called at start."""
        check_spool(settings)
        database = open_database(settings)
        objects = open_objects(settings, database)
        metadata = SqlMetadata(database, settings.gc.grace_s, Policies(settings.policies))
        accounts = SqlAccounts(database)
        return cls(database, objects, metadata, accounts, settings, metrics or Metrics(), failures, relay)

    @cached_property
    def syncs(self) -> "Syncs":
        """What is copied from other registries, by rules of the settings and others. Raises SettingsInvalid."""
        from scow.registry.upstream.sync import Syncs  # as in __init__

        return Syncs(self._settings.sync, self.metadata, self.uploads, self.metrics, self.jobs)

    async def answer(self, call: Call) -> Reply:
        """Answer a request. Raises Refusal."""
        try:
            reply = await self._answer(call)
        except Refusal as refusal:
            if isinstance(refusal, AuthenticationRequired) and "Authorization" in call.headers:
                self.metrics.count("authentication_failures")
            self._audit.note(call, refusal.status, str(refusal))
            if self._settings.web and call.route.kind.startswith("web-"):
                return self._pages.refusal(call, refusal)
            raise
        self._audit.note(call, reply.status)
        if self.uses.wanted and call.route.kind == "manifest" and call.method == "GET" and reply.status < 400:
            self._note_use(call, reply)
        if self.webhooks.wanted and call.caller is not None:
            await self._tell(call, reply)
        if call.method in PUSHING and call.route.kind in PUSHED and reply.status < 400:
            await self._warn(call, reply)
        if self._policies.deprecates and call.route.kind == "manifest" and reply.status < 400:
            self._warn_of_tag(call, reply)
        return self._with_host(call, reply) if self._settings.absolute_urls else reply

    def _note_use(self, call: Call, reply: Reply) -> None:
        for name, value in reply.headers:
            if name == "Docker-Content-Digest":
                self.uses.note(call.repository, Digest(value))

    async def _tell(self, call: Call, reply: Reply) -> None:
        try:
            await self.webhooks.note(call, reply)
        except Exception:
            # What was done is done: the client is told so, whoever else isn't.
            log.exception("request %s: an event could not be queued", call.request_id)

    async def _warn(self, call: Call, reply: Reply) -> None:
        try:
            uses = await self.metadata.quota_uses(call.repository)
        except Exception:
            # Here too what was done is done.
            log.exception("request %s: the use of quotas could not be told", call.request_id)
            return
        if uses:
            reply.headers = (*reply.headers, *quota_warnings(call.repository, uses))

    def _warn_of_tag(self, call: Call, reply: Reply) -> None:
        repository, tag = call.repository, call.route.reference
        if self._policies.is_deprecated(repository, tag):
            reply.headers = (*reply.headers, deprecation_warning(repository, tag))

    def _with_host(self, call: Call, reply: Reply) -> Reply:
        base = self._settings.url.rstrip("/") or call.base_url
        reply.headers = tuple(
            (name, base + value if name == "Location" and value.startswith("/") else value)
            for name, value in reply.headers
        )
        return reply

    async def _answer(self, call: Call) -> Reply:
        route = call.route
        if not self._settings.web and route.kind.startswith("web-"):
            raise PageUnknown(route.kind)
        ns = call.parameter("ns") if self._places and route.repository else None
        if ns is not None:
            route = self._called(call, ns)
        if route.kind not in WITHOUT_REPOSITORY:
            parse_repository(route.repository)  # before the rules, which remember what they were asked
        if route.kind not in OPEN:
            await self._access.admit(call)
            if self._settings.read_only and call.method not in READING:
                raise ReadOnly
        place = self._places.place(route.repository) if route.repository else None
        if place is not None and self._upstreams is not None:
            reply = await self._upstreams.answer(call, place)
        else:
            reply = await self._endpoints[route.kind](call)
        if ns is not None:
            reply.headers = (*reply.headers, ("OCI-Namespace", ns))
        return reply

    def _called(self, call: Call, ns: str) -> Route:
        """Find what a client means that names the registry whose repository it wants, as containerd does."""
        found = self._places.named(ns, call.route.repository, call.headers.get("Host", ""))
        if found is None:
            raise NameUnknown(call.route.repository)
        call.redirect(found)
        return call.route

    async def answer_relayed(self, call: Call) -> Reply:
        """Answer a call that another worker has admitted. Raises Refusal."""
        place = self._places.place(parse_repository(call.route.repository))
        if place is None or self._upstreams is None:
            raise NameUnknown(call.route.repository)
        return await self._upstreams.answer(call, place)

    async def _show_metrics(self, call: Call) -> Reply:
        if call.method not in READING:
            raise MethodUnsupported(call.method, ("GET", "HEAD"))
        kind = ("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
        return Reply(200, (kind,), self.metrics.text().encode())

    async def aclose(self) -> None:
        """Close storage and names."""
        await self._access.aclose()
        if self._upstreams is not None:
            await self._upstreams.aclose()
        await self.webhooks.aclose()
        await self.uses.aclose()
        if self._relay is not None:
            await self._relay.aclose()
        self._bodies.close()
        await self.uploads.aclose()
        await self.objects.aclose()
        await self._database.aclose()
        self._audit.close()


async def _ping(call: Call) -> Reply:
    if call.method not in READING:
        raise MethodUnsupported(call.method, ("GET", "HEAD"))
    return json_reply(200, {})

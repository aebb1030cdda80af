"""Tells the configured endpoints: queues what happened, and delivers it in order, again and again until it is taken.

What changes something is queued before its client is answered, pulls a moment after. One process at a time delivers to
an endpoint, and nobody waits for it: an endpoint that is dead or slow fills its own queue, up to its limit.
"""

import asyncio
import logging
import random
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Final
from urllib.parse import urlsplit

import aiohttp
import msgspec

from scow import __version__
from scow.registry.calls import Call
from scow.registry.jobs import Jobs, kept
from scow.registry.metadata import Metadata
from scow.registry.metrics import Metrics
from scow.registry.patterns import matches_any
from scow.registry.replies import Reply
from scow.registry.settings import SettingsInvalid, Webhook
from scow.registry.webhooks.events import CONTENT_TYPE, Event, Witness, action_of
from scow.registry.webhooks.queue import BUFFER_LIMIT, Notices

LEASE_S: Final = 20.0
"""A process that delivers and dies is followed by another one after so long."""
LOOK_S: Final = 5.0
POLL_S: Final = 0.2
LONGEST_POLL_S: Final = 2.0
FIRST_PAUSE_S: Final = 1.0

log = logging.getLogger("scow.registry.webhooks")


class Webhooks:
    """Whoever made it closes it."""

    def __init__(
        self,
        endpoints: Sequence[Webhook],
        notices: Notices,
        jobs: Jobs,
        metadata: Metadata,
        metrics: Metrics,
        url: str = "",
    ) -> None:
        """`url` is the registry's as clients reach it. Raises SettingsInvalid."""
        for endpoint in endpoints:
            if urlsplit(endpoint.url).scheme not in ("http", "https") or not urlsplit(endpoint.url).hostname:
                raise SettingsInvalid(f"webhook {endpoint.name}", f"{endpoint.url!r} is not a URL of http or https")
        if len({endpoint.name for endpoint in endpoints}) < len(endpoints):
            raise SettingsInvalid("webhooks", "each endpoint needs a name of its own")
        self._endpoints = endpoints
        self._notices = notices
        self._jobs = jobs
        self._metrics = metrics
        self._witness = Witness(metadata, url)
        self._pulls: list[tuple[str, bytes]] = []
        self._flushing: asyncio.Task[None] | None = None
        self._news = asyncio.Event()

    @property
    def wanted(self) -> bool:
        """Whether anybody is to be told anything."""
        return bool(self._endpoints)

    async def note(self, call: Call, reply: Reply) -> None:
        """Queue what a call has done."""
        action = action_of(call, reply)
        if action is None or not any(action in endpoint.actions for endpoint in self._endpoints):
            return
        found: list[tuple[str, bytes]] = []
        for event in await self._witness.events(call, reply):
            data = msgspec.json.encode(event)
            found += [(endpoint.name, data) for endpoint in self._endpoints if _wants(endpoint, event)]
        if not found:
            return
        if action != "pull":
            await self._notices.add(found, time.time())
            self._news.set()
        elif len(self._pulls) < BUFFER_LIMIT:
            self._pulls += found
            if self._flushing is None:
                self._flushing = asyncio.create_task(self._flush())
        else:
            self._metrics.count("webhook_events_dropped", len(found))

    async def _flush(self) -> None:
        try:
            while self._pulls:
                await asyncio.sleep(POLL_S)
                taken, self._pulls = self._pulls, []
                await self._notices.add(taken, time.time())
                self._news.set()
        except Exception:
            log.exception("pulls could not be noted for webhooks")
        finally:
            self._flushing = None

    async def run(self) -> None:
        """Deliver until cancelled."""
        dropped = await self._notices.forget_others([endpoint.name for endpoint in self._endpoints])
        if dropped:
            log.info("forgot %d events of endpoints that are no longer configured", dropped)
        async with asyncio.TaskGroup() as group:
            for endpoint in self._endpoints:
                group.create_task(self._deliver_all(endpoint))

    async def _deliver_all(self, endpoint: Webhook) -> None:
        """Deliver to one endpoint whenever no other process does."""
        job = f"webhook {endpoint.name}"
        headers = {"Content-Type": CONTENT_TYPE, "User-Agent": f"scow-registry/{__version__}", **endpoint.headers}
        timeout, jar = aiohttp.ClientTimeout(total=endpoint.timeout_s), aiohttp.DummyCookieJar()
        async with aiohttp.ClientSession(timeout=timeout, headers=headers, cookie_jar=jar) as session:
            while True:
                try:
                    if await self._jobs.lease(job, LEASE_S):
                        try:
                            async with kept(self._jobs, job, LEASE_S):
                                await self._deliver_here(endpoint, session)
                        finally:
                            await self._jobs.release(job)
                except Exception:
                    log.exception("webhook %s: the queue can't be read", endpoint.name)
                await asyncio.sleep(LOOK_S)

    async def _deliver_here(self, endpoint: Webhook, session: aiohttp.ClientSession) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            version = self._notices.version()
            self._news.clear()
            delivered = await self._deliver(endpoint, session)
            if delivered is None:
                await self._wait(version)
            elif delivered:
                pause_s = FIRST_PAUSE_S
            else:
                await asyncio.sleep(pause_s * random.uniform(0.75, 1.0))
                pause_s = min(pause_s * 2, endpoint.retry_s)

    async def _wait(self, version: int) -> None:
        """Wait until there may be something new, from this process or another one."""
        for _ in range(round(LONGEST_POLL_S / POLL_S)):
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_S):
                    await self._news.wait()
            if self._news.is_set() or self._notices.version() != version:
                return

    async def _deliver(self, endpoint: Webhook, session: aiohttp.ClientSession) -> bool | None:
        """Send the oldest events; False if the endpoint does not take them, None if there are none."""
        dropped = await self._notices.trim(endpoint.name, endpoint.queue)
        if dropped:
            self._metrics.count("webhook_events_dropped", dropped)
            log.warning("webhook %s: its queue is full, the oldest %d events are dropped", endpoint.name, dropped)
        notices = await self._notices.next(endpoint.name, max(endpoint.batch, 1))
        if not notices:
            return None
        body = b'{"events":[' + b",".join(notice.event for notice in notices) + b"]}"
        why = await _send(endpoint, session, body)
        if why is not None:
            self._metrics.count("webhook_failures")
            if notices[0].made_at > time.time() - endpoint.give_up_s:
                log.warning("webhook %s: %s; it is tried again", endpoint.name, why)
                return False
            log.error("webhook %s: %s; %d old events are dropped", endpoint.name, why, len(notices))
            self._metrics.count("webhook_events_dropped", len(notices))
        else:
            self._metrics.count("webhook_events", len(notices))
        await self._notices.remove(endpoint.name, notices[-1].notice_id)
        return True

    async def aclose(self) -> None:
        """Queue what is still in memory."""
        if self._flushing is not None:
            await self._flushing


async def _send(endpoint: Webhook, session: aiohttp.ClientSession, body: bytes) -> str | None:
    """Send a body; why it was not taken, None if it was."""
    try:
        # As docker has it, a redirect is success too, and nobody follows it.
        async with session.post(endpoint.url, data=body, allow_redirects=False, ssl=endpoint.verify) as answer:
            return None if 200 <= answer.status < 400 else f"it answers {answer.status}"
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        return str(error) or type(error).__name__


def _wants(endpoint: Webhook, event: Event) -> bool:
    target = event.target
    if event.action not in endpoint.actions or target.media_type in endpoint.ignore_media_types:
        return False
    return not endpoint.repositories or matches_any(target.repository, endpoint.repositories)

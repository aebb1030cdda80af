"""Rules that copy other registries' images: `[[sync]]`, when told or by schedule."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Final, TypeVar

from scow.errors import ScowError
from scow.oci.platform import parse_platform
from scow.registry.errors import NameInvalid, TagImmutable, TooManyRequests
from scow.registry.jobs import Jobs, kept
from scow.registry.metadata import Metadata
from scow.registry.metrics import Metrics
from scow.registry.names import parse_repository
from scow.registry.schedule import Schedule
from scow.registry.settings import SettingsInvalid, Sync
from scow.registry.uploads import Uploads
from scow.registry.upstream.copier import Copier, Counts
from scow.registry.upstream.places import check_remote, remote_name
from scow.registry.upstream.selection import Selection, is_pattern, select_repositories
from scow.registry.upstream.upstream import Upstream

T = TypeVar("T")

LONGEST_WAIT_S: Final = 900.0
"""An upstream that limits us is waited for so long; after that the next run goes on."""

LEASE_S: Final = 120.0
LOOK_S: Final = 30.0
"""Between two looks whether another process has done it."""

log = logging.getLogger("scow.registry.sync")

Say = Callable[[str], None]


class NoSuchRule(SettingsInvalid):
    """A rule is asked for that is not configured."""

    def __init__(self, name: str, known: Sequence[str]) -> None:
        super().__init__("sync", f"there is no rule {name}; known: {', '.join(known) or 'none'}")


class Rule:
    """A checked rule."""

    def __init__(self, settings: Sync) -> None:
        """Raises SettingsInvalid."""
        where = f"sync {settings.name}"
        check_remote(settings, where)
        self.settings = settings
        self.selection = Selection(settings)
        self.schedule = Schedule(settings.schedule, where) if settings.schedule else None
        try:
            self.platforms = [parse_platform(text) for text in settings.platforms] or None
            for name in (settings.namespace, *(n for n in settings.repositories if not is_pattern(n))):
                if name:
                    parse_repository(name)
        except ScowError as error:
            detail = f" {error.detail}" if isinstance(error, NameInvalid) else ""
            raise SettingsInvalid(where, f"{error}{detail}") from error

    def local(self, name: str) -> str:
        """What an upstream's repository is called here."""
        return f"{self.settings.namespace}/{name}" if self.settings.namespace else name


class Syncs:
    """All rules of the configuration."""

    def __init__(
        self, settings: Sequence[Sync], metadata: Metadata, uploads: Uploads, metrics: Metrics, jobs: Jobs
    ) -> None:
        """Raises SettingsInvalid."""
        self.rules = {rule.name: Rule(rule) for rule in settings}
        if len(self.rules) < len(settings):
            raise SettingsInvalid("sync", "each rule needs a name of its own")
        self._metadata = metadata
        self._uploads = uploads
        self._metrics = metrics
        self._jobs = jobs

    def named(self, names: Sequence[str]) -> list[Rule]:
        """Rules by name, all for none. Raises NoSuchRule."""
        for name in names:
            if name not in self.rules:
                raise NoSuchRule(name, list(self.rules))
        return [self.rules[name] for name in names] if names else list(self.rules.values())

    @property
    def scheduled(self) -> bool:
        """Whether anything is to be done by schedule."""
        return any(rule.schedule is not None for rule in self.rules.values())

    async def run_scheduled(self) -> None:
        """Run each rule when its time comes, until cancelled."""
        async with asyncio.TaskGroup() as group:
            for rule in self.rules.values():
                if rule.schedule is not None:
                    group.create_task(self._run_by_schedule(rule, rule.schedule))

    async def _run_by_schedule(self, rule: Rule, schedule: Schedule) -> None:
        job = f"sync {rule.settings.name}"
        began = datetime.now(UTC)
        while True:
            # From the last run of any process on: a registry that restarts often does not begin to wait anew.
            last = datetime.fromtimestamp(await self._jobs.done_at(job), UTC)
            following = schedule.next(max(last, began) if schedule.is_fixed else last)
            assert following is not None  # a schedule that never comes is refused
            wait_s = (following - datetime.now(UTC)).total_seconds()
            if wait_s > 0:
                await asyncio.sleep(min(wait_s, LOOK_S))  # another process may be quicker
                continue
            if not await self._jobs.lease(job, LEASE_S):
                await asyncio.sleep(LOOK_S)
                continue
            try:
                async with kept(self._jobs, job, LEASE_S):
                    counts = await self.run(rule, lambda line: log.info("%s", line))
                log.info("sync %s: %s", rule.settings.name, counts)
                for problem in counts.problems:
                    log.warning("sync %s: %s", rule.settings.name, problem)
            except Exception:
                log.exception("sync %s failed", rule.settings.name)
            except BaseException:
                await self._jobs.release(job)
                raise
            await self._jobs.release(job, done=True)  # failed or not, the next time is that of the schedule

    async def run(self, rule: Rule, say: Say, *, dry_run: bool = False) -> Counts:
        """Do what a rule says, or only tell. What fails is among the problems, and the rest goes on."""
        settings, counts = rule.settings, Counts()
        upstream = Upstream(settings, self._metrics)
        try:
            catalog: list[str] = []
            if any(is_pattern(name) for name in settings.repositories):
                catalog = await _patiently(upstream.repositories)
            for name in select_repositories(settings.repositories, catalog):
                await self._copy_repository(rule, upstream, name, counts, say, dry_run)
        except ScowError as error:
            counts.problems.append(f"{settings.name}: {error}")
        finally:
            await upstream.aclose()
        return counts

    async def _copy_repository(
        self, rule: Rule, upstream: Upstream, name: str, counts: Counts, say: Say, dry_run: bool
    ) -> None:
        settings, local = rule.settings, rule.local(name)
        remote = remote_name(settings, name)
        prefix = f"{settings.namespace}/" if settings.namespace else ""
        copier = Copier(
            upstream,
            self._metadata,
            self._uploads,
            counts,
            platforms=rule.platforms,
            referrers=settings.referrers,
            may_mount=lambda holder: holder.startswith(prefix) and rule_covers(settings, holder[len(prefix) :]),
        )
        listed = await _patiently(lambda: upstream.tags(remote))
        wanted = rule.selection.of(listed)
        if not wanted:
            counts.problems.append(f"{local}: none of {len(listed)} tags of {remote} is meant")
        for tag in wanted:
            try:
                if dry_run:
                    await self._tell(copier, remote, local, tag, counts, say)
                elif await _patiently(lambda tag=tag: copier.copy_tag(remote, local, tag)):  # type: ignore[misc]  # a lambda's default
                    say(f"{local}:{tag} copied")
            except (ScowError, OSError) as error:
                counts.problems.append(f"{local}:{tag}: {error}")
        if settings.delete and listed:
            await self._delete_others(local, set(wanted), counts, say, dry_run)

    async def _tell(self, copier: Copier, remote: str, local: str, tag: str, counts: Counts, say: Say) -> None:
        digest = await _patiently(lambda: copier.resolve(remote, tag))
        before = await self._metadata.find_manifest(local, tag, False)
        if before is not None and before.digest == digest:
            counts.unchanged += 1
            return
        counts.tags += 1
        say(f"{local}:{tag} would be {'moved' if before is not None else 'copied'}: {digest}")

    async def _delete_others(self, local: str, wanted: set[str], counts: Counts, say: Say, dry_run: bool) -> None:
        for tag in await self._metadata.tags(local, "", -1):
            if tag in wanted:
                continue
            if dry_run:
                say(f"{local}:{tag} would be deleted")
                counts.deleted += 1
                continue
            try:
                counts.deleted += await self._metadata.delete_tag(local, tag)
                say(f"{local}:{tag} deleted")
            except TagImmutable as error:
                counts.problems.append(f"{local}:{tag}: {error}")


def rule_covers(settings: Sync, name: str) -> bool:
    """Whether an upstream's repository is one of those that a rule copies."""
    return bool(select_repositories([n for n in settings.repositories if n == name or is_pattern(n)], [name]))


async def _patiently(action: Callable[[], Awaitable[T]]) -> T:
    """Do something with an upstream that may want us to wait."""
    while True:
        try:
            return await action()
        except TooManyRequests as error:
            wait_s = error.wait_s
            if wait_s > LONGEST_WAIT_S:
                raise
        log.info("the upstream limits our requests: going on in %.0f s", wait_s)
        await asyncio.sleep(wait_s)

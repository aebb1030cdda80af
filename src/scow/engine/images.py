"""Images as people handle them: list, inspect, history, tag, remove, pull, push. Engine API, /images."""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

from msgspec import UNSET, structs

from scow.build.ignore import BadPattern, compile_name
from scow.engine import validation
from scow.engine.container import Container
from scow.engine.events import Events
from scow.engine.filters import Filters, has_labels, switch
from scow.engine.image_lookup import find_reference, get_image, tag_reference
from scow.engine.image_manifests import ImageManifests
from scow.engine.image_removal import Deletions, ImageRemoval
from scow.engine.moments import parse_moment
from scow.engine.streams import ProgressStream
from scow.errors import Internal, InvalidArgument, NotFound, Unauthorized
from scow.oci.digest import Digest
from scow.oci.image_config import ExecConfig
from scow.oci.platform import Platform, parse_platform
from scow.oci.reference import InvalidReference, Reference, is_tag, parse_reference
from scow.store.images import Image
from scow.store.store import Store
from scow.transfer.credentials import decode_registry_auth
from scow.transfer.pull import parse_created, pull, pull_all_tags
from scow.transfer.push import push, push_all_tags
from scow.transfer.registries import Registries
from scow.wire.container import GraphDriver, HealthConfig
from scow.wire.image import HistoryItem, ImageExecConfig, ImageInspect, ImageMetadata, ImageSummary, RootFS
from scow.wire.progress import ProgressMessage
from scow.wire.times import NEVER, format_datetime

FILTERS: Final = frozenset({"before", "dangling", "label", "reference", "since", "until"})

History = list[HistoryItem]


class Images:
    """The engine's images. `users` gives the containers that were made from an image."""

    def __init__(
        self,
        store: Store,
        registries: Registries,
        events: Events,
        driver: str,
        users: Callable[[Digest], Sequence[Container]],
    ) -> None:
        self._store = store
        self._registries = registries
        self._events = events
        self._driver = driver
        self._users = users
        self._manifests = ImageManifests(store, lambda id: [container.id for container in users(id)])
        self._removal = ImageRemoval(store, events, self._manifests, users)

    async def list(
        self, *, all: bool, digests: bool, shared_size: bool, filters: Filters, manifests: bool = False
    ) -> list[ImageSummary]:
        """GET /images/json: newest first."""
        validation.check_filters(filters, FILTERS)
        images = self._store.images
        dangling = switch(filters, "dangling")
        before = [get_image(images, ref) for ref in filters.get("before", ())]
        since = [get_image(images, ref) for ref in filters.get("since", ())]
        until = [parse_moment(value, time.time()) for value in filters.get("until", ())]
        patterns = _compiled(filters.get("reference", ()))
        shared = self._shared_layers() if shared_size else {}
        found: list[ImageSummary] = []
        await images.load_configs()
        for image in images.all():
            tags = [parse_reference(name) for name in images.names(image.id)]
            repo_digests = [parse_reference(name) for name in images.digests(image.id)]
            if not all and not (tags or repo_digests) and images.children(image.id):
                continue  # shown by what was made of it
            if tags if dangling else dangling is False and not (tags or repo_digests):
                continue
            if any(_created(image) >= _created(other) for other in before):
                continue
            if any(_created(image) <= _created(other) for other in since):
                continue
            if until and not any(_created(image) < moment for moment in until):
                continue
            if patterns:
                tags = [tag for tag in tags if _fits(tag, patterns)]
                repo_digests = [each for each in repo_digests if _fits(each, patterns)]
                if not tags and not repo_digests:
                    continue
            labels = await images.labels(image.id)
            if images.find(image.id) is None or not has_labels(labels, filters.get("label", ())):
                continue
            found.append(
                ImageSummary(
                    id=image.id,
                    parent_id=self._parent(image),
                    created=int(_created(image)),
                    labels=labels or None,
                    repo_digests=[each.familiar for each in repo_digests],
                    repo_tags=[tag.familiar for tag in tags],
                    size=image.size,
                    shared_size=self._shared(image, shared) if shared_size else -1,
                    containers=len(self._users(image.id)) if shared_size else -1,
                    descriptor=(await self._manifests.descriptor(image) or UNSET) if manifests else UNSET,
                    manifests=await self._manifests.summaries(image) if manifests else UNSET,
                )
            )
        return sorted(found, key=lambda each: (-each.created, each.id))

    async def inspect(self, ref: str, *, platform: Platform | None = None, manifests: bool = False) -> ImageInspect:
        """GET /images/{name}/json. Raises NoSuchImage, PlatformMissing."""
        images = self._store.images
        image = get_image(images, ref)
        variant = await self._manifests.variant(ref, image, platform)
        config = variant.config
        return ImageInspect(
            id=variant.id,
            repo_tags=[parse_reference(name).familiar for name in images.names(image.id)],
            repo_digests=[parse_reference(name).familiar for name in images.digests(image.id)],
            parent=self._parent(image),
            comment=config.comment or (config.history[-1].comment if config.history else ""),
            created=config.created or "",
            docker_version=config.docker_version,
            author=config.author,
            config=_wire_config(config.exec),
            architecture=config.architecture,
            variant=config.variant,
            os=config.os or "linux",
            os_version=config.os_version,
            size=image.size if variant.sizes is None else sum(variant.sizes),
            graph_driver=GraphDriver(name=self._driver, data=None),
            root_fs=RootFS(layers=list(config.diff_ids) or None),
            descriptor=variant.descriptor,
            manifests=await self._manifests.summaries(image) if manifests else UNSET,
            metadata=ImageMetadata(last_tag_time=format_datetime(image.tagged_at) if image.tagged_at else NEVER),
        )

    async def history(self, ref: str, platform: Platform | None = None) -> History:
        """GET /images/{name}/history: newest first; sizes are of the layers' files, of blobs if there are none."""
        images = self._store.images
        image = get_image(images, ref)
        variant = await self._manifests.variant(ref, image, platform)
        config = variant.config
        if variant.sizes is None:
            layers = [self._store.layers.find(diff_id) for diff_id in config.diff_ids]
            remaining = [layer.files_size if layer is not None else 0 for layer in layers]
        else:
            remaining = list(variant.sizes)
        items: History = []
        for step in config.history or ():
            size = remaining.pop(0) if remaining and not step.empty_layer else 0
            created = parse_created(step.created)
            items.append(
                HistoryItem(
                    comment=step.comment,
                    created=int(created.timestamp()) if created else 0,
                    created_by=step.created_by,
                    size=size,
                )
            )
        if not items:
            items.append(HistoryItem(created=int(_created(image)), size=sum(remaining)))
        tags = [parse_reference(name).familiar for name in images.names(image.id)]
        items[-1] = structs.replace(items[-1], id=variant.id, tags=tags or None)
        return items[::-1]

    async def tag(self, ref: str, repo: str, tag: str) -> None:
        """POST /images/{name}/tag. Raises NoSuchImage, InvalidArgument."""
        image = get_image(self._store.images, ref)
        reference = tag_reference(repo, tag)
        if reference is None:
            raise InvalidArgument("invalid reference format")
        tagged = structs.replace(image, tagged_at=datetime.now(UTC))
        await self._store.images.publish(tagged, name=str(reference))
        self._events.emit("image", "tag", image.id, {"name": reference.familiar})

    async def remove(self, ref: str, *, force: bool, prune: bool, platforms: Sequence[Platform] = ()) -> Deletions:
        """DELETE /images/{name}. Raises ImageInUse, NoSuchImage, PlatformMissing."""
        return await self._removal.remove(ref, force=force, prune=prune, platforms=platforms)

    async def remove_unused(self, refs: Sequence[str]) -> Deletions:
        """Remove all of these that are in no use."""
        return await self._removal.prune(refs)

    # --- transfer

    async def pull(
        self,
        from_image: str,
        tag: str | None,
        platform: str | None,
        auth: str | None,
        *,
        every_platform: bool = False,
    ) -> ProgressStream:
        """POST /images/create?fromImage=. `tag` may be a digest; without tag and digest all tags are pulled.

        `every_platform` is ours: it keeps multi-platform indexes whole.
        """
        reference = _with_tag(parse_reference(from_image), tag)
        wanted = parse_platform(platform) if platform else None
        credentials = decode_registry_auth(auth)
        pulling = pull_all_tags if reference.is_name_only else pull

        async def work(emit: Callable[..., None]) -> None:
            await pulling(
                reference,
                registries=self._registries,
                store=self._store,
                emit=emit,
                credentials=credentials,
                platform=wanted,
                every_platform=every_platform,
            )
            self._events.emit("image", "pull", reference.familiar, {"name": reference.familiar_name})

        try:
            return await ProgressStream(work).ready()
        except Unauthorized as error:
            # At a 401 docker's client asks for a login, and goes on asking if there is no terminal. dockerd says 500.
            raise Internal(str(error)) from error

    async def push(
        self, ref: str, tag: str | None, auth: str | None, platform: Platform | None = None
    ) -> ProgressStream:
        """POST /images/{name}/push; without a tag all tags of the repository are pushed."""
        reference = parse_reference(ref)
        if tag:
            reference = reference.with_tag(tag)
        credentials = decode_registry_auth(auth)
        image = None if reference.is_name_only else find_reference(self._store.images, reference)

        async def work(emit: Callable[..., None]) -> None:
            if image is None and not reference.is_name_only:
                emit(ProgressMessage(status=f"The push refers to repository [{reference.name}]"))
                if not any(parse_reference(name).name == reference.name for name in self._store.images.all_names()):
                    raise NotFound(f"An image does not exist locally with the tag: {reference.familiar_name}")
                raise NotFound(f"tag does not exist: {reference.familiar}")
            if image is not None:
                await push(
                    reference,
                    image,
                    registries=self._registries,
                    store=self._store,
                    emit=emit,
                    credentials=credentials,
                    platform=platform,
                )
            else:
                await push_all_tags(
                    reference,
                    registries=self._registries,
                    store=self._store,
                    emit=emit,
                    credentials=credentials,
                    platform=platform,
                )
            self._events.emit("image", "push", reference.familiar, {"name": reference.familiar_name})

        return await ProgressStream(work).ready()

    def _parent(self, image: Image) -> str:
        return image.parent if image.parent is not None and self._store.images.find(image.parent) else ""

    # --- sizes

    def _shared_layers(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        for image in self._store.images.all():
            for diff_id in set(image.diff_ids):
                counts[diff_id] = counts.get(diff_id, 0) + 1
        return counts

    def _shared(self, image: Image, counts: Mapping[str, int]) -> int:
        layers = (self._store.layers.find(diff_id) for diff_id in image.diff_ids if counts.get(diff_id, 0) > 1)
        return sum(layer.files_size for layer in layers if layer is not None)


def _with_tag(reference: Reference, tag: str | None) -> Reference:
    if not tag:
        return reference
    if ":" in tag:
        return parse_reference(f"{reference.name}@{tag}")
    if not is_tag(tag):
        raise InvalidReference(tag, f"invalid reference format: invalid tag {tag!r}")
    return reference.with_tag(tag)


def _created(image: Image) -> float:
    return image.created.timestamp() if image.created else 0.0


def _compiled(patterns: Sequence[str]) -> list[re.Pattern[str]]:
    try:
        return [compile_name(pattern) for pattern in patterns]
    except BadPattern as error:
        raise InvalidArgument(str(error)) from error


def _fits(reference: Reference, patterns: Sequence[re.Pattern[str]]) -> bool:
    """Match as docker does: the patterns against the familiar name, with and without tag."""
    return any(pattern.match(name) for pattern in patterns for name in (reference.familiar, reference.familiar_name))


def _wire_config(config: ExecConfig) -> ImageExecConfig:
    health = config.healthcheck
    return ImageExecConfig(
        user=config.user,
        exposed_ports=config.exposed_ports,
        env=config.env,
        entrypoint=config.entrypoint,
        cmd=config.cmd,
        healthcheck=HealthConfig(
            test=health.test,
            interval=health.interval,
            timeout=health.timeout,
            start_period=health.start_period,
            start_interval=health.start_interval,
            retries=health.retries,
        )
        if health
        else None,
        args_escaped=config.args_escaped,
        volumes=config.volumes,
        working_dir=config.working_dir,
        labels=config.labels,
        stop_signal=config.stop_signal,
        on_build=config.on_build,
        shell=config.shell,
    )

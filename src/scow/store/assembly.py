"""Putting an image together from what the store has: a base, layers on top of it, and a config.

An image that is made here has no manifest until it is pushed or saved, which write one that depends on nothing but its
content.
"""

from collections.abc import Sequence
from datetime import UTC, datetime

from msgspec import structs

from scow.oci.digest import Digest
from scow.oci.image_config import ExecConfig, History, ImageConfig, RootFS, encode_config
from scow.oci.platform import Platform
from scow.store.images import Image
from scow.store.layers import Layer
from scow.store.store import Store


def derive(
    base: ImageConfig | None,
    layers: Sequence[Layer],
    config: ExecConfig,
    *,
    platform: Platform,
    created: datetime,
    author: str = "",
    comment: str = "",
    created_by: str = "",
) -> ImageConfig:
    """The config of an image that stands on `base` (None: on nothing) and came to be in one step.

    Layers without entries are left out. `platform` is the image's if there is no base. `created` is aware.
    """
    base = base or ImageConfig(
        architecture=platform.architecture,
        os=platform.os,
        variant=platform.variant,
        os_version=platform.os_version,
        rootfs=RootFS(),
    )
    added = [layer.diff_id for layer in layers if layer.entries]
    moment = format_created(created)
    step = History(created=moment, author=author, created_by=created_by, comment=comment, empty_layer=not added)
    return structs.replace(
        base,
        created=moment,
        author=author,
        comment=comment,
        docker_version="",
        build_cache="",
        config=config,
        rootfs=RootFS(diff_ids=(*base.diff_ids, *added)),
        history=(*(base.history or ()), step),
    )


async def publish(store: Store, config: ImageConfig, name: str | None = None, parent: Digest | None = None) -> Image:
    """Make an image of `config`, whose layers are there, visible with its canonical tag. Hold a lease around it.

    `parent` is the image that it was made of, if that is to stay as long. Raises NoSuchLayer.
    """
    id = await store.content.put(encode_config(config))
    image = Image(
        id=id,
        platform=config.platform,
        parent=parent if parent != id else None,
        diff_ids=config.diff_ids,
        size=sum(store.layers.get(diff_id).files_size for diff_id in config.diff_ids),
        created=_parse(config.created),
        stored_at=datetime.now(UTC),
    )
    await store.images.publish(store.images.find(id) or image, name=name)
    return image


def format_created(moment: datetime) -> str:
    """RFC 3339 in UTC, as Go writes it: without needless digits."""
    text = moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f").rstrip("0").rstrip(".")
    return f"{text}Z"


def _parse(created: str | None) -> datetime | None:
    return None if created is None else datetime.fromisoformat(created)

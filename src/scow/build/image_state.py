"""A stage's image as it grows: layers, config and history, and the document that they make."""

import hashlib
import re
from datetime import UTC, datetime
from typing import Final

import msgspec

from scow.oci.digest import DiffID, Digest, chain_id
from scow.oci.image_config import ExecConfig, History, ImageConfig, RootFS, encode_config
from scow.oci.platform import Platform
from scow.runtime.profile import DEFAULT_PATH

_CREATED: Final = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d+))?(Z|[-+]\d\d:\d\d)")


class ImageState(msgspec.Struct, frozen=True, kw_only=True):
    """What a stage has made so far. Each step makes a new one."""

    platform: Platform
    config: ExecConfig = ExecConfig()
    diff_ids: tuple[DiffID, ...] = ()
    history: tuple[History, ...] = ()
    created: str | None = None
    author: str = ""
    based_on: Digest | None = None  # the image that FROM named, as long as nothing was added
    keys: tuple[str, ...] = ()  # of the cache's records of the steps so far
    build_cache: str = ""  # what the image tells of these, if it is to

    @property
    def chain(self) -> str:
        """Name the file system."""
        return chain_id(self.diff_ids) if self.diff_ids else ""

    def then(
        self,
        created_by: str,
        created_at: int,
        *,
        config: ExecConfig | None = None,
        diff_id: DiffID | None = None,
        comment: str = "",
        key: str = "",
    ) -> "ImageState":
        """The state after a step; `created_at` is in nanoseconds since the epoch."""
        created = format_created(created_at)
        step = History(
            created=created,
            author=self.author,
            created_by=created_by,
            comment=comment,
            empty_layer=diff_id is None,
        )
        return msgspec.structs.replace(
            self,
            config=self.config if config is None else config,
            diff_ids=self.diff_ids if diff_id is None else (*self.diff_ids, diff_id),
            history=(*self.history, step),
            created=created,
            based_on=None,
            keys=(*self.keys, key) if key else self.keys,
        )

    def image_config(self) -> ImageConfig:
        """The image's config."""
        platform = self.platform
        return ImageConfig(
            architecture=platform.architecture,
            os=platform.os,
            variant=platform.variant,
            os_version=platform.os_version,
            created=self.created,
            author=self.author,
            config=self.config,
            rootfs=RootFS(diff_ids=self.diff_ids),
            history=self.history,
            build_cache=self.build_cache,
        )

    @property
    def id(self) -> Digest:
        """The ID of the image that this state makes."""
        if self.based_on is not None:
            return self.based_on
        return Digest(f"sha256:{hashlib.sha256(encode_config(self.image_config())).hexdigest()}")


def state_of(config: ImageConfig, id: Digest) -> ImageState:
    """The state that a FROM begins with."""
    return ImageState(
        platform=config.platform,
        config=with_path(config.exec),
        diff_ids=config.diff_ids,
        history=config.history or (),
        created=config.created,
        author=config.author,
        based_on=id,
    )


def with_path(config: ExecConfig) -> ExecConfig:
    """A config whose environment has a PATH, docker's if there was none: instructions may build on it."""
    if any(each.partition("=")[0] == "PATH" for each in config.env or ()):
        return config
    return msgspec.structs.replace(config, env=[*(config.env or ()), f"PATH={DEFAULT_PATH}"])


def format_created(ns: int) -> str:
    """RFC 3339 with nanoseconds, as docker writes it."""
    moment = datetime.fromtimestamp(ns // 1_000_000_000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{ns % 1_000_000_000:09d}".rstrip("0").rstrip(".") + "Z"


def parse_created(text: str | None) -> int:
    """Nanoseconds since the epoch of a time that `format_created` or another builder wrote; 0 if it is none."""
    found = _CREATED.fullmatch(text or "")
    if found is None:
        return 0
    try:
        seconds = int(datetime.fromisoformat(f"{found[1]}{found[3].replace('Z', '+00:00')}").timestamp())
    except ValueError:
        return 0
    return seconds * 1_000_000_000 + int((found[2] or "").ljust(9, "0")[:9])

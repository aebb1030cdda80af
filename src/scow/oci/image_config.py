"""Image configs: how an image's file system is stacked and how a container of it starts. image-spec config.md."""

from typing import Any

import msgspec

from scow.errors import InvalidArgument
from scow.oci.digest import DiffID, parse_digest
from scow.oci.platform import Platform

MAX_CONFIG_SIZE = 8 << 20
"""Largest image config accepted, in bytes."""


class ConfigInvalid(InvalidArgument):
    """The document is no image config."""

    def __init__(self, why: str) -> None:
        super().__init__(f"invalid image config: {why}")


class Healthcheck(msgspec.Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    """Docker's extension of the config: how to probe a container. Durations are in nanoseconds."""

    test: list[str] | None = None
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


class ExecConfig(msgspec.Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    """Execution parameters of a container, `config` in the document. image-spec config.md#properties."""

    user: str = ""
    exposed_ports: dict[str, Any] | None = None
    env: list[str] | None = None
    entrypoint: list[str] | None = None
    cmd: list[str] | None = None
    volumes: dict[str, Any] | None = None
    working_dir: str = ""
    labels: dict[str, str] | None = None
    stop_signal: str = ""
    args_escaped: bool = False
    healthcheck: Healthcheck | None = None
    shell: list[str] | None = None
    on_build: list[str] | None = None
    stop_timeout: int | None = None
    hostname: str = ""
    domainname: str = ""


class RootFS(msgspec.Struct, frozen=True, kw_only=True):
    """The layers, base first."""

    type: str = "layers"
    diff_ids: tuple[DiffID, ...] | None = None


class History(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How one layer, or an empty one, came to be."""

    created: str | None = None
    author: str = ""
    created_by: str = ""
    comment: str = ""
    empty_layer: bool = False


class ImageConfig(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The document whose digest is the image ID. image-spec config.md."""

    architecture: str = ""
    os: str = ""
    variant: str = ""
    os_version: str = msgspec.field(name="os.version", default="")
    os_features: tuple[str, ...] | None = msgspec.field(name="os.features", default=None)
    created: str | None = None  # RFC 3339
    author: str = ""
    comment: str = ""
    docker_version: str = ""
    config: ExecConfig | None = None
    rootfs: RootFS
    history: tuple[History, ...] | None = None
    build_cache: str = msgspec.field(name="moby.buildkit.cache.v0", default="")
    """Records of a build cache, in base64, as BuildKit puts them there when asked for an inline cache."""

    @property
    def platform(self) -> Platform:
        """What the image runs on."""
        return Platform(
            os=self.os or "linux", architecture=self.architecture, variant=self.variant, os_version=self.os_version
        )

    @property
    def diff_ids(self) -> tuple[DiffID, ...]:
        """The layers' diff IDs, base first."""
        return self.rootfs.diff_ids or ()

    @property
    def exec(self) -> ExecConfig:
        """Execution parameters, empty if the document has none."""
        return self.config or ExecConfig()


def decode_config(data: bytes) -> ImageConfig:
    """Read an image config. Raises ConfigInvalid, or InvalidDigest for a bad diff ID."""
    if len(data) > MAX_CONFIG_SIZE:
        raise ConfigInvalid(f"{len(data)} bytes are more than the {MAX_CONFIG_SIZE} allowed")
    try:
        config = msgspec.json.decode(data, type=ImageConfig)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ConfigInvalid(str(error)) from error
    if config.rootfs.type != "layers":
        raise ConfigInvalid(f"rootfs type {config.rootfs.type!r} is not layers")
    for diff_id in config.diff_ids:
        parse_digest(diff_id)
    return config


def encode_config(config: ImageConfig) -> bytes:
    """Write an image config: the same bytes for the same config, whatever order its ports or labels came in."""
    return msgspec.json.encode(config, order="deterministic")

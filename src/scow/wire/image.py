"""Images on the wire."""

from collections.abc import Sequence
from typing import Any, ClassVar

from msgspec import UNSET, Struct, UnsetType, field

from scow.oci.descriptor import Descriptor
from scow.oci.platform import Platform
from scow.wire.container import ContainerConfig, GraphDriver, HealthConfig
from scow.wire.message import Message


class ManifestSize(Message, frozen=True, kw_only=True):
    """Bytes of a manifest and what it leads to: all that is here, and as content (compressed) only."""

    total: int
    content: int


class UnpackedSize(Message, frozen=True, kw_only=True):
    """Bytes of the layers that containers run on."""

    unpacked: int = 0


class ImageData(Message, frozen=True, kw_only=True):
    """What a manifest's image is for, and the IDs of its containers."""

    platform: Platform
    containers: list[str] = field(default_factory=list)
    size: UnpackedSize


class AttestationData(Message, frozen=True, kw_only=True):
    """The manifest that an attestation is about."""

    target: str = field(name="For")


class ManifestSummary(Message, frozen=True, kw_only=True):
    """One manifest of an image; `available` if all that it lists is here. `kind`: image, attestation or unknown."""

    id: str = field(name="ID")
    descriptor: Descriptor
    available: bool
    size: ManifestSize
    kind: str
    image_data: ImageData | UnsetType = UNSET
    attestation_data: AttestationData | UnsetType = UNSET


class ImageSummary(Message, frozen=True, kw_only=True):
    """One image in a list; -1 means not computed."""

    containers: int = -1
    created: int  # seconds since the epoch
    id: str
    labels: dict[str, str] | None = None
    parent_id: str = ""
    descriptor: Descriptor | UnsetType = UNSET
    manifests: list[ManifestSummary] | UnsetType = UNSET
    repo_digests: list[str] = field(default_factory=list)
    repo_tags: list[str] = field(default_factory=list)
    shared_size: int = -1
    size: int  # bytes, uncompressed


class ImageExecConfig(Message, frozen=True, kw_only=True):
    """What a container of the image runs, unless told otherwise."""

    OMIT_EMPTY: ClassVar[frozenset[str]] = frozenset(
        {"exposed_ports", "stop_signal", "args_escaped", "healthcheck", "shell"}
    )

    user: str = ""
    exposed_ports: dict[str, Any] | None = None
    env: list[str] | None = None
    entrypoint: list[str] | None = None
    cmd: list[str] | None = None
    healthcheck: HealthConfig | None = None
    args_escaped: bool = False
    volumes: dict[str, Any] | None = None
    working_dir: str = ""
    labels: dict[str, str] | None = None
    stop_signal: str = ""
    on_build: list[str] | None = None
    shell: list[str] | None = None


class RootFS(Message, frozen=True, kw_only=True):
    """The layers of an image by diff ID, base first."""

    OMIT_EMPTY: ClassVar[frozenset[str]] = frozenset({"layers"})

    type: str = "layers"
    layers: list[str] | None = None


class ImageMetadata(Message, frozen=True, kw_only=True):
    """What this engine knows beside the image itself."""

    last_tag_time: str = "0001-01-01T00:00:00Z"


class ImageInspect(Message, frozen=True, kw_only=True):
    """All that there is to know about one image."""

    OMIT_EMPTY: ClassVar[frozenset[str]] = frozenset({"created", "variant", "os_version", "descriptor"})

    id: str
    repo_tags: list[str] = field(default_factory=list)
    repo_digests: list[str] = field(default_factory=list)
    parent: str = ""
    comment: str = ""
    created: str = ""
    docker_version: str = ""
    author: str = ""
    config: ImageExecConfig | None = None
    architecture: str
    variant: str = ""
    os: str
    os_version: str = ""
    size: int
    graph_driver: GraphDriver = field(default_factory=GraphDriver)
    root_fs: RootFS = field(name="RootFS")
    metadata: ImageMetadata = field(default_factory=ImageMetadata)
    descriptor: Descriptor | None = None
    manifests: list[ManifestSummary] | UnsetType = UNSET


class HistoryItem(Message, frozen=True, kw_only=True):
    """One step of an image's making, newest first; `id` is `<missing>` where the step has no image."""

    comment: str = ""
    created: int = 0  # seconds since the epoch
    created_by: str = ""
    id: str = "<missing>"
    size: int = 0
    tags: list[str] | None = None


class DeleteItem(Message, frozen=True, kw_only=True):
    """One thing that a removal did: exactly one of the two is set."""

    untagged: str | UnsetType = UNSET
    deleted: str | UnsetType = UNSET


class PruneImagesReply(Message, frozen=True, kw_only=True):
    """The images that a prune removed, and the bytes that it freed."""

    images_deleted: list[DeleteItem] | None = None
    space_reclaimed: int = 0


class SearchResult(Message, frozen=True, kw_only=True, rename="lower"):
    """A repository that a search found."""

    star_count: int = field(name="star_count", default=0)
    is_official: bool = field(name="is_official", default=False)
    name: str = ""
    is_automated: bool = field(name="is_automated", default=False)
    description: str = ""


class DistributionInspect(Message, frozen=True, kw_only=True):
    """What a registry says about a reference."""

    descriptor: Descriptor
    platforms: list[Platform] = field(default_factory=list)


class CommitReply(Message, frozen=True, kw_only=True):
    """The answer to a commit."""

    id: str


class CommitRequest(Struct, frozen=True, kw_only=True):
    """What is asked for. `config` takes the place of the container's own, `changes` are Dockerfile instructions."""

    container: str
    repo: str = ""
    tag: str = ""
    author: str = ""
    comment: str = ""
    pause: bool = True
    config: ContainerConfig | None = None
    changes: Sequence[str] = ()


class ImportRequest(Struct, frozen=True, kw_only=True):
    """What is asked for: `source` is a URL, or `-` for what the client sends."""

    source: str
    repo: str = ""
    tag: str = ""
    message: str = ""
    platform: str = ""
    changes: Sequence[str] = ()

"""What a build works with, and what it was asked for."""

import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import msgspec

from scow.build.arguments import OF_CONTEXT, SOURCE_DATE_EPOCH
from scow.build.cache import Cache, Record
from scow.build.cache_imports import Imports
from scow.build.cache_mounts import CacheMounts
from scow.build.flights import Flights, Pace, at_once
from scow.build.git import GitAccess
from scow.build.provenance import Material
from scow.build.runner import Runner
from scow.errors import InvalidArgument
from scow.oci.image_config import ImageConfig
from scow.oci.platform import Platform
from scow.store.images import Image
from scow.store.store import Store
from scow.wire.progress import ProgressMessage


class Bases(Protocol):
    """Finds the images that FROM, COPY --from and mounts name."""

    async def find(
        self, reference: str, platform: Platform | None, emit: Callable[[ProgressMessage], None]
    ) -> tuple[Image, ImageConfig]:
        """The image, pulled if need be. Raises NotFound, PullRefused and the like."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What a client asks of a build."""

    dockerfile: str = "Dockerfile"
    build_args: Mapping[str, str] = {}
    labels: Mapping[str, str] = {}
    target: str = ""
    no_cache: bool = False
    no_cache_filter: tuple[str, ...] = ()
    squash: bool = False
    inline_cache: bool = False  # the image tells of its steps
    tells_cache: bool = False  # it does, or a cache is exported
    tells_all: bool = False  # a cache of all stages is exported
    platform: Platform | None = None
    secrets: Mapping[str, bytes] = {}
    agents: Mapping[str, Path] = {}  # sockets of SSH agents
    known_hosts: str = ""  # SSH host keys that git may trust, as lines of known_hosts
    allowed: frozenset[str] = frozenset()  # entitlements
    default_epoch: str = ""  # of the Dockerfile's own ARG SOURCE_DATE_EPOCH

    @property
    def epoch(self) -> int | None:
        """SOURCE_DATE_EPOCH: the time that everything is to have, in seconds. Raises InvalidArgument."""
        text = self.build_args.get(SOURCE_DATE_EPOCH, self.default_epoch)
        if not text or text == OF_CONTEXT:  # which is looked up when there is one
            return None
        if not (text.isascii() and text.isdigit() and len(text) < 12):
            raise InvalidArgument(f"invalid {SOURCE_DATE_EPOCH}: {text!r} is no number of seconds since 1970")
        return int(text)

    def dated(self, seconds: int | None) -> "Options":
        """The options with the context's own time as SOURCE_DATE_EPOCH, which is unset without one, as by BuildKit."""
        found = {SOURCE_DATE_EPOCH: "" if seconds is None else str(seconds)}
        return msgspec.structs.replace(self, build_args={**self.build_args, **found})

    @property
    def git_access(self) -> GitAccess:
        """What git may use when it fetches sources."""
        return GitAccess(agent=self.agents.get("default"), known_hosts=self.known_hosts, secrets=self.secrets)


class Tools:
    """What builds share."""

    def __init__(self, store: Store, cache: Cache, mounts: CacheMounts, folder: Path, run_folder: Path) -> None:
        self.store = store
        self.cache = cache
        self.mounts = mounts
        self.folder = folder  # for contexts and downloads; emptied at start
        self.run_folder = run_folder  # on a tmpfs: for secrets
        self.flights: Flights[Record] = Flights()


class Anew:
    """What a build without a cache has made: each step once, for whichever of its platforms it was."""

    def __init__(self) -> None:
        self.id = secrets.token_hex(8)
        self.records: dict[str, Record] = {}


class Build:
    """One build's means for one platform: everything that its stages need."""

    def __init__(
        self,
        tools: Tools,
        options: Options,
        runner: Runner,
        bases: Bases,
        imports: Imports | None = None,
        anew: Anew | None = None,
        pace: Pace = at_once,
    ) -> None:
        self.tools = tools
        self.options = options
        self.runner = runner
        self.bases = bases
        self.imports = imports or Imports(())
        self.anew = anew or Anew()
        self.pace = pace  # of who listens
        self.records: dict[str, Record] = {}
        """The steps that it came by so far, made or found, by their keys."""
        self.aliases: dict[str, Record] = {}
        """What its copies took of stages, by recipes: for caches that are told to others."""
        self.materials: list[Material] = []
        """What went into it from elsewhere, so far."""

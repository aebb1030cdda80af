"""Platforms, and the choice of one manifest from an index. image-spec image-index.md#platform-variants."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from scow.errors import InvalidArgument

if TYPE_CHECKING:
    from scow.oci.descriptor import Descriptor


class Platform(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an image runs on, in Go's words."""

    architecture: str
    os: str
    os_version: str = msgspec.field(name="os.version", default="")
    os_features: tuple[str, ...] = msgspec.field(name="os.features", default=())
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


_ARCHITECTURE_ALIASES: Final = {
    "x86_64": ("amd64", ""),
    "x86-64": ("amd64", ""),
    "aarch64": ("arm64", ""),
    "armhf": ("arm", "v7"),
    "armel": ("arm", "v6"),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "i386": ("386", ""),
    "i686": ("386", ""),
}
_ARCHITECTURES: Final = frozenset(
    [
        "386",
        "amd64",
        "arm",
        "arm64",
        "loong64",
        "mips",
        "mips64",
        "mips64le",
        "mipsle",
        "ppc64",
        "ppc64le",
        "riscv64",
        "s390x",
        "wasm",
    ]
)
_SYSTEMS: Final = frozenset(
    [
        "linux",
        "windows",
        "darwin",
        "freebsd",
        "netbsd",
        "openbsd",
        "solaris",
        "illumos",
        "aix",
        "android",
        "js",
        "wasip1",
    ]
)


class InvalidPlatform(InvalidArgument):
    """The text names no platform."""

    def __init__(self, text: str) -> None:
        super().__init__(f"{text[:100]!r}: unknown operating system or architecture: invalid argument")
        self.text = text


def normalize(platform: Platform) -> Platform:
    """Map aliases to Go's words and drop variants that are the default (arm64/v8, amd64/v1, arm/v7 stays)."""
    architecture, variant = platform.architecture.lower(), platform.variant.lower()
    if architecture in _ARCHITECTURE_ALIASES:
        architecture, implied = _ARCHITECTURE_ALIASES[architecture]
        variant = variant or implied
    if (architecture, variant) in {("arm64", "v8"), ("arm64", "8"), ("amd64", "v1"), ("386", "v1")}:
        variant = ""
    if architecture == "arm":
        variant = {"": "v7", "5": "v5", "6": "v6", "7": "v7", "8": "v8"}.get(variant, variant)
    system = {"macos": "darwin"}.get(platform.os.lower(), platform.os.lower())
    return Platform(
        os=system,
        architecture=architecture,
        variant=variant,
        os_version=platform.os_version,
        os_features=platform.os_features,
    )


def parse_platform(text: str) -> Platform:
    """Read `os/architecture[/variant]`, or one of the two alone: the rest is this machine's. Raises InvalidPlatform."""
    parts = text.strip().split("/")
    if not 1 <= len(parts) <= 3 or not all(part.replace("_", "").replace("-", "").isalnum() for part in parts):
        raise InvalidPlatform(text)
    if len(parts) == 1:
        word = parts[0].lower()
        if word in _SYSTEMS:
            host = host_platform()
            return Platform(os=word, architecture=host.architecture, variant=host.variant)
        found = normalize(Platform(os="linux", architecture=word))
        if found.architecture not in _ARCHITECTURES:
            raise InvalidPlatform(text)
        return found
    found = normalize(Platform(os=parts[0], architecture=parts[1], variant=parts[2] if len(parts) == 3 else ""))
    if found.os not in _SYSTEMS or found.architecture not in _ARCHITECTURES:
        raise InvalidPlatform(text)
    return found


def host_platform() -> Platform:
    """The platform of this machine."""
    return normalize(Platform(os="linux", architecture=os.uname().machine))


def candidates(wanted: Platform) -> list[Platform]:
    """What runs on `wanted`, best first: lower variants of arm and amd64, 32 bit arm on arm64."""
    wanted = normalize(wanted)

    def of(architecture: str, *variants: str) -> list[Platform]:
        return [Platform(os=wanted.os, architecture=architecture, variant=variant) for variant in variants]

    def down(top: str, bottom: int) -> list[str]:
        return [f"v{level}" for level in range(int(top[1:]), bottom - 1, -1)]

    numbered = wanted.variant[:1] == "v" and wanted.variant[1:].isdigit()
    if wanted.architecture == "arm" and numbered:
        return of("arm", *down(wanted.variant, 5))
    if wanted.architecture == "amd64" and numbered:
        return [*of("amd64", *down(wanted.variant, 2)), *of("amd64", "")]
    if wanted.architecture == "arm64":
        own = of("arm64", wanted.variant, "") if wanted.variant else of("arm64", "")
        return [*own, *of("arm", *down("v8", 5))]
    return of(wanted.architecture, wanted.variant)


def satisfies(offered: Platform, wanted: Platform) -> bool:
    """Tell whether an image for `offered` is an acceptable answer to a request for `wanted`."""
    offered = normalize(offered)
    return any(
        (offered.os, offered.architecture, offered.variant) == (one.os, one.architecture, one.variant)
        for one in candidates(wanted)
    )


def select(descriptors: Sequence["Descriptor"], wanted: Platform) -> "Descriptor | None":
    """The descriptor whose platform fits `wanted` best; the first of equals, as the specification asks.

    Descriptors without a platform, and attestations (platform unknown/unknown), are never chosen.
    """
    offers = [(normalize(each.platform), each) for each in descriptors if each.platform is not None]
    for candidate in candidates(wanted):
        key = (candidate.os, candidate.architecture, candidate.variant)
        for platform, descriptor in offers:
            if (platform.os, platform.architecture, platform.variant) == key:
                return descriptor
    return None

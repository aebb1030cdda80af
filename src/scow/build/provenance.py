"""`--provenance`: how an image came to be, as SLSA has it: what was asked for, what went in, when, and by whom.

https://slsa.dev/spec/v1.0/provenance, and v0.2 on request. The values of secrets are in neither; those of build
arguments, labels and the Dockerfile only with `mode=max`.
"""

import base64
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from scow import __version__
from scow.build.attestation import STATEMENT_V0, STATEMENT_V1, Predicate
from scow.errors import InvalidArgument
from scow.oci.platform import Platform

BUILD_TYPE: Final = "urn:scow:build:dockerfile:v1"
SLSA_V1: Final = "https://slsa.dev/provenance/v1"
SLSA_V0: Final = "https://slsa.dev/provenance/v0.2"
_OPTIONS: Final = ("mode", "version", "builder-id", "reproducible", "inline-only")


class Material(msgspec.Struct, frozen=True, kw_only=True):
    """Something that went into a build: an image, a file from a URL, a repository."""

    uri: str
    algorithm: str
    digest: str  # hexadecimal


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a build when it has ended. Times are seconds since the epoch, None: not to be told."""

    source: Material | None  # a context that isn't the client's
    dockerfile: str  # its name
    content: bytes  # of the Dockerfile
    target: str
    build_args: Mapping[str, str]
    labels: Mapping[str, str]
    secrets: Sequence[str]  # their names
    agents: Sequence[str]
    platform: Platform
    builder: Platform
    materials: Sequence[Material]
    steps: Sequence[str]  # the image's history
    invocation: str
    started_at: float | None
    ended_at: float | None


def check_options(options: Mapping[str, str]) -> None:
    """Raise InvalidArgument for options that `--provenance` doesn't have, or values that make no sense."""
    for name in options:
        if name not in _OPTIONS:
            raise InvalidArgument(f"provenance has no option {name!r}: it has {', '.join(_OPTIONS)}")
    if options.get("mode", "min") not in ("min", "max"):
        raise InvalidArgument(f"invalid provenance mode {options['mode']!r}: it is min or max")
    if options.get("version", "v1") not in ("v0.2", "v1"):
        raise InvalidArgument(f"invalid provenance version {options['version']!r}: it is v0.2 or v1")


def make_provenance(facts: Facts, options: Mapping[str, str]) -> Predicate:
    """The statement's predicate. The options are checked already."""
    full = options.get("mode") == "max"
    source: dict[str, Any] = {"path": facts.dockerfile}
    if facts.source is not None:
        source = {"uri": facts.source.uri, "digest": _digest(facts.source), **source}
    parameters: dict[str, Any] = {"frontend": "dockerfile.v0", "args": _arguments(facts, full)}
    if facts.secrets:
        parameters["secrets"] = [{"id": name, "optional": True} for name in sorted(facts.secrets)]
    if facts.agents:
        parameters["ssh"] = [{"id": name, "optional": True} for name in sorted(facts.agents)]
    materials = [{"uri": each.uri, "digest": _digest(each)} for each in _all(facts)]
    reproducible = options.get("reproducible", "").lower() in ("true", "1")
    inside: dict[str, Any] = {"builderPlatform": str(facts.builder)}
    if full:
        inside["buildConfig"] = {
            "source": {"filename": facts.dockerfile, "data": base64.b64encode(facts.content).decode()},
            "steps": list(facts.steps),
        }
    times = {"started": facts.started_at, "finished": facts.ended_at}
    builder = options.get("builder-id", "")
    if options.get("version") == "v0.2":
        return Predicate(
            type=SLSA_V0,
            file="provenance.json",
            statement=STATEMENT_V0,
            value={
                "builder": {"id": builder},
                "buildType": BUILD_TYPE,
                "materials": materials,
                "invocation": {
                    "configSource": {("entryPoint" if key == "path" else key): value for key, value in source.items()},
                    "parameters": parameters,
                    "environment": {"platform": str(facts.builder)},
                },
                **({"buildConfig": inside["buildConfig"]} if full else {}),
                "metadata": {
                    "buildInvocationID": facts.invocation,
                    **{f"build{name.title()}On": _time(at) for name, at in times.items() if at is not None},
                    "completeness": {"parameters": full, "environment": True, "materials": False},
                    "reproducible": reproducible,
                },
            },
        )
    return Predicate(
        type=SLSA_V1,
        file="provenance.json",
        statement=STATEMENT_V1,
        value={
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {"configSource": source, "request": parameters},
                "internalParameters": inside,
                "resolvedDependencies": materials,
            },
            "runDetails": {
                "builder": {"id": builder, "version": {"scow": __version__}},
                "metadata": {
                    "invocationId": facts.invocation,
                    **{f"{name}On": _time(at) for name, at in times.items() if at is not None},
                    "scow_completeness": {"request": full, "resolvedDependencies": False},
                    "scow_reproducible": reproducible,
                },
            },
        },
    )


def _all(facts: Facts) -> list[Material]:
    """The materials, each once, the context first."""
    first = [facts.source] if facts.source is not None else []
    return list(dict.fromkeys([*first, *sorted(facts.materials, key=lambda each: each.uri)]))


def _arguments(facts: Facts, full: bool) -> dict[str, str]:
    found = {"filename": facts.dockerfile, "platform": str(facts.platform)}
    if facts.target:
        found["target"] = facts.target
    if full:
        found |= {f"build-arg:{name}": value for name, value in sorted(facts.build_args.items())}
        found |= {f"label:{name}": value for name, value in sorted(facts.labels.items())}
    return found


def _digest(material: Material) -> dict[str, str]:
    return {material.algorithm: material.digest}


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")

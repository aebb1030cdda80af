"""`scow build` and `scow builder prune`: images from Dockerfiles."""

from __future__ import annotations

import sys

from scow.cli.build_inputs import GIT, CacheTarget, open_session, send_caches, send_contexts
from scow.cli.build_outputs import check_made, deliver, metadata_of, output_query, outputs_of, push
from scow.cli.build_progress import draws, show_build
from scow.cli.command import Command
from scow.cli.commands.prune import confirm
from scow.cli.container_flags import parse_bytes
from scow.cli.contexts import Packed, pack_folder, read_stream
from scow.cli.credentials import all_credentials, encode_header
from scow.cli.errors import CliError, Exit
from scow.cli.flags import Flag, Options
from scow.cli.http import HttpError, quote
from scow.cli.jsontext import dumps
from scow.cli.key_agents import KeyAgents
from scow.cli.listing import encode_filters, parse_filter
from scow.cli.names import parse_name
from scow.cli.progress import ProgressView
from scow.cli.units import human_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any, TextIO

    from scow.cli.build_outputs import Output
    from scow.cli.http import Response
    from scow.cli.session import Session

PROGRESS = ("auto", "plain", "quiet", "rawjson", "tty")
CALLS = ("build", "check", "outline", "targets")
PIECE = 1 << 20


def build(session: Session, options: Options) -> None:
    """Build an image, and put it where it is wanted."""
    with KeyAgents() as keys:
        _build(session, options, keys)


def _build(session: Session, options: Options, keys: KeyAgents) -> None:
    outputs = outputs_of(options)
    _check(options)
    quiet = options.flag("quiet") or options.text("progress") == "quiet"
    place = options.args[0]
    query = [*_query(session, options, quiet), *output_query(options, outputs)]
    out = sys.stderr if any(output.to_stdout for output in outputs) else sys.stdout
    if not quiet and (options.text("progress") == "rawjson" or draws(out, options.text("progress"))):
        query.append("trace=1")
    if _is_remote(place):
        query.append(f"remote={quote(place)}")
    packed = _packed(place, options.text("file"))
    if packed.dockerfile or options.text("file") not in ("", "-"):
        query.append(f"dockerfile={quote(packed.dockerfile or options.text('file'))}")
    if given := open_session(session, options, keys):
        query.append(f"session={quote(given)}")
    if contexts := send_contexts(session, options.texts("build-context")):
        query.append(f"buildcontexts={quote(dumps(contexts))}")
    if sources := send_caches(session, options.texts("cache-from")):
        query.append(f"cachefrom={quote(dumps(sources))}")
    cache_targets = [CacheTarget(text) for text in options.texts("cache-to")]
    if cache_targets:
        query.append(f"cacheto={quote(dumps([target.spec for target in cache_targets]))}")
    if options.flag("compress"):
        packed = Packed(_compressed(packed.pieces), packed.dockerfile)
    headers = {"Content-Type": "application/x-tar"}
    if found := all_credentials(session.config, session.environment):
        headers["X-Registry-Config"] = encode_header(found)
    sys.stdout.flush()
    call, as_json = _call(options)
    checking = call != "build"
    if checking:
        query.append(f"call={call}")
    path = "/scow/build/check" if checking else "/build"
    response = session.engine.open("POST", f"{path}?{'&'.join(query)}", headers=headers, data=packed.pieces)
    if checking:
        _show_findings(session, response, as_json)
        return
    made = show_build(out, response.messages(), quiet, options.text("progress"))
    session.engine.done(response)
    for target in cache_targets:
        target.fetch(session)
    _hand_over(session, options, made, outputs, out, quiet)


def _check(options: Options) -> None:
    if options.text("progress") not in PROGRESS:
        raise CliError(f"invalid progress mode {options.text('progress')!r}: one of {', '.join(PROGRESS)}")
    if options.text("isolation") not in ("", "default"):
        raise CliError(f"invalid isolation {options.text('isolation')!r} on linux")


def _is_remote(place: str) -> bool:
    return bool(GIT.match(place)) or place.startswith(("http://", "https://"))


def _packed(place: str, dockerfile: str) -> Packed:
    """The context to send: nothing for what the engine fetches."""
    if _is_remote(place):
        return Packed(iter(()), "")
    if place != "-":
        return pack_folder(place, dockerfile, sys.stdin.buffer.read() if dockerfile == "-" else None)
    if dockerfile == "-":
        raise CliError("invalid argument: can't use stdin for both build context and dockerfile")
    return read_stream(sys.stdin.buffer)


def _hand_over(
    session: Session, options: Options, made: dict[str, Any], outputs: list[Output], out: TextIO, quiet: bool
) -> None:
    """Bring what was built where it is wanted: files, registries, the ID on the screen."""
    from io import StringIO

    if options.text("iidfile"):
        _write(options.text("iidfile"), str(made.get("ID", "")).encode())
    check_made(made, options, outputs)
    deliver(session, made, options.texts("tag"), outputs)
    names = [*options.texts("tag"), *(name for output in outputs for name in output.names)]
    pushed = push(session, names, outputs, StringIO() if quiet else out)
    if options.text("metadata-file"):
        metadata = metadata_of(made, options.texts("tag"), outputs, pushed)
        _write(options.text("metadata-file"), dumps(metadata).encode())
    if quiet:
        print(made.get("ID", ""), file=out)


def _compressed(pieces: Iterable[bytes]) -> Iterator[bytes]:
    from zlib import DEFLATED, compressobj

    packer = compressobj(6, DEFLATED, 31)  # 31: with gzip's header
    for piece in pieces:
        if data := packer.compress(piece):
            yield data
    yield packer.flush()


def _query(session: Session, options: Options, quiet: bool) -> list[str]:
    words = [f"t={quote(_checked(name))}" for name in options.texts("tag")]
    values: dict[str, object] = {
        "q": "1" if quiet else "",
        "nocache": "1" if options.flag("no-cache") else "",
        "pull": "1" if options.flag("pull") else "",
        "squash": "1" if options.flag("squash") else "",
        "rm": "" if options.flag("rm") else "0",
        "forcerm": "1" if options.flag("force-rm") else "",
        "memory": options.number("memory") or "",
        "memswap": options.number("memory-swap") or "",
        "cpushares": options.number("cpu-shares") or "",
        "cpuperiod": options.number("cpu-period") or "",
        "cpuquota": options.number("cpu-quota") or "",
        "shmsize": options.number("shm-size") or "",
        "cpusetcpus": options.text("cpuset-cpus"),
        "cpusetmems": options.text("cpuset-mems"),
        "cgroupparent": options.text("cgroup-parent"),
        "networkmode": "" if options.text("network") == "default" else options.text("network"),
        "target": options.text("target"),
        "platform": ",".join(options.texts("platform")) or session.environment.get("DOCKER_DEFAULT_PLATFORM", ""),
    }
    words += [f"{name}={quote(str(value))}" for name, value in values.items() if value != ""]
    words += [f"extrahosts={quote(host.replace('=', ':', 1))}" for host in options.texts("add-host")]
    words += [f"securityopt={quote(text)}" for text in options.texts("security-opt")]
    words += [f"allow={quote(text)}" for text in options.texts("allow")]
    words += [f"nocachefilter={quote(text)}" for text in options.texts("no-cache-filter")]
    arguments: dict[str, str | None] = {}
    if "SOURCE_DATE_EPOCH" in session.environment:
        arguments["SOURCE_DATE_EPOCH"] = session.environment["SOURCE_DATE_EPOCH"]
    for text in options.texts("build-arg"):
        name, equals, value = text.partition("=")
        arguments[name] = value if equals else session.environment.get(name)
    arguments = {**session.proxies, **arguments}
    if arguments:
        words.append(f"buildargs={quote(dumps(arguments))}")
    if labels := dict(text.partition("=")[::2] for text in options.texts("label")):
        words.append(f"labels={quote(dumps(labels))}")
    if ulimits := [_ulimit(text) for text in options.texts("ulimit")]:
        words.append(f"ulimits={quote(dumps(ulimits))}")
    return words


def _checked(name: str) -> str:
    parse_name(name)
    return name


def _ulimit(text: str) -> dict[str, object]:
    name, _, limits = text.partition("=")
    soft, _, hard = limits.partition(":")
    try:
        return {"Name": name, "Soft": int(soft), "Hard": int(hard or soft)}
    except ValueError:
        raise CliError(f"invalid ulimit argument: {text}") from None


def _write(path: str, data: bytes) -> None:
    try:
        with open(path, "wb") as file:
            file.write(data)
    except OSError as error:
        raise CliError(f"open {path}: {(error.strerror or str(error)).lower()}") from None


def _call(options: Options) -> tuple[str, bool]:
    """What is to be done with the Dockerfile, and whether that is to be told as JSON. Raises CliError."""
    call, _, attribute = options.text("call").partition(",")
    if call == "lint":
        call = "check"
    if call not in CALLS:
        raise CliError(f"unknown call {call!r}: one of {', '.join(CALLS)}")
    if attribute not in ("", "format=json", "format=text"):
        raise CliError(f"invalid call {options.text('call')!r}: only format=json may follow")
    return ("check" if options.flag("check") else call), attribute == "format=json"


def _show_findings(session: Session, response: Response, as_json: bool) -> None:
    """Show what checks found, or the Dockerfile offers; raises Exit with 1 if checks found anything."""
    from io import StringIO

    view = ProgressView(StringIO() if as_json else sys.stdout, False)
    try:
        view.show_all(response.messages())
    except HttpError as error:
        raise CliError(str(error)) from None
    session.engine.done(response)
    if as_json:
        for found in view.auxiliary:
            session.print(dumps(found.get("Outline") or found))
    if any(found.get("Findings") for found in view.auxiliary):
        raise Exit(1)


def prune(session: Session, options: Options) -> None:
    """Remove build cache."""
    every = options.flag("all")
    confirm(
        options,
        "WARNING! This will remove all build cache."
        if every
        else "WARNING! This will remove all dangling build cache.",
        "build cache",
    )
    query = {"all": "1"} if every else {}
    if encoded := encode_filters(options.texts("filter")):
        query["filters"] = encoded
    if options.number("keep-storage"):
        query["keep-storage"] = str(options.number("keep-storage"))
    answer = session.engine.post("/build/prune", query)
    if answer.get("CachesDeleted"):
        session.print("Deleted build cache objects:")
        session.print("\n".join(answer["CachesDeleted"]))
        session.print("")
    session.print(f"Total reclaimed space: {human_size(answer.get('SpaceReclaimed') or 0, 4)}")


COMMANDS = {
    "build": Command(
        build,
        "PATH | URL | -",
        (
            Flag("add-host", "", "list", 'Add a custom host-to-IP mapping ("host:ip")'),
            Flag(
                "allow",
                "",
                "list",
                'Allow extra privileged entitlement (e.g., "network.host", "security.insecure")',
            ),
            Flag("annotation", "", "list", "Add annotation to the image"),
            Flag("attest", "", "list", 'Attestation parameters (format: "type=sbom")'),
            Flag("build-arg", "", "list", "Set build-time variables"),
            Flag("build-context", "", "list", 'Additional build contexts (e.g., "name=path")'),
            Flag(
                "cache-from",
                "",
                "list",
                'External cache sources (e.g., "user/app:cache", "type=local,src=path/to/dir")',
            ),
            Flag(
                "cache-to",
                "",
                "list",
                'Cache export destinations (e.g., "type=registry,ref=user/app:cache", "type=local,dest=path/to/dir")',
            ),
            Flag("cgroup-parent", "", "string", 'Set the parent cgroup for the "RUN" instructions during build'),
            Flag(
                "call",
                "",
                "string",
                'Set method for evaluating build ("check", "outline", "targets")',
                default="build",
                shown='"build"',
            ),
            Flag("check", "", "bool", "Check the Dockerfile, and build nothing"),
            Flag("compress", "", "bool", "Compress the build context using gzip"),
            Flag("cpu-period", "", "int", "Limit the CPU CFS (Completely Fair Scheduler) period"),
            Flag("cpu-quota", "", "int", "Limit the CPU CFS (Completely Fair Scheduler) quota"),
            Flag("cpu-shares", "c", "int", "CPU shares (relative weight)"),
            Flag("cpuset-cpus", "", "string", "CPUs in which to allow execution (0-3, 0,1)"),
            Flag("cpuset-mems", "", "string", "MEMs in which to allow execution (0-3, 0,1)"),
            Flag(
                "disable-content-trust",
                "",
                "bool",
                "Skip image verification",
                default=True,
                shown="true",
            ),
            Flag("file", "f", "string", 'Name of the Dockerfile (Default is "PATH/Dockerfile")'),
            Flag("force-rm", "", "bool", "Always remove intermediate containers"),
            Flag("iidfile", "", "string", "Write the image ID to the file"),
            Flag("isolation", "", "string", "Container isolation technology"),
            Flag("label", "", "list", "Set metadata for an image"),
            Flag("load", "", "bool", 'Shorthand for "--output=type=docker"'),
            Flag("memory", "m", "bytes", "Memory limit", convert=parse_bytes),
            Flag(
                "memory-swap",
                "",
                "bytes",
                "Swap limit equal to memory plus swap: -1 to enable unlimited swap",
                convert=parse_bytes,
            ),
            Flag("metadata-file", "", "string", "Write build result metadata to a file"),
            Flag(
                "network",
                "",
                "string",
                "Set the networking mode for the RUN instructions during build",
                default="default",
                shown='"default"',
            ),
            Flag("no-cache", "", "bool", "Do not use cache when building the image"),
            Flag("no-cache-filter", "", "strings", "Do not cache specified stages"),
            Flag("output", "o", "list", 'Output destination (format: "type=local,dest=path")'),
            Flag("platform", "", "strings", "Set target platforms of the build"),
            Flag("provenance", "", "string", 'Shorthand for "--attest=type=provenance"'),
            Flag(
                "progress",
                "",
                "string",
                'Set type of progress output ("auto", "plain", "tty", "quiet", "rawjson")',
                default="auto",
                shown='"auto"',
            ),
            Flag("pull", "", "bool", "Always attempt to pull a newer version of the image"),
            Flag("push", "", "bool", 'Shorthand for "--output=type=registry"'),
            Flag("quiet", "q", "bool", "Suppress the build output and print image ID on success"),
            Flag(
                "rm", "", "bool", "Remove intermediate containers after a successful build", default=True, shown="true"
            ),
            Flag("sbom", "", "string", 'Shorthand for "--attest=type=sbom"'),
            Flag("secret", "", "list", 'Secret to expose to the build (format: "id=mysecret[,src=/local/secret]")'),
            Flag("security-opt", "", "list", "Security options"),
            Flag("shm-size", "", "bytes", 'Size of "/dev/shm"', convert=parse_bytes),
            Flag("squash", "", "bool", "Squash newly built layers into a single new layer"),
            Flag(
                "ssh",
                "",
                "list",
                'SSH agent socket or keys to expose to the build (format: "default|<id>[=<socket>|<key>[,<key>]]")',
            ),
            Flag("tag", "t", "list", 'Name and optionally a tag (format: "name:tag")'),
            Flag("target", "", "string", "Set the target build stage to build"),
            Flag("ulimit", "", "list", "Ulimit options"),
        ),
        1,
        1,
    ),
    "prune": Command(
        prune,
        "",
        (
            Flag("all", "a", "bool", "Remove all unused build cache, not just dangling ones"),
            Flag("filter", "", "filter", 'Provide filter values (e.g. "until=24h")', convert=parse_filter, many=True),
            Flag("force", "f", "bool", "Do not prompt for confirmation"),
            Flag("keep-storage", "", "bytes", "Amount of disk space to keep for cache", convert=parse_bytes),
        ),
        0,
        0,
    ),
}

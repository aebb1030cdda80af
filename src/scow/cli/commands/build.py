"""`scow build` and `scow builder prune`: images from Dockerfiles."""

from __future__ import annotations

import os
import sys

from scow.cli.build_inputs import GIT, CacheTarget, fields_of, open_session, send_caches, send_contexts
from scow.cli.build_view import BuildView
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
from scow.cli.pulling import registry_header
from scow.cli.units import human_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from scow.cli.http import Response
    from scow.cli.session import Session

OUTPUT_TYPES = ("image", "docker", "oci", "local", "tar", "registry")
PROGRESS = ("auto", "plain", "quiet", "rawjson", "tty")
PIECE = 1 << 20


def build(session: Session, options: Options) -> None:
    """Build an image, and put it where it is wanted."""
    with KeyAgents() as keys:
        _build(session, options, keys)


def _build(session: Session, options: Options, keys: KeyAgents) -> None:
    outputs = [_parse_output(text) for text in options.texts("output")]
    if options.text("progress") not in PROGRESS:
        raise CliError(f"invalid progress mode {options.text('progress')!r}: one of {', '.join(PROGRESS)}")
    quiet = options.flag("quiet") or options.text("progress") == "quiet"
    place = options.args[0]
    query = _query(session, options, quiet)
    packed = Packed(iter(()), "")
    if GIT.match(place) or place.startswith(("http://", "https://")):
        query.append(f"remote={quote(place)}")
    elif place == "-":
        if options.text("file") == "-":
            raise CliError("invalid argument: can't use stdin for both build context and dockerfile")
        packed = read_stream(sys.stdin.buffer)
    else:
        text = sys.stdin.buffer.read() if options.text("file") == "-" else None
        packed = pack_folder(place, options.text("file"), text)
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
    checking = options.flag("check")
    path = "/scow/build/check" if checking else "/build"
    response = session.engine.open("POST", f"{path}?{'&'.join(query)}", headers=headers, data=packed.pieces)
    if checking:
        _show_findings(session, response)
        return
    id = _show(session, response.messages(), quiet, options.text("progress"))
    session.engine.done(response)
    for target in cache_targets:
        target.fetch(session)
    if options.text("iidfile"):
        _write(options.text("iidfile"), id.encode())
    if options.text("metadata-file"):
        metadata = {"containerimage.config.digest": id, "image.name": ",".join(options.texts("tag"))}
        _write(options.text("metadata-file"), dumps(metadata).encode())
    for output in outputs:
        _deliver(session, id, options.texts("tag"), output)
    if options.flag("push") or any(output["type"] == "registry" for output in outputs):
        _push(session, options.texts("tag"))
    if quiet:
        session.print(id)


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
        "platform": options.text("platform") or session.environment.get("DOCKER_DEFAULT_PLATFORM", ""),
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


def _show(session: Session, messages: Iterator[dict[str, Any]], quiet: bool, progress: str) -> str:
    """Show the progress; the image's ID. Raises CliError with the exit code of a command that failed."""
    id = ""
    raw = progress == "rawjson"
    view = ProgressView(sys.stdout, sys.stdout.isatty())
    drawn = None
    if not quiet and (progress == "tty" or (progress == "auto" and sys.stdout.isatty())):
        drawn = BuildView(sys.stdout, _columns())
    try:
        for message in messages:
            found = message.get("aux")
            if isinstance(found, dict) and found.get("ID"):
                id = str(found["ID"])
            if raw:
                session.print(dumps(message))
                if message.get("errorDetail"):
                    view.show(message)
            elif drawn and not message.get("error"):
                drawn.show(message)
            elif quiet and message.get("stream"):
                id = str(message["stream"]).strip()
            elif not quiet or message.get("error"):
                view.show(message)
    except BaseException as error:
        if drawn:
            drawn.close(failed=True)
        if isinstance(error, HttpError):
            raise CliError(str(error)) from None
        raise
    if drawn:
        drawn.close()
    sys.stdout.flush()
    return id


def _columns() -> int:
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or 80
    except OSError:
        return 80


def _show_findings(session: Session, response: Response) -> None:
    """Show what checks found; raises Exit with 1 if that is anything."""
    view = ProgressView(sys.stdout, False)
    try:
        view.show_all(response.messages())
    except HttpError as error:
        raise CliError(str(error)) from None
    session.engine.done(response)
    if any(found.get("Findings") for found in view.auxiliary):
        raise Exit(1)


# --- where the image goes


def _parse_output(text: str) -> dict[str, str]:
    fields = fields_of(text)
    if "type" not in fields and "=" not in text:
        fields = {"type": "tar", "dest": "-"} if text == "-" else {"type": "local", "dest": text}
    kind = fields.get("type", "")
    if kind not in OUTPUT_TYPES:
        raise CliError(
            f"type is required for output: one of {', '.join(OUTPUT_TYPES)}"
            if not kind
            else f"unsupported output type {kind!r}"
        )
    if kind in ("local", "tar", "oci") and not fields.get("dest"):
        raise CliError(f"dest is required for {kind} output")
    return fields


def _deliver(session: Session, id: str, tags: list[str], output: dict[str, str]) -> None:
    kind, destination = output["type"], output.get("dest", "")
    if kind in ("docker", "oci") and destination:
        names = "&".join(f"names={quote(name)}" for name in tags or [id])
        _copy_out(session, f"/images/get?{names}", destination)
    elif kind in ("local", "tar"):
        made = session.engine.post("/containers/create", body={"Image": id, "Cmd": ["-"], "NetworkDisabled": True})
        try:
            path = f"/containers/{made['Id']}/export"
            if kind == "tar":
                _copy_out(session, path, destination)
            else:
                from scow.cli.archives import Pieces, unpack

                os.makedirs(destination, exist_ok=True)
                response = session.engine.open("GET", path)
                unpack(Pieces(response.pieces()), destination, "", "")
                session.engine.done(response)
        finally:
            session.engine.call("DELETE", f"/containers/{made['Id']}", {"force": "1", "v": "1"})


def _copy_out(session: Session, path: str, destination: str) -> None:
    response = session.engine.open("GET", path)
    try:
        if destination == "-":
            sys.stdout.flush()
            response.copy_to(1)
        else:
            with open(destination, "wb") as file:
                response.copy_to(file.fileno())
    except OSError as error:
        raise CliError(f"open {destination}: {(error.strerror or str(error)).lower()}") from None
    except HttpError as error:
        raise CliError(str(error)) from None
    session.engine.done(response)


def _push(session: Session, tags: list[str]) -> None:
    if not tags:
        raise CliError("tag is needed when pushing to registry")
    for tag in tags:
        name = parse_name(tag, default_tag=True)
        path = f"/images/{quote(name.full, '/:')}/push"
        response = session.engine.open("POST", path, {"tag": name.tag}, headers=registry_header(session, name))
        ProgressView(sys.stdout, sys.stdout.isatty()).show_all(response.messages())
        session.engine.done(response)


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
            Flag("label", "", "list", "Set metadata for an image"),
            Flag("load", "", "bool", "Keep the image in the engine, as it always does", hidden=True),
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
            Flag("platform", "", "string", "Set platform if server is multi-platform capable"),
            Flag(
                "progress",
                "",
                "string",
                'Set type of progress output ("auto", "plain", "tty", "quiet", "rawjson")',
                default="auto",
                shown='"auto"',
            ),
            Flag("pull", "", "bool", "Always attempt to pull a newer version of the image"),
            Flag("push", "", "bool", "Push the image to its registry when it is built"),
            Flag("quiet", "q", "bool", "Suppress the build output and print image ID on success"),
            Flag(
                "rm", "", "bool", "Remove intermediate containers after a successful build", default=True, shown="true"
            ),
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

"""`scow manifest create`, `annotate`, `push` and `rm`: lists of images for several platforms, put together by hand."""

from __future__ import annotations

from scow.cli.command import Command
from scow.cli.commands.manifest import described, fetch
from scow.cli.errors import CliError, EngineError
from scow.cli.flags import Flag, Options
from scow.cli.http import quote
from scow.cli.jsontext import loads
from scow.cli.manifest_lists import ManifestLists, document, parse_list_name
from scow.cli.names import parse_name
from scow.cli.pulling import registry_header

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from scow.cli.names import Name
    from scow.cli.session import Session

SYSTEMS = frozenset(("aix", "android", "darwin", "dragonfly", "freebsd", "illumos", "linux", "netbsd", "openbsd"))
SYSTEMS |= {"plan9", "solaris", "wasip1", "windows"}
ARCHITECTURES = frozenset(("386", "amd64", "arm", "arm64", "loong64", "mips", "mips64", "mips64le", "mipsle", "ppc64"))
ARCHITECTURES |= {"ppc64le", "riscv64", "s390x", "wasm"}
INSECURE = Flag("insecure", "", "bool", "Allow communication with an insecure registry")


def create(session: Session, options: Options) -> None:
    """Begin a list of images that are in a registry."""
    name, lists = parse_list_name(options.args[0]), ManifestLists(session.config.folder)
    if lists.exists(name) and not options.flag("amend"):
        raise CliError("refusing to amend an existing manifest list with no --amend flag")
    found = []
    for text in options.args[1:]:
        source = parse_name(text, default_tag=True)
        found.append((source, _manifest(session, source)))
    for source, content in found:
        lists.put(name, source, content)
    session.print(f"Created manifest list {name}")


def _manifest(session: Session, source: Name) -> dict[str, Any]:
    """An image's manifest as a list keeps it, with the platform that the image's config names."""
    try:
        text, media_type, digest = fetch(session, source, str(source))
    except EngineError as error:
        if error.status == 404:
            raise CliError(f"no such manifest: {source.familiar}") from None
        raise
    content = loads(text)
    if "manifests" in content:
        raise CliError(f"{source.familiar} is a manifest list")
    found = described(source.familiar, text, media_type, digest, content)
    path = f"/distribution/{quote(f'{source.full}@{digest}', '/:@')}/json"
    platforms = session.engine.call("GET", path, headers=registry_header(session, source)).get("Platforms") or [{}]
    found["Descriptor"]["platform"] = platforms[0]
    return found


def annotate(session: Session, options: Options) -> None:
    """Say for which platform a manifest of a list is."""
    name, lists = parse_list_name(options.args[0]), ManifestLists(session.config.folder)
    source = parse_name(options.args[1], default_tag=True)
    content = lists.find(name, source)
    if content is None:
        raise CliError(f"manifest for image {options.args[1]} does not exist in {options.args[0]}")
    platform = dict(content["Descriptor"].get("platform") or {})
    for flag, key in (("os", "os"), ("arch", "architecture"), ("variant", "variant"), ("os-version", "os.version")):
        if options.text(flag):
            platform[key] = options.text(flag)
    if options.texts("os-features"):
        platform["os.features"] = options.texts("os-features")
    pair = f"{platform.get('os', '')}/{platform.get('architecture', '')}"
    if platform.get("os") not in SYSTEMS or platform.get("architecture") not in ARCHITECTURES:
        raise CliError(f"manifest entry for image has unsupported os/arch combination: {pair}")
    order = ("architecture", "os", "os.version", "os.features", "variant")
    content["Descriptor"]["platform"] = {key: platform[key] for key in order if platform.get(key)}
    lists.put(name, source, content)


def push(session: Session, options: Options) -> None:
    """Bring a list into a registry, by way of the engine."""
    name, lists = parse_list_name(options.args[0]), ManifestLists(session.config.folder)
    if not lists.exists(name):
        raise CliError(f"No such manifest: {name.familiar}")
    manifests = lists.manifests(name)
    sources = []
    for each in manifests:
        source = parse_name(each["Ref"], default_tag=True)
        if source.domain != name.domain:
            raise CliError(
                "cannot use source images from a different registry than the target image: "
                f"{source.domain} != {name.domain}"
            )
        sources.append(f"{source.full}@{each['Descriptor']['digest']}")
    data, media_type = document(manifests)
    query = "&".join(f"from={quote(source, '/:@')}" for source in sources)
    path = f"/scow/distribution/{quote(str(name), '/:@')}/manifest?{query}"
    headers = {**registry_header(session, name), "Content-Type": media_type}
    try:
        response = session.engine.open("PUT", path, data=iter([data]), headers=headers)
    except EngineError as error:
        if error.status == 404 and error.reason == "page not found":
            raise CliError("this engine doesn't push manifest lists: it is not Scow") from None
        raise
    session.engine.done(response)
    for each in manifests:
        digest = each["Descriptor"]["digest"]
        session.print(f"Pushed ref {name.familiar_name}@{digest} with digest: {digest}")
    session.print(response.headers.get("docker-content-digest", ""))
    if options.flag("purge"):
        lists.remove(name)


def rm(session: Session, options: Options) -> int:
    """Forget lists; what was pushed stays."""
    lists, failed = ManifestLists(session.config.folder), []
    for text in options.args:
        try:
            lists.remove(parse_list_name(text))
        except CliError as error:
            failed.append(error.message)
    if failed:
        session.warn("\n".join(failed))
    return 1 if failed else 0


COMMANDS = {
    "create": Command(
        create,
        "MANIFEST_LIST MANIFEST [MANIFEST...]",
        (Flag("amend", "a", "bool", "Amend an existing manifest list"), INSECURE),
        2,
        None,
    ),
    "annotate": Command(
        annotate,
        "MANIFEST_LIST MANIFEST",
        (
            Flag("arch", "", "string", "Set architecture"),
            Flag("os", "", "string", "Set operating system"),
            Flag("os-features", "", "strings", "Set operating system feature"),
            Flag("os-version", "", "string", "Set operating system version"),
            Flag("variant", "", "string", "Set architecture variant"),
        ),
        2,
        2,
    ),
    "push": Command(
        push,
        "MANIFEST_LIST",
        (INSECURE, Flag("purge", "p", "bool", "Remove the local manifest list after push")),
        1,
        1,
    ),
    "rm": Command(rm, "MANIFEST_LIST [MANIFEST_LIST...]", (), 1, None),
}

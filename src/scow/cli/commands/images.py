"""`scow images`, `rmi` and `tag`: the engine's images."""

from __future__ import annotations

import time

from scow.cli.command import Command
from scow.cli.errors import CliError
from scow.cli.flags import Flag, Options
from scow.cli.http import quote
from scow.cli.jsontext import dumps
from scow.cli.listing import encode_filters, filter_flag, format_flag, print_listing
from scow.cli.units import human_duration, human_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from scow.cli.session import Session

NONE = "<none>"


def image_rows(images: list[dict[str, Any]], digests: bool) -> list[dict[str, Any]]:
    """One row for each name of each image: Repository, Tag, Digest, and the image itself."""
    rows: list[dict[str, Any]] = []
    for image in images:
        tags: dict[str, list[str]] = {}
        names: dict[str, list[str]] = {}
        for reference in image.get("RepoTags") or []:
            repository, _, tag = reference.rpartition(":")
            if repository and repository != NONE:
                tags.setdefault(repository, []).append(tag)
        for reference in image.get("RepoDigests") or []:
            repository, _, digest = reference.partition("@")
            if repository != NONE:
                names.setdefault(repository, []).append(digest)
        made: list[tuple[str, str, str]] = []
        for repository in sorted(tags):
            known = names.pop(repository, []) if digests else (names.pop(repository, []) and [])
            for tag in tags[repository]:
                made += [(repository, tag, digest) for digest in known or [NONE]]
        for repository in sorted(names):
            # Pulled by digest: the name has no tag.
            made += [(repository, NONE, digest) for digest in (names[repository] if digests else names[repository][:1])]
        for repository, tag, digest in made or [(NONE, NONE, NONE)]:
            rows.append({"Repository": repository, "Tag": tag, "Digest": digest, "image": image})
    return rows


def image_fields(trunc: bool, now: float) -> dict[str, Any]:
    """The columns of a listing of images."""

    def identifier(row: dict[str, Any]) -> str:
        text: str = row["image"]["Id"]
        return text.removeprefix("sha256:")[:12] if trunc else text

    def created_at(row: dict[str, Any]) -> str:
        from scow.cli.timestamps import local_time

        return local_time(row["image"]["Created"])

    def age(row: dict[str, Any]) -> str:
        created = row["image"]["Created"]
        return human_duration(now - created) + " ago" if created >= 0 else "N/A"

    def measured(row: dict[str, Any], name: str) -> str:
        value = row["image"].get(name, -1)
        return human_size(value, 4) if value != -1 else "N/A"

    def containers(row: dict[str, Any]) -> str:
        count = row["image"].get("Containers", -1)
        return str(count) if count != -1 else "N/A"

    def unique(row: dict[str, Any]) -> str:
        image = row["image"]
        shared = image.get("SharedSize", -1)
        return human_size(image["Size"] - shared, 4) if shared != -1 else "N/A"

    return {
        "ID": ("IMAGE ID", identifier),
        "Repository": ("REPOSITORY", lambda row: row["Repository"]),
        "Tag": ("TAG", lambda row: row["Tag"]),
        "Digest": ("DIGEST", lambda row: row["Digest"]),
        "CreatedSince": ("CREATED", age),
        "CreatedAt": ("CREATED AT", created_at),
        "Size": ("SIZE", lambda row: human_size(row["image"]["Size"])),
        "Containers": ("CONTAINERS", containers),
        "VirtualSize": ("SIZE", lambda row: human_size(row["image"]["Size"], 4)),
        "SharedSize": ("SHARED SIZE", lambda row: measured(row, "SharedSize")),
        "UniqueSize": ("UNIQUE SIZE", unique),
    }


def images(session: Session, options: Options) -> None:
    """List images."""
    filters = options.texts("filter")
    if options.args:
        filters = [*filters, f"reference={options.args[0]}"]
    query: dict[str, str] = {}
    if options.flag("all"):
        query["all"] = "1"
    if options.flag("digests"):
        query["digests"] = "1"
    encoded = encode_filters(filters)
    if encoded:
        query["filters"] = encoded
    if options.flag("tree"):
        from scow.cli.commands.image_tree import print_tree

        return print_tree(session, options, query)
    found = session.engine.get("/images/json", query) or []
    template = options.text("format") or session.config.text("imagesFormat")
    if options.flag("quiet") and not options.text("format"):
        template = ""
    digests = options.flag("digests") or ".Digest" in template
    columns = ["Repository", "Tag", "ID", "CreatedSince", "Size"]
    if options.flag("digests"):
        columns.insert(2, "Digest")
    print_listing(
        image_rows(found, digests),
        image_fields(not options.flag("no-trunc"), time.time()),
        columns,
        template,
        "formatter.imageContext",
        quiet="ID" if options.flag("quiet") else "",
    )


def rmi(session: Session, options: Options) -> int:
    """Remove images."""
    query = {}
    if options.flag("force"):
        query["force"] = "1"
    if options.flag("no-prune"):
        query["noprune"] = "1"
    platforms = options.texts("platform")
    if platforms:
        query["platforms"] = dumps([_platform(text) for text in platforms])
    errors: list[str] = []
    fatal = False
    for image in options.args:
        try:
            deleted = session.engine.call("DELETE", f"/images/{quote(image, '/:@')}", query)
        except CliError as error:
            fatal = fatal or getattr(error, "status", 0) != 404
            errors.append(error.message)
            continue
        for item in deleted or []:
            if item.get("Deleted"):
                session.print(f"Deleted: {item['Deleted']}")
            else:
                session.print(f"Untagged: {item['Untagged']}")
    if errors:
        if options.flag("force") and not fatal:
            session.warn("\n".join(errors))
            return 0
        raise CliError("\n".join(errors))
    return 0


def _platform(text: str) -> dict[str, str]:
    names = ("os", "architecture", "variant")
    return dict(zip(names, text.split("/"), strict=False))


def tag(session: Session, options: Options) -> None:
    """Give an image another name."""
    from scow.cli.names import parse_name

    source, target = options.args
    try:
        name = parse_name(target, default_tag=True)
    except CliError as error:
        raise CliError(f'Error parsing reference: "{target}" is not a valid repository/tag: {error.message}') from None
    if name.digest:
        raise CliError("refusing to create a tag with a digest reference")
    session.engine.post(f"/images/{quote(source, '/:@')}/tag", {"repo": name.full, "tag": name.tag})


COMMANDS = {
    "images": Command(
        images,
        "[REPOSITORY[:TAG]]",
        (
            Flag("all", "a", "bool", "Show all images (default hides intermediate images)"),
            Flag("digests", "", "bool", "Show digests"),
            filter_flag("Filter output based on conditions provided"),
            format_flag(),
            Flag("no-trunc", "", "bool", "Don't truncate output"),
            Flag("quiet", "q", "bool", "Only show image IDs"),
            Flag("tree", "", "bool", "Show images with their platforms as a tree"),
        ),
        0,
        1,
    ),
    "rmi": Command(
        rmi,
        "IMAGE [IMAGE...]",
        (
            Flag("force", "f", "bool", "Force removal of the image"),
            Flag("no-prune", "", "bool", "Do not delete untagged parents"),
            Flag(
                "platform",
                "",
                "strings",
                'Remove only the given platform variant. Formatted as "os[/arch[/variant]]" (e.g., "linux/amd64")',
            ),
        ),
        1,
        None,
    ),
    "tag": Command(tag, "SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]", (), 2, 2),
}

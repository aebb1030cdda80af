"""The pages: repositories, a repository's tags, an image. Whoever may pull by the API sees them, and nobody else."""

import time
from contextlib import aclosing
from http import HTTPStatus
from typing import Final
from urllib.parse import quote, urlsplit

from scow.oci.digest import Digest
from scow.registry.calls import Call, quoted
from scow.registry.errors import (
    AccessDenied,
    AuthenticationRequired,
    ManifestUnknown,
    MethodUnsupported,
    NameUnknown,
    PageUnknown,
    Refusal,
)
from scow.registry.metadata import Metadata, ShownRepository, ShownTag, StoredManifest
from scow.registry.names import parse_reference
from scow.registry.objects import ObjectMissing, Objects
from scow.registry.replies import Reply
from scow.registry.upstream.places import Places, host_of
from scow.registry.web.documents import NOTHING, Document, Image, Part, is_image_config, read_document, read_image
from scow.registry.web.forms import read_form
from scow.registry.web.html import Viewer, age_text, asset_reply, e, page_reply, size_text
from scow.registry.web.login import login_path, went

PAGE: Final = 50
CONFIG_LIMIT: Final = 1 << 20
"""A larger config is not shown."""
REFERRERS: Final = 100
CHILDREN: Final = 32
"""So many images of an index are looked at for its size."""
IMAGES_SIZE: Final = 2 << 20
"""Bytes of the configs that are kept, as they are read, for the next page."""


class Pages:
    """Answers what a browser asks for."""

    def __init__(self, metadata: Metadata, objects: Objects, url: str, places: Places) -> None:
        """`url` is the registry's as clients reach it; empty: what the request says."""
        self._places = places
        self._metadata = metadata
        self._objects = objects
        self._url = url
        self._images: dict[str, Image] = {}  # by the config's digest
        self._images_size = 0

    async def answer(self, call: Call) -> Reply:
        """Answer an admitted call. Raises Refusal."""
        kind = call.route.kind
        if kind == "web-image" and call.method == "POST":
            return await self._delete(call)
        if call.method not in ("GET", "HEAD"):
            raise MethodUnsupported(call.method, ("GET", "HEAD"))
        match kind:
            case "web-asset":
                found = asset_reply(call.route.reference, call.headers.get("If-None-Match"))
                if found is None:
                    raise PageUnknown(call.route.reference)
                return found
            case "web-repository":
                return await self._repository(call)
            case "web-image":
                return await self._image(call)
            case _:
                return await self._home(call)

    def refusal(self, call: Call, refusal: Refusal) -> Reply:
        """A refusal as a page; for who has not said who it is, the page to do so."""
        if isinstance(refusal, AuthenticationRequired) and "Authorization" not in call.headers:
            return went(login_path(call))
        title = HTTPStatus(refusal.status).phrase
        content = f'<h1>{e(title)}</h1><p>{e(refusal)}</p><p><a href="/">All repositories</a></p>'
        return page_reply(title, content, viewer=_viewer(call), status=refusal.status, headers=refusal.headers)

    async def _home(self, call: Call) -> Reply:
        search, after = (call.parameter("q") or "").strip()[:255], call.parameter("last") or ""
        found: list[ShownRepository] = []
        while len(found) <= PAGE:
            names = await self._metadata.show_repositories(search, after, PAGE * 4)
            found += [item for item in names if call.caller is not None and call.caller.sees(item.name)]
            if len(names) < PAGE * 4:
                break
            after = names[-1].name
        rows = "".join(
            f'<tr><th scope="row"><a href="{_repository_url(item.name)}">{e(item.name)}</a></th>'
            f'<td class="number">{size_text(item.size)}</td></tr>'
            for item in found[:PAGE]
        )
        nothing = "No repository matches." if search else "Nothing was pushed yet."
        heads = '<th scope="col">Repository</th><th scope="col" class="number">Disk use</th>'
        content = (
            "<h1>Repositories</h1>"
            + _search("/", search, "Search repositories")
            + _table(heads, rows, nothing)
            + (_next("/", search, found[PAGE - 1].name) if len(found) > PAGE else "")
        )
        return page_reply("Repositories", content, viewer=_viewer(call))

    async def _repository(self, call: Call) -> Reply:
        name = call.repository
        search, after = (call.parameter("q") or "").strip()[:128], call.parameter("last") or ""
        found = await self._metadata.show_tags(name, search, after, PAGE + 1)
        if not found and not await self._metadata.repository_exists(name):
            raise NameUnknown(name)
        rows = "".join([await self._tag_row(name, tag) for tag in found[:PAGE]])
        heads = (
            '<th scope="col">Tag</th><th scope="col">Platforms</th><th scope="col" class="number">Size</th>'
            '<th scope="col">Pushed</th><th scope="col" class="wide">Digest</th>'
        )
        url = _repository_url(name)
        content = (
            f'<p class="path"><a href="/">Repositories</a></p><h1>{e(name)}</h1>'
            + self._origin(name)
            + _search(url, search, "Search tags")
            + _table(heads, rows, "No tag matches." if search else "No tags.", "stacked")
            + (_next(url, search, found[PAGE - 1].name) if len(found) > PAGE else "")
        )
        return page_reply(name, content, viewer=_viewer(call))

    def _origin(self, name: str) -> str:
        """Where a copy is from."""
        place = self._places.place(name)
        if place is None:
            return ""
        what = f"{host_of(place.proxy)}/{place.remote}"
        return f'<p class="quiet">A copy of {e(what)}, as far as somebody has pulled it.</p>'

    async def _tag_row(self, name: str, tag: ShownTag) -> str:
        platforms, size = await self._summary(name, read_document(tag.data)) if tag.data is not None else ("", "")
        return (
            f'<tr><th scope="row"><a href="{_image_url(name, tag.name)}">{e(tag.name)}</a></th>'
            f'<td>{e(platforms)}</td><td class="number">{size}</td><td>{age_text(time.time() - tag.updated_at)}</td>'
            f'<td class="wide"><code>{e(_short(tag.digest))}</code></td></tr>'
        )

    async def _summary(self, name: str, document: Document) -> tuple[str, str]:
        """Platforms and size."""
        if document.manifests:
            platforms = ", ".join(part.platform for part in document.manifests if _is_platform(part.platform))
            return platforms, size_text(await self._size(name, document))
        image = await self._config(name, document)
        return image.platform if image else "", size_text(document.size)

    async def _size(self, name: str, document: Document) -> int:
        """Bytes of all an index's images; what several of them share counts once."""
        sizes: dict[str, int] = {}
        for part in document.manifests[:CHILDREN]:
            found = self._metadata.manifest_now(name, part.digest)
            found = found or await self._metadata.find_manifest(name, part.digest, is_digest=True)
            if isinstance(found, StoredManifest):
                child = read_document(found.data)
                for blob in [*child.layers, *([child.config] if child.config else [])]:
                    sizes[blob.digest] = blob.size
        return sum(sizes.values())

    async def _here(self, name: str, document: Document) -> set[str]:
        """Which of an index's images the repository has; those that are not looked at are taken to be there."""
        here = {part.digest for part in document.manifests[CHILDREN:]}
        for part in document.manifests[:CHILDREN]:
            if await self._metadata.find_manifest(name, part.digest, is_digest=True) is not None:
                here.add(part.digest)
        return here

    async def _image(self, call: Call) -> Reply:
        name = call.repository
        reference, is_digest = parse_reference(call.route.reference)
        found = await self._metadata.find_manifest(name, reference, is_digest)
        if found is None:
            raise ManifestUnknown(name, reference)
        document = read_document(found.data) if isinstance(found, StoredManifest) else NOTHING
        image = await self._config(name, document)
        mark = "@" if is_digest else ":"
        shown = f"{name}{mark}{_short(reference) if is_digest else reference}"
        host = urlsplit(self._url or call.base_url).netloc
        facts = [("Digest", found.digest), ("Media type", found.media_type)]
        if image is not None:
            facts += [("Platform", image.platform), ("Created", image.created)]
        if document is NOTHING:
            facts.append(("Manifest", f"{size_text(found.size)}: too large for what is in it to be shown"))
        else:
            size = await self._size(name, document) if document.manifests else document.size
            facts.append(("Size", size_text(size)))
        parts = [
            f'<p class="path"><a href="/">Repositories</a> / <a href="{_repository_url(name)}">{e(name)}</a></p>',
            f"<h1>{e(shown)}</h1>",
            f'<div class="command" data-copy><code>docker pull {e(f"{host}/{name}{mark}{reference}")}</code></div>',
            _facts(facts),
            _platforms(name, document.manifests, await self._here(name, document)),
            _layers(document.layers),
            _history(image, document.layers),
            ("<h2>Configuration</h2>" + _facts(image.settings)) if image and image.settings else "",
            ("<h2>Annotations</h2>" + _facts(list(document.annotations.items()))) if document.annotations else "",
            await self._referrers(name, found.digest),
        ]
        if call.caller is not None and call.caller.may(name, "delete"):
            what = "this manifest and every tag that points at it" if is_digest else f"the tag {e(reference)}"
            parts.append(
                f'<details><summary>Delete…</summary><form method="post" action="{_image_url(name, reference)}">'
                f'<label><input type="checkbox" name="confirm" value="yes" required> Yes, delete {what}</label>'
                '<button class="danger">Delete</button></form></details>'
            )
        return page_reply(shown, "".join(parts), viewer=_viewer(call))

    async def _referrers(self, name: str, digest: Digest) -> str:
        found = await self._metadata.referrers(name, digest, None, "", REFERRERS)
        if not found:
            return ""
        rows = "".join(
            f'<tr><td><a href="{_image_url(name, item.digest)}"><code>{e(_short(item.digest))}</code></a></td>'
            f"<td><code>{e(item.artifact_type or item.media_type)}</code></td>"
            f'<td class="number">{size_text(item.size)}</td></tr>'
            for item in found
        )
        heads = '<th scope="col">Digest</th><th scope="col">Type</th><th scope="col" class="number">Manifest</th>'
        return "<h2>Referrers: signatures, SBOMs and other artifacts</h2>" + _table(heads, rows, "", "stacked")

    async def _config(self, name: str, document: Document) -> Image | None:
        config = document.config
        if config is None or not is_image_config(config.media_type) or config.size > CONFIG_LIMIT:
            return None
        digest = Digest(config.digest)
        # The repository must have it: a manifest may outlive the blob that somebody deleted.
        blob = await self._metadata.blob(name, digest)
        if blob is None:
            return None
        if (kept := self._images.get(digest)) is not None:
            return kept
        source = await self._objects.open(blob.object)
        if source is None:
            return None
        try:
            async with aclosing(await source.read(0, min(blob.size, CONFIG_LIMIT))) as chunks:
                data = b"".join([chunk async for chunk in chunks])
        except ObjectMissing:
            return None
        finally:
            source.release()
        self._images_size += len(data)
        if self._images_size > IMAGES_SIZE:
            self._images.clear()
            self._images_size = len(data)
        image = self._images[digest] = read_image(data)
        return image

    async def _delete(self, call: Call) -> Reply:
        if (await read_form(call, self._url)).get("confirm") != "yes":
            raise AccessDenied("the deletion was not confirmed")
        name = call.repository
        reference, is_digest = parse_reference(call.route.reference)
        if is_digest:
            gone = await self._metadata.delete_manifest(name, Digest(reference))
        else:
            gone = await self._metadata.delete_tag(name, reference)
        if not gone:
            raise ManifestUnknown(name, reference)
        return went(_repository_url(name))


def _viewer(call: Call) -> Viewer:
    caller = call.caller
    if caller is None:
        return Viewer()
    return Viewer("" if caller.free else caller.name, caller.session)


def _repository_url(name: str) -> str:
    return f"/-/repositories/{quote(name)}"


def _image_url(name: str, reference: str) -> str:
    return f"/-/images/{quote(name)}/{quote(reference, safe=':')}"


def _short(digest: str) -> str:
    algorithm, _, value = digest.partition(":")
    return f"{algorithm}:{value[:12]}"


def _is_platform(text: str) -> bool:
    return bool(text) and not text.startswith("unknown")  # attestations call themselves unknown/unknown


def _search(url: str, value: str, label: str) -> str:
    return (
        f'<form class="search" role="search" action="{url}"><input type="search" name="q" value="{e(value)}" '
        f'aria-label="{label}" placeholder="{label}"><button>Search</button></form>'
    )


def _table(heads: str, rows: str, nothing: str, kind: str = "") -> str:
    """A table; of the kind `stacked` its rows become lines on narrow screens."""
    if not rows:
        return f'<div class="card"><p class="empty">{nothing}</p></div>'
    table = f'<table class="{kind}">' if kind else "<table>"
    return f'<div class="card">{table}<thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>'


def _next(url: str, search: str, last: str) -> str:
    query = f"last={quoted(last)}" + (f"&amp;q={quoted(search)}" if search else "")
    return f'<nav class="pages" aria-label="Pages"><a rel="next" href="{url}?{query}">Next page →</a></nav>'


def _facts(facts: list[tuple[str, str]]) -> str:
    lines = "".join(
        f"<dt>{e(name)}</dt><dd><code>{'<br>'.join(e(line) for line in value.split(chr(10)))}</code></dd>"
        for name, value in facts
        if value
    )
    return f"<dl>{lines}</dl>"


def _platforms(name: str, parts: list[Part], here: set[str]) -> str:
    if not parts:
        return ""
    rows = "".join(
        f"<tr><td class='short'>{e(part.platform or 'any')}</td><td>{_child(name, part, part.digest in here)}</td>"
        f'<td class="wide">{e(part.media_type)}</td></tr>'
        for part in parts
    )
    heads = '<th scope="col">Platform</th><th scope="col">Digest</th><th scope="col" class="wide">Media type</th>'
    return "<h2>Platforms</h2>" + _table(heads, rows, "")


def _child(name: str, part: Part, is_here: bool) -> str:
    code = f"<code>{e(_short(part.digest))}</code>"
    if not is_here:  # of a copy: nobody has pulled it
        return f'{code} <span class="quiet">not here</span>'
    return f'<a href="{_image_url(name, part.digest)}">{code}</a>'


def _layers(parts: list[Part]) -> str:
    if not parts:
        return ""
    rows = "".join(
        f'<tr><td class="number">{number}</td><td><code>{e(_short(part.digest))}</code></td>'
        f'<td class="wide">{e(part.media_type)}</td><td class="number">{size_text(part.size)}</td></tr>'
        for number, part in enumerate(parts, 1)
    )
    heads = (
        '<th scope="col" class="number">#</th><th scope="col">Layer</th><th scope="col" class="wide">Media type</th>'
        '<th scope="col" class="number">Size</th>'
    )
    return "<h2>Layers</h2>" + _table(heads, rows, "")


def _history(image: Image | None, layers: list[Part]) -> str:
    if image is None or not image.history:
        return ""
    made = [step for step in image.history if not step.empty]
    # Layers belong to the steps that are not empty, in order, if there are as many of them.
    sizes = iter(size_text(part.size) for part in layers) if len(made) == len(layers) else iter(())
    rows = "".join(
        f"<tr><td><code>{e(step.command)}</code></td>"
        f'<td class="number">{"" if step.empty else next(sizes, "")}</td></tr>'
        for step in image.history
    )
    heads = '<th scope="col">Step</th><th scope="col" class="number">Size</th>'
    return "<h2>History</h2>" + _table(heads, rows, "")

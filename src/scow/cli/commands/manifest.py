"""`scow manifest inspect`: a manifest as a registry has it, or of a list that is being put together.

The engine fetches it, by its mirrors and certificates.
"""

from __future__ import annotations

from scow.cli.command import Command
from scow.cli.errors import CliError, EngineError
from scow.cli.flags import Flag, Options
from scow.cli.http import quote
from scow.cli.jsontext import dumps, indent, loads
from scow.cli.names import Name, parse_name
from scow.cli.pulling import registry_header

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from scow.cli.session import Session


def inspect(session: Session, options: Options) -> None:
    """Print a manifest, or with --verbose what an index leads to as well."""
    name = parse_name(options.args[-1], default_tag=True)
    if _inspect_local(session, options, name):
        return
    text, media_type, digest = fetch(session, name, str(name))
    if not options.flag("verbose"):
        session.print(indent(text.decode("utf-8", "replace")).replace("    ", "\t"))
        return
    document = loads(text)
    if "manifests" not in document:
        session.print(_layout(described(str(name), text, media_type, digest, document)))
        return
    found = []
    for each in document["manifests"]:
        reference = f"{name.full}@{each['digest']}"
        inner, inner_type, inner_digest = fetch(session, name, reference)
        entry = described(reference, inner, inner_type, inner_digest, loads(inner))
        entry["Descriptor"]["platform"] = each.get("platform")
        found.append(entry)
    session.print(_layout(found))


def _inspect_local(session: Session, options: Options, name: Name) -> bool:
    """Print what a list of the client's own says, whole or of one manifest; False if that isn't meant."""
    from scow.cli.manifest_lists import ManifestLists, document, parse_list_name

    lists = ManifestLists(session.config.folder)
    if len(options.args) == 2:
        found = lists.find(parse_list_name(options.args[0]), name)
        if found is None:
            raise CliError(f"No such manifest: {name.familiar}")
        kind = "OCIManifest" if "OCIManifest" in found else "SchemaV2Manifest"
        session.print(_layout(found if options.flag("verbose") else found[kind]))
        return True
    if not lists.exists(name):
        return False
    manifests = lists.manifests(name)
    session.print(_layout(manifests) if options.flag("verbose") else document(manifests)[0].decode())
    return True


def fetch(session: Session, name: Name, reference: str) -> tuple[bytes, str, str]:
    path = f"/scow/distribution/{quote(reference, '/:@')}/manifest"
    try:
        response = session.engine.open("GET", path, headers=registry_header(session, name))
    except EngineError as error:
        if error.status == 404 and error.reason == "page not found":
            raise CliError("this engine doesn't fetch manifests: manifest inspect needs a Scow engine") from None
        raise
    text = response.read()
    session.engine.done(response)
    return text, response.headers.get("content-type", ""), response.headers.get("docker-content-digest", "")


def described(reference: str, text: bytes, media_type: str, digest: str, document: dict[str, Any]) -> dict[str, Any]:
    import binascii

    kind = "OCIManifest" if "oci" in media_type else "SchemaV2Manifest"
    return {
        "Ref": reference,
        "Descriptor": {"mediaType": media_type, "digest": digest, "size": len(text)},
        "Raw": binascii.b2a_base64(text, newline=False).decode(),
        kind: document,
    }


def _layout(value: object) -> str:
    return indent(dumps(value)).replace("    ", "\t")


COMMANDS = {
    "inspect": Command(
        inspect,
        "[MANIFEST_LIST] MANIFEST",
        (
            Flag("insecure", "", "bool", "Allow communication with an insecure registry"),
            Flag("verbose", "v", "bool", "Output additional info including layers and platform"),
        ),
        1,
        2,
    ),
}

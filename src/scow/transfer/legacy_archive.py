"""Archives of docker before 1.10: a folder for each layer with `json` and `layer.tar`, and `repositories` with names.

They have no image configs: those are made of the layers' own documents, as docker itself made them when it moved on.
"""

import json
from typing import Any, Final

from scow.oci.image_config import MAX_CONFIG_SIZE
from scow.oci.reference import InvalidReference, parse_reference
from scow.store.intake import Member, Members
from scow.store.layer_errors import InvalidArchive
from scow.transfer.archive_layout import LIST_LIMIT, Entry

MAX_LAYERS: Final = 1000
_OWN: Final = ("id", "parent", "parent_id", "layer_id", "Size", "throwaway")


async def convert(members: Members, repositories: Member) -> list[tuple[Entry, dict[Any, Any], bytes]]:
    """The images of the archive: their entries, nothing known of manifests, and configs. Raises InvalidArchive."""
    names: dict[str, list[str]] = {}
    table = _object(await members.read(repositories, LIST_LIMIT), repositories.name)
    for repository, tags in table.items():
        if not isinstance(tags, dict):
            raise InvalidArchive(f"{repositories.name}: the tags of {repository} are no object")
        for tag, id in tags.items():
            names.setdefault(str(id), []).append(_familiar(f"{repository}:{tag}"))
    return [await _convert(members, id, tags) for id, tags in names.items()]


async def _convert(members: Members, id: str, tags: list[str]) -> tuple[Entry, dict[Any, Any], bytes]:
    chain: list[tuple[str, dict[str, Any]]] = []
    at: str = id
    while at:
        if len(chain) >= MAX_LAYERS or any(at == known for known, _ in chain):
            raise InvalidArchive(f"the parents of {id} have no end")
        member = members.get(f"{at}/json")
        document = _object(await members.read(member, MAX_CONFIG_SIZE), member.name)
        chain.append((at, document))
        parent = document.get("parent", "")
        at = parent if isinstance(parent, str) else ""
    chain.reverse()
    layers = [f"{each}/layer.tar" for each, _ in chain]
    config = {key: value for key, value in chain[-1][1].items() if key not in _OWN}
    config["rootfs"] = {"type": "layers", "diff_ids": [members.get(name).digest for name in layers]}
    config["history"] = [_history(document) for _, document in chain]
    data = json.dumps(config, separators=(",", ":"), sort_keys=True).encode()
    return Entry(config=f"{id}/json", repo_tags=tags, layers=layers), {}, data


def _history(document: dict[str, Any]) -> dict[str, Any]:
    container_config = document.get("container_config")
    command = container_config.get("Cmd") if isinstance(container_config, dict) else None
    step = {
        "created": document.get("created"),
        "author": document.get("author"),
        "created_by": " ".join(map(str, command)) if isinstance(command, list) else "",
        "comment": document.get("comment"),
    }
    return {key: value for key, value in step.items() if value}


def _familiar(text: str) -> str:
    try:
        return parse_reference(text).familiar
    except InvalidReference as error:
        raise InvalidArchive(f"invalid tag {text!r}") from error


def _object(data: bytes, name: str) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InvalidArchive(f"{name}: {error}") from error
    if not isinstance(value, dict):
        raise InvalidArchive(f"{name}: not an object")
    return value

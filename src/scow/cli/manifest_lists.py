"""Manifest lists that are being put together, below ~/.docker/manifests as docker's client keeps them.

A list is a folder; in it is a file for each manifest, with what it is and for which platform.
"""

from __future__ import annotations

import os

from scow.cli.errors import CliError
from scow.cli.jsontext import dumps, indent, loads
from scow.cli.names import Name, parse_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"


class ManifestLists:
    """The lists below a configuration folder."""

    def __init__(self, folder: str) -> None:
        self._folder = os.path.join(folder, "manifests")

    def _path(self, name: Name) -> str:
        return os.path.join(self._folder, _file_name(name))

    def exists(self, name: Name) -> bool:
        return os.path.isdir(self._path(name))

    def manifests(self, name: Name) -> list[dict[str, Any]]:
        """The list's manifests, sorted by their names; none if there is no such list."""
        folder = self._path(name)
        if not os.path.isdir(folder):
            return []
        found = []
        for entry in sorted(os.listdir(folder)):
            with open(os.path.join(folder, entry), "rb") as file:
                found.append(loads(file.read()))
        return found

    def find(self, name: Name, manifest: Name) -> dict[str, Any] | None:
        """One manifest of a list."""
        try:
            with open(os.path.join(self._path(name), _file_name(manifest)), "rb") as file:
                found: dict[str, Any] = loads(file.read())
                return found
        except FileNotFoundError:
            return None

    def put(self, name: Name, manifest: Name, content: dict[str, Any]) -> None:
        """Add a manifest to a list, or change it; the list is made if it is the first."""
        folder = self._path(name)
        os.makedirs(folder, mode=0o755, exist_ok=True)
        # Written beside the lists: what a kill leaves there is no manifest of one.
        new = os.path.join(self._folder, f".{os.getpid()}")
        with open(new, "w", encoding="utf-8") as file:
            file.write(dumps(content))
        os.rename(new, os.path.join(folder, _file_name(manifest)))

    def remove(self, name: Name) -> None:
        """Raises CliError if there is no such list."""
        import shutil

        if not self.exists(name):
            raise CliError(f"No such manifest: {name.familiar}")
        shutil.rmtree(self._path(name))


def _file_name(name: Name) -> str:
    return str(name).replace(":", "-").replace("/", "_")


def parse_list_name(text: str) -> Name:
    """Raises CliError in docker's words."""
    try:
        return parse_name(text, default_tag=True)
    except CliError as error:
        raise CliError(f"error parsing name for manifest list {text}: {error.message}") from None


def document(manifests: list[dict[str, Any]]) -> tuple[bytes, str]:
    """The list as it is pushed, and its media type: docker's, unless all that it lists is OCI's."""
    if not manifests:
        raise CliError("a list of no manifests can't be pushed")
    kinds = {each["Descriptor"]["mediaType"] for each in manifests}
    media_type = DOCKER_LIST if DOCKER_MANIFEST in kinds else OCI_INDEX
    entries = []
    for each in manifests:
        described = each["Descriptor"]
        entries.append(
            {
                "mediaType": described["mediaType"],
                "size": described["size"],
                "digest": described["digest"],
                "platform": described["platform"],
            }
        )
    value = {"schemaVersion": 2, "mediaType": media_type, "manifests": entries}
    return indent(dumps(value), step="   ").encode(), media_type

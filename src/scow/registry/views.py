"""Answers that are kept in memory for the next reader, as long as nothing has changed."""

from collections import OrderedDict
from typing import Final

from scow.registry.metadata import KnownManifest, LinkedBlob, StoredManifest
from scow.registry.sql import Database

VIEWS_LIMIT: Final = 4096
VIEWS_DATA_LIMIT: Final = 8 << 20
"""Bytes of manifests that are kept in memory."""

View = KnownManifest | LinkedBlob
Key = tuple[str, str]
"""Repository and reference. A manifest can be a blob too, so blobs' references begin with "b "."""


class Views:
    """What was read lately, forgotten as soon as the database's version moves."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._views: OrderedDict[Key, View] = OrderedDict()
        self._data_size = 0
        self._version = -1

    def version(self) -> int:
        """The version that answers to questions asked from now on have, at least."""
        if (version := self._db.version()) != self._version:
            self._views.clear()
            self._data_size = 0
            self._version = version
        return version

    def find(self, key: Key) -> View | None:
        """What is known and still current."""
        self.version()
        return self._views.get(key)

    def keep(self, version: int, key: Key, view: View) -> None:
        """Remember an answer to a question that was asked at `version`."""
        if version != self._version or key in self._views:
            return
        self._views[key] = view
        self._data_size += _weight(view)
        while len(self._views) > VIEWS_LIMIT or self._data_size > VIEWS_DATA_LIMIT:
            self._data_size -= _weight(self._views.popitem(last=False)[1])


def _weight(view: View) -> int:
    return len(view.data) if isinstance(view, StoredManifest) else 100

"""Opens what the settings name: the database of names, and where the bytes are."""

import os
import sqlite3
from pathlib import Path
from typing import Final

from scow.registry.folder import FULL, Folder
from scow.registry.objects import Objects
from scow.registry.os_errors import sentence
from scow.registry.schema import STEPS
from scow.registry.settings import Settings, SettingsInvalid
from scow.registry.small_objects import SmallObjects
from scow.registry.spools import Spools, nameless_file
from scow.registry.sql import Database
from scow.registry.sqlite import SqliteDatabase

DATABASE: Final = "registry.db"
PART_SIZE_LEAST: Final = 5 << 20
"""That of S3, but for an object's last part."""


def has_bucket(settings: Settings) -> bool:
    """Whether the bytes are in an object store."""
    return "://" in settings.storage


def spool_folder(settings: Settings) -> Path:
    """Where files without names are that hold bytes on their way."""
    if settings.spool or not has_bucket(settings):
        return Path(settings.spool or settings.storage or os.devnull)
    # On many systems /tmp is in memory, which is what is to be spared.
    return Path(os.environ.get("TMPDIR") or "/var/tmp")


def check_spool(settings: Settings) -> None:
    """Make a file there. Blocks: to be called at start. Raises SettingsInvalid if there can be none."""
    if not settings.spool and not has_bucket(settings):
        return
    try:
        os.close(nameless_file(spool_folder(settings)))
    except OSError as error:
        if error.errno not in FULL:
            raise SettingsInvalid("spool", sentence(error)) from error


def database_path(settings: Settings) -> Path:
    """The SQLite file, where the settings name no other database."""
    return Path(settings.database.path or Path(settings.storage) / DATABASE)


def check_is_there(settings: Settings) -> None:
    """Raise SettingsInvalid if there is no registry: who only looks after one must not make an empty one by a typo."""
    if not settings.database.url and not database_path(settings).exists():
        where = settings.database.path or settings.storage
        raise SettingsInvalid(where, f"no registry is here, for there is no {database_path(settings).name}")


def open_database(settings: Settings) -> Database:
    """Open the database, a file brought up to date. Blocks: to be called at start. Raises SettingsInvalid."""
    names = settings.database
    if not names.url:
        if has_bucket(settings) and not names.path:
            raise SettingsInvalid("storage", "with an object store, database.url or database.path is needed")
        path = database_path(settings)
        try:
            return SqliteDatabase.open(path, STEPS)
        except sqlite3.DatabaseError as error:
            raise SettingsInvalid(str(path), f"cannot be used: {error}") from error
    if not names.url.startswith(("postgresql://", "postgres://")):
        raise SettingsInvalid("database.url", "must begin with postgresql://")
    try:
        # Here, for whoever keeps names in a file needs neither the package nor its import.
        from scow.registry.postgres import PostgresDatabase
        from scow.registry.postgres_schema import POSTGRESQL_STEPS
    except ImportError as error:
        raise SettingsInvalid("database.url", "PostgreSQL needs a package: pip install 'scow[cluster]'") from error
    return PostgresDatabase(names.url, POSTGRESQL_STEPS, names.connections)


def open_objects(settings: Settings, database: Database) -> Objects:
    """Open where the bytes are. Blocks: to be called at start. Raises SettingsInvalid."""
    # Also where the database gets no more of them: it may have some from before.
    return SmallObjects(_open_large_objects(settings, database), database)


def _open_large_objects(settings: Settings, database: Database) -> Objects:
    if not has_bucket(settings):
        folder = Folder(Path(settings.storage))
        if not settings.read_only:
            folder.check_writable()
        return folder
    bucket = settings.bucket
    if bucket.part_size < PART_SIZE_LEAST:
        raise SettingsInvalid("bucket.part_size", f"must be {PART_SIZE_LEAST} at least")
    try:
        from scow.registry.bucket_objects import LATE_S, BucketObjects
        from scow.registry.stores import open_bucket
    except ImportError as error:
        raise SettingsInvalid("storage", "object stores need a package: pip install 'scow[cluster]'") from error
    store = open_bucket(settings.storage, bucket)
    late_s = min(LATE_S, settings.gc.grace_s)
    spools = Spools(spool_folder(settings))
    return BucketObjects(store, database, spools, part_size=bucket.part_size, redirects=bucket.redirect, late_s=late_s)

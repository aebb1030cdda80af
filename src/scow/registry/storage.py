"""Opens what the settings name: the database of names, and where the bytes are."""

from pathlib import Path
from typing import Final

from scow.registry.folder import Folder
from scow.registry.objects import Objects
from scow.registry.schema import STEPS
from scow.registry.settings import Settings, SettingsInvalid
from scow.registry.sql import Database
from scow.registry.sqlite import SqliteDatabase

DATABASE: Final = "registry.db"


def open_database(settings: Settings) -> Database:
    """Open the database, a file brought up to date. Blocks: to be called at start. Raises SettingsInvalid."""
    names = settings.database
    if not names.url:
        return SqliteDatabase.open(Path(names.path or Path(settings.storage) / DATABASE), STEPS)
    if not names.url.startswith(("postgresql://", "postgres://")):
        raise SettingsInvalid("database.url", "must begin with postgresql://")
    try:
        # Here, for whoever keeps names in a file needs neither the package nor its import.
        from scow.registry.postgres import PostgresDatabase
        from scow.registry.postgres_schema import POSTGRESQL_STEPS
    except ImportError as error:
        raise SettingsInvalid("database.url", "PostgreSQL needs a package: pip install 'scow[cluster]'") from error
    return PostgresDatabase(names.url, POSTGRESQL_STEPS, names.connections)


def open_objects(settings: Settings) -> Objects:
    """Open where the bytes are. Blocks: to be called at start."""
    return Folder(Path(settings.storage))

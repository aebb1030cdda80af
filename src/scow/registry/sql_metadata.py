"""The registry's names in a SQL database, behind `Metadata`."""

from scow.registry.sql_blobs import SqlBlobs
from scow.registry.sql_reviews import SqlReviews
from scow.registry.sql_uploads import SqlUploads


class SqlMetadata(SqlBlobs, SqlUploads, SqlReviews):
    """Names in SQLite or PostgreSQL: the same statements do for both."""

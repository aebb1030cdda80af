"""The tables of the registry's SQLite file, as the steps that made them: only ever add to the end.

A statement ends with a semicolon at the end of its line, unless the line ends its trigger's only statement.
"""

from typing import Final

STEPS: Final = (
    """
CREATE TABLE repository (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE manifest (
    repository INTEGER NOT NULL REFERENCES repository(id), digest TEXT NOT NULL, media_type TEXT NOT NULL,
    artifact_type TEXT, subject TEXT, annotations TEXT, size INTEGER NOT NULL, pushed_at REAL NOT NULL,
    data BLOB NOT NULL,
    PRIMARY KEY (repository, digest));
CREATE INDEX manifest_subject ON manifest (repository, subject, digest) WHERE subject IS NOT NULL;
CREATE TABLE manifest_ref (
    repository INTEGER NOT NULL, manifest TEXT NOT NULL, digest TEXT NOT NULL, kind TEXT NOT NULL,
    PRIMARY KEY (repository, manifest, digest),
    FOREIGN KEY (repository, manifest) REFERENCES manifest (repository, digest) ON DELETE CASCADE) WITHOUT ROWID;
CREATE INDEX manifest_ref_digest ON manifest_ref (repository, digest);
CREATE TABLE tag (
    repository INTEGER NOT NULL, name TEXT NOT NULL, digest TEXT NOT NULL, updated_at REAL NOT NULL,
    PRIMARY KEY (repository, name),
    FOREIGN KEY (repository, digest) REFERENCES manifest (repository, digest) ON DELETE CASCADE) WITHOUT ROWID;
CREATE INDEX tag_digest ON tag (repository, digest);
CREATE TABLE tag_history (repository INTEGER NOT NULL, name TEXT NOT NULL, digest TEXT, changed_at REAL NOT NULL);
CREATE INDEX tag_history_name ON tag_history (repository, name);
CREATE TABLE blob (digest TEXT PRIMARY KEY, size INTEGER NOT NULL, deleting INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID;
CREATE TABLE repository_blob (
    repository INTEGER NOT NULL REFERENCES repository(id), digest TEXT NOT NULL REFERENCES blob(digest),
    PRIMARY KEY (repository, digest)) WITHOUT ROWID;
CREATE INDEX repository_blob_digest ON repository_blob (digest);
CREATE TABLE upload (
    id TEXT PRIMARY KEY, repository TEXT NOT NULL, algorithm TEXT NOT NULL, begun_at REAL NOT NULL,
    closing TEXT) WITHOUT ROWID;
CREATE INDEX upload_closing ON upload (closing) WHERE closing IS NOT NULL;
CREATE TABLE gc_queue (
    kind TEXT NOT NULL, repository INTEGER NOT NULL, digest TEXT NOT NULL, review_after REAL NOT NULL,
    PRIMARY KEY (kind, repository, digest)) WITHOUT ROWID;
CREATE INDEX gc_queue_due ON gc_queue (review_after);
CREATE TABLE user (name TEXT PRIMARY KEY, password TEXT NOT NULL) WITHOUT ROWID
""",
    """
ALTER TABLE user ADD COLUMN expires_at REAL;
CREATE TABLE signing_key (id TEXT PRIMARY KEY, data TEXT NOT NULL, made_at REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE refresh_token (
    hash BLOB PRIMARY KEY, user TEXT NOT NULL, client TEXT NOT NULL, expires_at REAL NOT NULL) WITHOUT ROWID;
CREATE INDEX refresh_token_user ON refresh_token (user);
ALTER TABLE repository ADD COLUMN size INTEGER NOT NULL DEFAULT 0;
UPDATE repository SET size = (
    SELECT COALESCE(SUM(b.size), 0) FROM repository_blob l JOIN blob b ON b.digest = l.digest
    WHERE l.repository = repository.id);
CREATE TRIGGER repository_blob_added AFTER INSERT ON repository_blob BEGIN
    UPDATE repository SET size = size + (SELECT size FROM blob WHERE digest = NEW.digest)
    WHERE id = NEW.repository; END;
CREATE TRIGGER repository_blob_gone AFTER DELETE ON repository_blob BEGIN
    UPDATE repository SET size = size - (SELECT size FROM blob WHERE digest = OLD.digest)
    WHERE id = OLD.repository; END
""",
    """
ALTER TABLE blob ADD COLUMN object TEXT NOT NULL DEFAULT '';
UPDATE blob SET object = digest;
ALTER TABLE upload ADD COLUMN object TEXT;
UPDATE upload SET object = closing WHERE closing IS NOT NULL;
CREATE TABLE garbage (object TEXT PRIMARY KEY) WITHOUT ROWID;
INSERT INTO garbage SELECT digest FROM blob WHERE deleting;
DELETE FROM gc_queue WHERE kind = 'blob' AND digest IN (SELECT digest FROM blob WHERE deleting);
DELETE FROM blob WHERE deleting;
ALTER TABLE blob DROP COLUMN deleting
""",
    """
CREATE TABLE notice (
    id INTEGER PRIMARY KEY, endpoint TEXT NOT NULL, event BLOB NOT NULL, made_at REAL NOT NULL);
CREATE INDEX notice_endpoint ON notice (endpoint, id);
CREATE TABLE job (
    name TEXT PRIMARY KEY, holder TEXT NOT NULL, leased_until REAL NOT NULL, done_at REAL NOT NULL) WITHOUT ROWID
""",
    """
CREATE TABLE manifest_use (
    repository INTEGER NOT NULL, digest TEXT NOT NULL, used_at REAL NOT NULL, PRIMARY KEY (repository, digest),
    FOREIGN KEY (repository, digest) REFERENCES manifest (repository, digest) ON DELETE CASCADE) WITHOUT ROWID
""",
    """
CREATE TABLE stage (
    upload TEXT PRIMARY KEY, holder TEXT NOT NULL, held_until REAL NOT NULL, touched_at REAL NOT NULL,
    size INTEGER NOT NULL, parts_id TEXT, hash BLOB, tail BLOB, tail_object TEXT, sealed TEXT);
CREATE TABLE stage_part (
    upload TEXT NOT NULL, number INTEGER NOT NULL, size INTEGER NOT NULL, mark TEXT NOT NULL,
    PRIMARY KEY (upload, number)) WITHOUT ROWID;
ALTER TABLE garbage ADD COLUMN due_at REAL NOT NULL DEFAULT 0
""",
    # It told what a tag stands for now, and of tags that are gone; from now on, what one stood for before it moved.
    """
DELETE FROM tag_history
""",
    """
ALTER TABLE upload ADD COLUMN ended_at REAL;
ALTER TABLE upload ADD COLUMN data BLOB;
CREATE TABLE small_object (name TEXT PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE secret (name TEXT PRIMARY KEY, value BLOB NOT NULL)
""",
)

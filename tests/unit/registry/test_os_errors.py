"""What is said of files that cannot be used."""

import errno
import os
import pwd
from pathlib import Path

from scow.registry.errors import StorageUnavailable
from scow.registry.os_errors import sentence
from scow.registry.settings import SettingsInvalid


def test_a_file_of_somebody_else_is_told_with_its_owner(tmp_path: Path) -> None:
    place = tmp_path / "storage"
    place.mkdir(mode=0o750)
    said = sentence(PermissionError(errno.EACCES, "Permission denied", str(place / "blobs" / "sha256")))
    me = pwd.getpwuid(os.geteuid()).pw_name
    assert said == (f"{place}/blobs/sha256: Permission denied ({place} is {me}'s, mode 750; this process is {me}'s)")


def test_a_file_where_a_folder_is_needed() -> None:
    error = FileExistsError(errno.EEXIST, "File exists", "/srv/registry")
    assert sentence(error) == "/srv/registry: File exists, where a folder is needed"


def test_other_errors_speak_for_themselves() -> None:
    assert sentence(OSError(errno.EROFS, "Read-only file system", b"/srv")) == "/srv: Read-only file system"
    assert sentence(OSError("nothing more")) == "nothing more"
    assert sentence(SettingsInvalid("a", "b")) == "a: b"


def test_who_runs_the_registry_is_told_why_its_storage_is_out_of_reach() -> None:
    assert sentence(StorageUnavailable("no route")) == "the registry's storage cannot be reached: no route"

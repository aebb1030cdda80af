"""Extended attributes that belong to a file, apart from what this machine's kernel notes on it. xattr(7)."""

import errno
import os
from typing import Final

_NONE: Final = (errno.ENODATA, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
_ACLS: Final = ("system.posix_acl_access", "system.posix_acl_default")
_SECURITY: Final = ("security.capability", "security.ima")  # not the labels of SELinux and its like


def is_portable(name: str) -> bool:
    """Tell whether an attribute goes with the file into a layer or an archive."""
    if name.startswith("trusted."):
        return not name.startswith("trusted.overlay.")
    return name.startswith("user.") or name in _SECURITY or name in _ACLS


def read(file: int | bytes, *, follow_symlinks: bool = True) -> dict[bytes, bytes]:
    """Return a file's portable attributes, by descriptor or path; none where there can't be any. Raises OSError."""
    found: dict[bytes, bytes] = {}
    try:
        names = os.listxattr(file, follow_symlinks=follow_symlinks)
    except OSError as error:
        if error.errno not in _NONE:
            raise
        return found
    for name in names:
        if not is_portable(name):
            continue
        try:
            found[os.fsencode(name)] = os.getxattr(file, name, follow_symlinks=follow_symlinks)
        except OSError as error:  # removed since it was listed
            if error.errno not in _NONE:
                raise
    return found

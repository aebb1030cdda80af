"""The files of a layer's directory, put in the place of damaged ones."""

import contextlib
import os
from pathlib import Path

from scow.store.ingest import INDEX, LAYER, ROOT, TAR, sync_directory


def put_in_place(made: Path, home: Path) -> None:
    """Let what a job made (tar, index, root; in `made` or `made`/layer) be the layer's in `home`. Blocks.

    The tar comes first: cut off in between, the rest is still as damaged as it was, and can be made of it.
    """
    source = made / LAYER if (made / LAYER).exists() else made
    home.mkdir(parents=True, exist_ok=True)
    for name in (TAR, INDEX):
        with contextlib.suppress(FileNotFoundError):
            os.replace(source / name, home / name)
    if (source / ROOT).exists():
        with contextlib.suppress(FileNotFoundError):
            os.rename(home / ROOT, made / "replaced")  # deleted with the job's directory; containers keep what they see
        os.rename(source / ROOT, home / ROOT)
    sync_directory(str(home))

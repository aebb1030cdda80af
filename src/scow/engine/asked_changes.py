"""`--change` of commit and import: instructions of a Dockerfile. What reads them is imported when there are some."""

import asyncio
from collections.abc import Sequence

from scow.oci.image_config import ExecConfig


async def with_changes(changes: Sequence[str], config: ExecConfig) -> ExecConfig:
    """As `build.config_changes.apply_changes`. Raises DockerfileError, an InvalidArgument."""
    return await asyncio.to_thread(_apply, changes, config) if changes else config


def _apply(changes: Sequence[str], config: ExecConfig) -> ExecConfig:
    from scow.build.config_changes import apply_changes

    return apply_changes(changes, config)

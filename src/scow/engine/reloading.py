"""What of the configuration can change while an engine runs: the keys that dockerd reads again at SIGHUP."""

import json
from typing import Any, Final

import msgspec

from scow.engine.config import EngineConfig

RELOADABLE: Final = (
    "debug",
    "insecure_registries",
    "labels",
    "live_restore",
    "max_concurrent_downloads",
    "max_concurrent_uploads",
    "max_download_attempts",
    "registry_mirrors",
    "shutdown_timeout",
)


def reloaded(running: EngineConfig, read: EngineConfig) -> EngineConfig:
    """The running configuration with what can change taken from the one that was just read."""
    changes: dict[str, Any] = {name: getattr(read, name) for name in RELOADABLE}
    return msgspec.structs.replace(running, **changes)


def changed_keys(before: EngineConfig, after: EngineConfig) -> list[str]:
    """The keys in which two configurations differ, as daemon.json has them."""
    names = EngineConfig.__struct_fields__
    return sorted(name.replace("_", "-") for name in names if getattr(before, name) != getattr(after, name))


def attributes(config: EngineConfig, hostname: str) -> dict[str, str]:
    """What the event `daemon reload` carries."""
    found = {"name": hostname}
    for name in RELOADABLE:
        value = getattr(config, name)
        found[name.replace("_", "-")] = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
    return found

"""Volumes that a plugin keeps: VolumeDriver.* of docker's extend/plugins_volume.md, over `plugins`."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from scow.engine.plugins import NoSuchPlugin, PluginFailed, Plugins
from scow.errors import ScowError

log = logging.getLogger(__name__)

ROLE: Final = "VolumeDriver"


class PluginVolume(msgspec.Struct, frozen=True, rename="pascal"):
    """What a plugin tells about one volume."""

    name: str = ""
    mountpoint: str = ""
    created_at: str = ""
    status: dict[str, Any] | None = None


class PluginVolumes:
    """The volumes of all plugins. A mount's ID is its holder's, so that it can be undone after any kind of restart."""

    def __init__(self, plugins: Plugins) -> None:
        self._plugins = plugins
        self._scopes: dict[str, str] = {}
        self._paths: dict[tuple[str, str], str] = {}

    async def drivers(self) -> list[str]:
        """Plugins that keep volumes; those that don't answer are left out."""

        async def is_one(name: str) -> bool:
            try:
                return ROLE in await self._plugins.activate(name)
            except ScowError as error:
                log.info("%s", error)
                return False

        names = await self._plugins.names()
        return [name for name, yes in zip(names, await asyncio.gather(*map(is_one, names)), strict=True) if yes]

    def active(self) -> Sequence[str]:
        """Plugins that have answered and keep volumes."""
        return self._plugins.active(ROLE)

    async def ready(self, driver: str) -> None:
        """Raise NoSuchPlugin unless the plugin keeps volumes, PluginUnavailable if it doesn't answer."""
        if ROLE not in await self._plugins.activate(driver):
            raise NoSuchPlugin(driver)

    async def create(self, driver: str, name: str, options: Mapping[str, str]) -> None:
        """Have the plugin make a volume."""
        await self._call(driver, "Create", {"Name": name, "Opts": dict(options)})

    async def remove(self, driver: str, name: str) -> None:
        """Have the plugin remove a volume."""
        await self._call(driver, "Remove", {"Name": name})
        self._paths.pop((driver, name), None)

    async def get(self, driver: str, name: str) -> PluginVolume:
        """Ask about one volume."""
        answer = await self._call(driver, "Get", {"Name": name})
        volume = _volume(driver, "Get", answer.get("Volume"))
        if volume.mountpoint:
            self._paths[driver, name] = volume.mountpoint
        return volume

    async def list(self, driver: str) -> list[PluginVolume]:
        """Ask about all volumes."""
        answer = await self._call(driver, "List", {})
        return [_volume(driver, "List", each) for each in answer.get("Volumes") or []]

    async def mount(self, driver: str, name: str, holder: str) -> Path:
        """Have the volume mounted; return where. Raises PluginFailed if the plugin doesn't say."""
        answer = await self._call(driver, "Mount", {"Name": name, "ID": holder})
        path = answer.get("Mountpoint")
        if not isinstance(path, str) or not path.startswith("/"):
            raise PluginFailed(driver, f"{ROLE}.Mount", f"{path!r} is no mount point")
        self._paths[driver, name] = path
        return Path(path)

    async def unmount(self, driver: str, name: str, holder: str) -> None:
        """Let go of a mount."""
        await self._call(driver, "Unmount", {"Name": name, "ID": holder})

    def path(self, driver: str, name: str) -> str:
        """Where the volume was when that was last heard; "" if it never was."""
        return self._paths.get((driver, name), "")

    async def scope(self, driver: str) -> str:
        """`local` or `global`. A plugin that doesn't know the question is local."""
        if driver not in self._scopes:
            try:
                answer = await self._call(driver, "Capabilities", {})
            except PluginFailed:
                answer = {}
            capabilities = answer.get("Capabilities")
            said = str(capabilities.get("Scope", "")).lower() if isinstance(capabilities, dict) else ""
            self._scopes[driver] = said if said in ("local", "global") else "local"
        return self._scopes[driver]

    def known_scope(self, driver: str) -> str:
        """The scope as far as it is known."""
        return self._scopes.get(driver, "local")

    async def _call(self, driver: str, method: str, request: Mapping[str, object]) -> dict[str, Any]:
        await self.ready(driver)
        return await self._plugins.call(driver, f"{ROLE}.{method}", request)


def _volume(driver: str, method: str, document: object) -> PluginVolume:
    try:
        return msgspec.convert(document, PluginVolume, strict=False)
    except msgspec.ValidationError as error:
        raise PluginFailed(driver, f"{ROLE}.{method}", f"its answer makes no sense: {error}") from error

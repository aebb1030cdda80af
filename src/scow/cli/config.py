"""The client's settings: ~/.docker/config.json, which is docker's own file and stays readable by docker."""

from __future__ import annotations

import os
import sys

from scow.cli.jsontext import loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

PROXY_KEYS = {
    "HTTP_PROXY": "httpProxy",
    "HTTPS_PROXY": "httpsProxy",
    "NO_PROXY": "noProxy",
    "FTP_PROXY": "ftpProxy",
    "ALL_PROXY": "allProxy",
}


def default_folder(environment: Mapping[str, str]) -> str:
    """Where the settings live: DOCKER_CONFIG, else ~/.docker."""
    return environment.get("DOCKER_CONFIG") or os.path.join(os.path.expanduser("~"), ".docker")


class Config:
    """config.json in `folder`. A missing file is an empty one; a broken one is reported and read as empty."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.path = os.path.join(folder, "config.json")
        self.values: dict[str, Any] = {}
        try:
            with open(self.path, "rb") as file:
                values = loads(file.read())
            if not isinstance(values, dict):
                raise ValueError("not an object")
            self.values = values
        except (FileNotFoundError, NotADirectoryError):
            pass
        except (OSError, ValueError) as error:
            sys.stderr.write(f"WARNING: Error loading config file: {self.path}: {error}\n")

    def text(self, key: str) -> str:
        value = self.values.get(key)
        return value if isinstance(value, str) else ""

    def table(self, key: str) -> dict[str, Any]:
        value = self.values.get(key)
        return value if isinstance(value, dict) else {}

    def proxies(self, host: str) -> dict[str, str]:
        """The proxies for containers and builds of the engine at `host`: variables, in both cases, and their values."""
        proxies = self.table("proxies")
        values = proxies.get(host, proxies.get("default"))
        if not isinstance(values, dict):
            return {}
        found: dict[str, str] = {}
        for variable, key in PROXY_KEYS.items():
            value = values.get(key)
            if isinstance(value, str) and value:
                found[variable] = found[variable.lower()] = value
        return found

    def save(self) -> None:
        """Write the file, readable by its owner only, by one rename. A symbolic link stays one."""
        import json
        import tempfile

        target = os.path.realpath(self.path)
        os.makedirs(os.path.dirname(target), mode=0o700, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix="config.json", dir=os.path.dirname(target))
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(json.dumps(self.values, indent="\t", ensure_ascii=False))
            os.chmod(name, 0o600)
            os.rename(name, target)
        except BaseException:
            os.unlink(name)
            raise

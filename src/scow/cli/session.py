"""One invocation of the client: its settings, its engine (both on demand) and the environment it was given."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from scow.cli.config import Config
    from scow.cli.engine import Engine
    from scow.cli.flags import Options
    from scow.cli.hosts import Host


class Session:
    """What a command works with. `program` is the client's name in messages, `options` the global flags."""

    def __init__(self, options: Options, environment: Mapping[str, str], program: str = "scow") -> None:
        self.options = options
        self.environment = environment
        self.program = program
        self.path = ""  # the command as it was typed, without the program: "image ls"
        self._config: Config | None = None
        self._host: Host | None = None
        self._engine: Engine | None = None

    @property
    def command(self) -> str:
        """The command with the program: "scow image ls"."""
        return f"{self.program} {self.path}"

    @property
    def config(self) -> Config:
        if self._config is None:
            from scow.cli.config import Config, default_folder

            self._config = Config(self.options.text("config") or default_folder(self.environment))
        return self._config

    @property
    def host(self) -> Host:
        if self._host is None:
            from scow.cli.hosts import resolve_host

            self._host = resolve_host(self.options, self.environment, self.config)
        return self._host

    @property
    def engine(self) -> Engine:
        if self._engine is None:
            from scow.cli.engine import Engine

            headers = {name: str(value) for name, value in self.config.table("HttpHeaders").items()}
            self._engine = Engine(self.host, self.environment.get("DOCKER_API_VERSION", ""), headers)
        return self._engine

    @property
    def proxies(self) -> dict[str, str]:
        """The variables that the settings give containers and builds of this engine."""
        return self.config.proxies(self.host.text)

    def print(self, text: str = "") -> None:
        """Write a line on stdout."""
        sys.stdout.write(text + "\n")

    def warn(self, text: str) -> None:
        """Write a line on stderr, after what stdout holds back."""
        sys.stdout.flush()
        sys.stderr.write(text + "\n")
        sys.stderr.flush()

    def is_terminal(self, descriptor: int) -> bool:
        return os.isatty(descriptor)

    def close(self) -> None:
        if self._engine is not None:
            self._engine.close()

"""SSH agents of a command's own, which hold keys that are files; they end with it."""

from __future__ import annotations

import os
import shutil

from scow.cli.errors import CliError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess

_START_S = 10.0


class KeyAgents:
    """Use it as a context manager, around all that needs the agents."""

    def __init__(self) -> None:
        self._processes: list[subprocess.Popen[bytes]] = []
        self._folder = ""

    def __enter__(self) -> KeyAgents:
        return self

    def __exit__(self, *raised: object) -> None:
        for process in self._processes:
            process.terminate()
            process.wait()
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)

    def start(self, keys: list[str]) -> str:
        """Start an agent that has these private keys, none with a passphrase; its socket. Raises CliError."""
        import subprocess
        import tempfile
        import time

        for tool in ("ssh-agent", "ssh-add"):
            if shutil.which(tool) is None:
                raise CliError(f"{tool} is not installed: --ssh with key files needs OpenSSH's client")
        self._folder = self._folder or tempfile.mkdtemp(prefix="scow-ssh-")
        socket = os.path.join(self._folder, str(len(self._processes)))
        process = subprocess.Popen(["ssh-agent", "-D", "-a", socket], stdout=subprocess.DEVNULL)
        self._processes.append(process)
        deadline = time.monotonic() + _START_S
        while not os.path.exists(socket):
            if process.poll() is not None or time.monotonic() > deadline:
                raise CliError("ssh-agent did not start")
            time.sleep(0.01)
        added = subprocess.run(
            ["ssh-add", "-q", "--", *keys],
            env={"PATH": os.environ.get("PATH", os.defpath), "SSH_AUTH_SOCK": socket, "SSH_ASKPASS_REQUIRE": "never"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            start_new_session=True,  # without a terminal that a passphrase could be asked at
        )
        if added.returncode:
            raise CliError(f"could not use {', '.join(keys)}: {added.stderr.decode(errors='replace').strip()}")
        return socket

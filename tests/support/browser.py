"""Headless Chromium, spoken to by its DevTools protocol: pages as people see them, without a driver in between."""

import asyncio
import json
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

import aiohttp

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")


def find_chromium() -> str | None:
    """The browser's program, None if there is none."""
    return next((found for name in PROGRAMS if (found := shutil.which(name))), None)


class Browser:
    """One page of one browser with a profile of its own; `complaints` are its console's."""

    def __init__(self, program: str, profile: Path) -> None:
        self._command = [program, "--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0"]
        self._command += [f"--user-data-dir={profile}", "--no-first-run", "--disable-background-networking"]
        self._command += ["--disable-component-update", "--disable-sync", "--disable-quic", "about:blank"]
        self._calls = 0
        self._key_code = {"Tab": 9, "Enter": 13, " ": 32}
        self.complaints: list[str] = []

    async def __aenter__(self) -> "Browser":
        # For the socket that it leaves behind; a short path, for those of sockets are limited to 108 bytes.
        self._folder = tempfile.TemporaryDirectory(prefix="scow-b-", ignore_cleanup_errors=True)
        environment = {**os.environ, "TMPDIR": self._folder.name}
        self._process = await asyncio.create_subprocess_exec(*self._command, stderr=subprocess.PIPE, env=environment)
        assert self._process.stderr is not None
        async with asyncio.timeout(60):
            while not (found := re.search(rb"ws://127\.0\.0\.1:(\d+)/", await self._process.stderr.readline())):
                assert self._process.returncode is None
        self._session = aiohttp.ClientSession()
        async with self._session.get(f"http://127.0.0.1:{int(found[1])}/json") as answer:
            page = next(target for target in await answer.json() if target["type"] == "page")
        self._socket = await self._session.ws_connect(page["webSocketDebuggerUrl"], max_msg_size=0)
        for domain in ("Page", "Runtime", "Log"):
            await self(f"{domain}.enable")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._socket.close()
        await self._session.close()
        self._process.terminate()
        await self._process.communicate()
        self._folder.cleanup()

    async def __call__(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One call of the protocol."""
        self._calls += 1
        await self._socket.send_json({"id": self._calls, "method": method, "params": parameters})
        async with asyncio.timeout(30):
            while True:
                message = json.loads((await self._socket.receive()).data)
                if message.get("id") == self._calls:
                    assert "error" not in message, message
                    result: dict[str, Any] = message["result"]
                    return result
                self._note(message)

    def _note(self, message: dict[str, Any]) -> None:
        if message.get("method") in (
            *("Log.entryAdded", "Runtime.consoleAPICalled"),
            *("Runtime.exceptionThrown", "Page.javascriptDialogOpening"),
        ):
            self.complaints.append(json.dumps(message["params"])[:500])

    async def open(self, url: str, width: int = 1200, *, dark: bool = False) -> None:
        """Show a page in a window of so many pixels."""
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        await self(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 500
        )
        await self("Emulation.setEmulatedMedia", features=scheme)
        await self("Page.navigate", url=url)
        await self.until(f"location.href === {json.dumps(url)} && document.readyState === 'complete'")

    async def value(self, expression: str) -> Any:
        """What a script's expression is in the page."""
        answer = await self("Runtime.evaluate", expression=expression, returnByValue=True)
        return answer["result"].get("value")

    async def until(self, expression: str) -> None:
        """Wait until an expression is true."""
        async with asyncio.timeout(30):
            while not await self.value(expression):  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    async def press(self, key: str) -> None:
        """Press a key."""
        text = {"Enter": "\r", " ": " "}.get(key)
        for kind in ("keyDown", "keyUp"):
            more = {"text": text} if text and kind == "keyDown" else {}
            await self(
                "Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=self._key_code.get(key, 0), **more
            )

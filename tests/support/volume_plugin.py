"""A volume plugin of the tests' own: HTTP over a Unix socket, volumes that are folders."""

import json
import socketserver
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any


class VolumePlugin:
    """Answers at `folder`/`name`.sock until `stop`; notes every call. What `refuse` names fails, `hang` holds all."""

    def __init__(self, folder: Path, name: str, data: Path) -> None:
        self.path = folder / f"{name}.sock"
        self.data = data
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.volumes: dict[str, dict[str, str]] = {}
        self.mounts: dict[str, set[str]] = {}
        self.refuse = ""
        self.hanging = threading.Event()
        self.hanging.set()
        plugin = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                plugin.hanging.wait()
                reply = json.dumps(plugin.answer(self.path.strip("/"), json.loads(data or b"{}"))).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(reply)))
                self.end_headers()
                self.wfile.write(reply)

            def log_message(self, format: str, *args: object) -> None:
                pass

            def address_string(self) -> str:
                return "engine"

        class Server(socketserver.ThreadingUnixStreamServer):
            daemon_threads = True
            block_on_close = False

            def handle_error(self, request: object, client_address: object) -> None:
                pass  # the engine gave up waiting: what the test asked for

        self._server = Server(str(self.path), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    def stop(self) -> None:
        """End, and take the socket away. Idempotent."""
        self.hanging.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self.path.unlink(missing_ok=True)

    def named(self, method: str) -> list[dict[str, Any]]:
        """The requests of one method."""
        return [request for called, request in self.calls if called == f"VolumeDriver.{method}"]

    def answer(self, method: str, request: dict[str, Any]) -> dict[str, Any]:
        self.calls.append((method, request))
        if method == "Plugin.Activate":
            return {"Implements": ["VolumeDriver"]}
        verb, name = method.removeprefix("VolumeDriver."), request.get("Name", "")
        if verb == self.refuse:
            return {"Err": f"no {verb} today"}
        if verb == "Capabilities":
            return {"Capabilities": {"Scope": "global"}}
        if verb == "List":
            return {"Volumes": [self._described(each) for each in self.volumes]}
        if verb == "Create":
            self.volumes.setdefault(name, request.get("Opts") or {})
            (self.data / name).mkdir(exist_ok=True)
            return {"Err": ""}
        if name not in self.volumes:
            return {"Err": f"no such volume {name}"}
        if verb == "Get":
            return {"Volume": {**self._described(name), "Status": {"healthy": True}}}
        if verb == "Path":
            return {"Mountpoint": str(self.data / name)}
        if verb == "Mount":
            self.mounts.setdefault(name, set()).add(request["ID"])
            return {"Mountpoint": str(self.data / name)}
        if verb == "Unmount":
            self.mounts.get(name, set()).discard(request["ID"])
        if verb == "Remove":
            del self.volumes[name]
        return {"Err": ""}

    def _described(self, name: str) -> dict[str, Any]:
        return {"Name": name, "Mountpoint": str(self.data / name)}

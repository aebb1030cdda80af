"""A build told step by step as it goes, stages beside each other, in the form of BuildKit's solve status.

Each message has `vertexes` (steps that begin and end), `statuses` (layers on their way) or `logs` (output, in base64):
client.SolveStatus of BuildKit as JSON, which `docker buildx build --progress rawjson` prints.
"""

import base64
import hashlib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from scow.build.dockerfile import Dockerfile
from scow.build.report import StageEnded, StepEvent
from scow.wire.progress import ProgressMessage

ID: Final = "scow.build.status"
"""What the messages are called by: their `aux` is the status."""
_ENDS: Final = frozenset({"Pull complete", "Already exists", "Download complete"})
_CANCELED: Final = "Canceled: context canceled"

Vertex = dict[str, Any]


class Trace:
    """Turns events into statuses. `shown` are the platforms, of which each has as many stages as the file."""

    def __init__(self, emit: Callable[[ProgressMessage], None], file: Dockerfile, shown: Sequence[str]) -> None:
        self._say = emit
        self._file = file
        self._shown = shown
        self._first: dict[int, int] = {}
        self._open: dict[int, Vertex] = {}
        self._previous: dict[int, str] = {}
        self._broken: list[Vertex] = []
        self._begun: dict[tuple[int, str], str] = {}
        definition = self.begin(f"[internal] load build definition from {file.name}")
        self.end(definition)

    def __call__(self, event: StepEvent | StageEnded) -> None:
        """Hear an event."""
        if isinstance(event, StageEnded):
            vertex = self._open.pop(event.stage, None)
            if vertex is not None:
                self._broken.append(vertex)
            return
        if event.kind == "start":
            self._start(event)
            return
        vertex = self._open.get(event.stage)
        if vertex is None:
            return
        match event.kind:
            case "cached":
                vertex["cached"] = True
            case "output":
                self._log(vertex, event.stream, event.data)
            case "note":
                self._log(vertex, 1, f"{event.text}\n".encode())
            case "progress":
                if event.progress is not None:
                    self._progress(event.stage, vertex, event.progress)
            case "done":
                self._previous[event.stage] = vertex["digest"]
                self.end(self._open.pop(event.stage))

    def begin(self, name: str, inputs: Sequence[str] = ()) -> Vertex:
        """A step begins: what stands for it until its end."""
        vertex: Vertex = {"digest": f"sha256:{hashlib.sha256(name.encode()).hexdigest()}"}
        if inputs:
            vertex["inputs"] = list(inputs)
        vertex |= {"name": name, "started": _now()}
        self._emit({"vertexes": [vertex]})
        return vertex

    def end(self, vertex: Vertex, error: str = "") -> None:
        """A step has ended, well or not."""
        vertex["completed"] = _now()
        if error:
            vertex["error"] = error
        self._emit({"vertexes": [vertex]})

    def fail(self, why: str) -> None:
        """The build has failed: the first step that broke is why, the others were cancelled."""
        for number, vertex in enumerate(self._broken):
            self.end(vertex, why if number == 0 else _CANCELED)
        self._broken.clear()

    def _start(self, event: StepEvent) -> None:
        if event.stage not in self._first:
            if not event.text.rpartition("] ")[2].upper().startswith("FROM"):
                return  # an ARG before the first FROM: nothing is done
            self._first[event.stage] = event.step
        stage = self._file.stages[event.stage % len(self._file.stages)]
        platform = self._shown[event.stage // len(self._file.stages)] if len(self._shown) > 1 else ""
        title = stage.name or (f"stage-{stage.index}" if len(self._file.stages) > 1 else "")
        number, count = event.step - self._first[event.stage] + 1, len(stage.instructions) + 1
        place = " ".join(filter(None, (platform, title, f"{number}/{count}" if number <= count else "")))
        text = event.text.removeprefix(f"[{platform}] ")
        inputs = [self._previous[event.stage]] if event.stage in self._previous else []
        self._open[event.stage] = self.begin(f"[{place}] {text}" if place else text, inputs)

    def _log(self, vertex: Vertex, stream: int, data: bytes) -> None:
        text = base64.b64encode(data).decode()
        self._emit({"logs": [{"vertex": vertex["digest"], "stream": stream, "data": text, "timestamp": _now()}]})

    def _progress(self, stage: int, vertex: Vertex, message: ProgressMessage) -> None:
        if not message.id or not message.status or message.progress_detail is None:
            return
        detail, now = message.progress_detail, _now()
        status = {
            "id": message.id,
            "vertex": vertex["digest"],
            "name": message.status,
            "total": detail.total,
            "current": detail.current,
            "timestamp": now,
            "started": self._begun.setdefault((stage, message.id), now),
        }
        if message.status in _ENDS:
            status["completed"] = now
        self._emit({"statuses": [status]})

    def _emit(self, status: dict[str, Any]) -> None:
        # A copy: the message may wait while the step goes on.
        vertexes = [dict(vertex) for vertex in status.get("vertexes", ())]
        self._say(ProgressMessage(id=ID, aux={**status, **({"vertexes": vertexes} if vertexes else {})}))


def _now() -> str:
    """RFC 3339, as Go writes it."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")

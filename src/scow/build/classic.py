"""The lines of docker's classic builder, in its order: stages that are built at once are told one after the other."""

from collections.abc import Callable, Sequence

from scow.build.report import StageEnded, StepEvent
from scow.wire.progress import ProgressMessage

Emit = Callable[[ProgressMessage], None]


class ClassicLines:
    """Turns events into lines. The first stage that isn't ended is told as it goes; of later ones it is kept."""

    def __init__(self, emit: Emit, stages: Sequence[int], *, quiet: bool = False, remove: bool = True) -> None:
        self._emit = emit
        self._order = list(stages)
        self._kept: dict[int, list[StepEvent]] = {stage: [] for stage in stages}
        self._ended: set[int] = set()
        self._quiet = quiet
        self._remove = remove

    def __call__(self, event: StepEvent | StageEnded) -> None:
        """Hear an event."""
        if self._quiet:
            return
        if isinstance(event, StageEnded):
            self._ended.add(event.stage)
            while self._order and self._order[0] in self._ended:
                del self._order[0]
                if self._order:
                    for kept in self._kept.pop(self._order[0], []):
                        self._tell(kept)
        elif not self._order or event.stage == self._order[0] or event.stage not in self._kept:
            self._tell(event)
        else:
            self._kept[event.stage].append(event)

    def flush(self) -> None:
        """Tell what was kept of stages before the one that failed."""
        for stage in self._order[1:]:
            for kept in self._kept.pop(stage, []):
                self._tell(kept)
        self._order.clear()

    def _tell(self, event: StepEvent) -> None:
        if event.kind == "progress":
            if event.progress is not None:
                self._emit(event.progress)
            return
        if text := _text(event, self._remove):
            self._emit(ProgressMessage(stream=text))


def _text(event: StepEvent, remove: bool) -> str:
    match event.kind:
        case "start":
            return f"Step {event.step}/{event.total} : {event.text}\n"
        case "cached":
            return " ---> Using cache\n"
        case "container":
            return f" ---> Running in {event.text[:12]}\n"
        case "removed":
            return f"Removing intermediate container {event.text[:12]}\n" if remove else ""
        case "output":
            text = event.data.decode(errors="replace")
            return f"\x1b[91m{text}\x1b[0m" if event.stream == 2 else text
        case "note":
            return f"{event.text}\n"
        case _:
            return f" ---> {event.text.removeprefix('sha256:')[:12]}\n"

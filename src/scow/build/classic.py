"""The lines of docker's classic builder, in its order: stages that are built at once are told one after the other."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import msgspec

from scow.build.report import StageEnded, StepEvent
from scow.wire.progress import ProgressMessage

Emit = Callable[[ProgressMessage], None]
STAGE_KEPT: Final = 16 << 20  # bytes of output of a stage whose turn hasn't come
_CLIPPED: Final = b"[output clipped: too much for a stage that is told later]\n"
KEPT: Final = 1 << 20  # characters of a quiet build's lines, which a failure tells


class ClassicLines:
    """Turns events into lines. The first stage that isn't ended is told as it goes; of later ones it is kept.

    A quiet build is told when it fails. Without `remove` containers are not said to be removed, with `force_remove`
    those of commands that failed are, too.
    """

    def __init__(
        self,
        emit: Emit,
        stages: Sequence[int],
        *,
        quiet: bool = False,
        remove: bool = True,
        force_remove: bool = False,
    ) -> None:
        self._say = emit
        self._order = list(stages)
        self._kept: dict[int, list[StepEvent]] = {stage: [] for stage in stages}
        self._kept_sizes: dict[int, int] = {}
        self._ended: dict[int, StageEnded] = {}
        self._quiet = quiet
        self._silent: deque[ProgressMessage] = deque()
        self._silent_size = 0
        self._remove = remove
        self._force_remove = force_remove
        self._containers: dict[int, str] = {}

    def __call__(self, event: StepEvent | StageEnded) -> None:
        """Hear an event."""
        if isinstance(event, StageEnded):
            self._ended[event.stage] = event
            while self._order and self._order[0] in self._ended:
                self._end(self._ended[self._order.pop(0)])
                if self._order:
                    for kept in self._kept.pop(self._order[0], []):
                        self._tell(kept)
        elif not self._order or event.stage == self._order[0] or event.stage not in self._kept:
            self._tell(event)
        elif event.kind != "output" or self._room(event):
            self._kept[event.stage].append(event)

    def _room(self, event: StepEvent) -> bool:
        """Whether what a later stage writes is kept until its turn: some of it is."""
        before = self._kept_sizes.get(event.stage, 0)
        self._kept_sizes[event.stage] = before + len(event.data)
        if before <= STAGE_KEPT < before + len(event.data):
            clipped = msgspec.structs.replace(
                event, data=b"[output clipped: too much for a stage that is told later]\n"
            )
            self._kept[event.stage].append(clipped)
        return before + len(event.data) <= STAGE_KEPT

    def fail(self, why: str) -> None:
        """Tell what was kept of stages before the one that failed; why, the caller does."""
        for stage in self._order[1:]:
            for kept in self._kept.pop(stage, []):
                self._tell(kept)
        self._order.clear()
        for message in self._silent:
            self._say(message)
        self._silent.clear()

    def _end(self, ended: StageEnded) -> None:
        """Tell the image of a stage, as docker does; of the last one its caller does."""
        container = self._containers.pop(ended.stage, "")
        if container and not ended.id and self._force_remove:
            self._emit(ProgressMessage(stream=f"Removing intermediate container {container[:12]}\n"))
        if ended.id and self._order:
            self._emit(ProgressMessage(aux={"ID": ended.id}))

    def _emit(self, message: ProgressMessage) -> None:
        if not self._quiet:
            self._say(message)
        else:
            self._silent.append(message)
            self._silent_size += len(message.stream) + 100
            while self._silent_size > KEPT:
                self._silent_size -= len(self._silent.popleft().stream) + 100

    def _tell(self, event: StepEvent) -> None:
        if event.kind == "container":
            self._containers[event.stage] = event.text
        elif event.kind == "removed":
            self._containers.pop(event.stage, None)
        if event.kind == "progress":
            if event.progress is not None:
                self._emit(event.progress)
            return
        for text in _texts(event, self._remove):
            self._emit(ProgressMessage(stream=text))


def _texts(event: StepEvent, remove: bool) -> Iterator[str]:
    """An event's pieces, cut as docker cuts them."""
    match event.kind:
        case "start":
            yield f"Step {event.step}/{event.total} : {event.text}"
            yield "\n"
        case "cached":
            yield " ---> Using cache\n"
        case "container":
            yield f" ---> Running in {event.text[:12]}\n"
        case "removed":
            if remove:
                yield f"Removing intermediate container {event.text[:12]}\n"
        case "output":
            text = event.data.decode(errors="replace")
            yield f"\x1b[91m{text}\x1b[0m" if event.stream == 2 else text
        case "note":
            yield f"{event.text}\n"
        case _:
            yield f" ---> {event.text.removeprefix('sha256:')[:12]}\n"

"""What a build tells while it goes: facts about steps, which its listeners make into docker's lines or a display."""

from collections.abc import Callable
from typing import Literal

import msgspec

from scow.wire.progress import ProgressMessage

Kind = Literal["start", "cached", "container", "removed", "output", "note", "progress", "done"]


class StepEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Something happened in a step. `text` is the instruction, an ID, or a line of a note, by kind."""

    kind: Kind
    stage: int
    step: int  # from 1; in the order of the file, over all stages that are built
    total: int
    text: str = ""
    stream: int = 1
    data: bytes = b""  # of `output`
    progress: ProgressMessage | None = None


class StageEnded(msgspec.Struct, frozen=True):
    """Nothing more will be heard of a stage; `id` is its image's, empty if it failed."""

    stage: int
    id: str = ""


Report = Callable[[StepEvent | StageEnded], None]

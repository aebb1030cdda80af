"""What a check of the store says, line by line. Scow's own: POST /scow/system/check."""

from typing import ClassVar

from scow.wire.message import Message


class CheckMessage(Message, frozen=True, kw_only=True):
    """One line: a step that has come so far (`step`, `done`, `total`), a finding (`kind` and on), or the summary."""

    OMIT_EMPTY: ClassVar[frozenset[str]] = frozenset(
        {
            *("step", "total", "kind", "id", "problem", "repair", "repaired", "images", "containers"),
            *("summary", "checked", "found", "left"),
        }
    )

    step: str = ""
    done: int = 0
    total: int = 0
    kind: str = ""  # what is not as it should be: layer, index, blob, document, mount, ...
    id: str = ""
    problem: str = ""
    repair: str = ""  # what was done, or could not be
    repaired: bool = False
    images: list[str] | None = None  # which it concerns
    containers: list[str] | None = None  # running ones, which see the damage
    summary: bool = False
    checked: int = 0
    found: int = 0
    left: int = 0
    error: str = ""

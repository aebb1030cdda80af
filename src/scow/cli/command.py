"""What a command is: its arguments, its flags, and the function that does it."""

from __future__ import annotations

from scow.cli.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from scow.cli.flags import Flag, Options
    from scow.cli.session import Session


class Command:
    """One command. `arguments` is what follows the name in the usage line; `action` returns the exit code.

    `least` and `most` bound the number of arguments (most None: no bound).
    """

    __slots__ = ("action", "arguments", "flags", "interspersed", "least", "long", "most")

    def __init__(
        self,
        action: Callable[[Session, Options], int | None],
        arguments: str = "",
        flags: Sequence[Flag] = (),
        least: int = 0,
        most: int | None = 0,
        interspersed: bool = True,
        long: str = "",
    ) -> None:
        self.action = action
        self.arguments = arguments
        self.flags = flags
        self.least = least
        self.most = most
        self.interspersed = interspersed
        self.long = long

    def arguments_text(self) -> str:
        options = " [OPTIONS]" if any(not flag.hidden for flag in self.flags) else ""
        return options + (f" {self.arguments}" if self.arguments else "")

    def check_arguments(self, path: str, count: int) -> None:
        """Raise UsageError if `count` arguments are too few or too many; `path` is what the user typed."""
        least, most = self.least, self.most
        if count >= least and (most is None or count <= most):
            return
        if most == 0:
            raise UsageError(f"'{path}' accepts no arguments")
        if most == least:
            raise UsageError(f"'{path}' requires {least} argument{'s' * (least != 1)}")
        if most is None:
            raise UsageError(f"'{path}' requires at least {least} argument{'s' * (least != 1)}", hint="See")
        if least == 0:
            raise UsageError(f"'{path}' requires at most {most} argument{'s' * (most != 1)}")
        raise UsageError(f"'{path}' requires at least {least} and at most {most} argument{'s' * (most != 1)}")

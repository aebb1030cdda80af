"""What the client says when something goes wrong, and which exit code it leaves with."""


class CliError(Exception):
    """Something that the user is told on stderr; `exit_code` is what the process ends with."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.message = message
        self.exit_code = exit_code


class FlagError(CliError):
    """The command line makes no sense: the usage line of the command follows the message. Exit code 125."""

    def __init__(self, message: str) -> None:
        super().__init__(message, 125)


class UsageError(CliError):
    """Too few or too many arguments, or an unknown command. `hint` is the word before the `--help` advice."""

    def __init__(self, message: str, hint: str = "Run") -> None:
        super().__init__(message, 1)
        self.hint = hint


class Exit(Exception):
    """Leave with this code and say nothing more: all has been said already."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code


class EngineError(CliError):
    """The engine answered with an error. `reason` is its own sentence."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"Error response from daemon: {reason}")
        self.status = status
        self.reason = reason


class CannotConnect(CliError):
    """No engine answers at the host."""

    def __init__(self, host: str, detail: str = "") -> None:
        super().__init__(detail or f"Cannot connect to the Docker daemon at {host}. Is the docker daemon running?")
        self.host = host

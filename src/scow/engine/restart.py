"""Restart policies: whether an ended container is started again, and after how long. Pure."""

from typing import Final

from scow.wire.host_config import RestartPolicy

BACKOFF_FIRST_S: Final = 0.1
BACKOFF_LIMIT_S: Final = 60.0
BACKOFF_RESET_S: Final = 10.0
"""A run that lasted longer than this resets the back-off."""


def should_restart(policy: RestartPolicy, exit_code: int, restarts: int, *, stopped_by_user: bool) -> bool:
    """Tell whether a container that ended by itself is started again."""
    if stopped_by_user:
        return False
    if policy.name in ("always", "unless-stopped"):
        return True
    if policy.name == "on-failure":
        return exit_code != 0 and (policy.maximum_retry_count == 0 or restarts < policy.maximum_retry_count)
    return False


def should_start_at_boot(policy: RestartPolicy, exit_code: int, restarts: int, *, stopped_by_user: bool) -> bool:
    """Tell whether a container that does not run is started when the engine starts: `always` forgets a user's stop."""
    if policy.name == "always":
        return True
    return should_restart(policy, exit_code, restarts, stopped_by_user=stopped_by_user)


def next_backoff(previous_s: float) -> float:
    """The next wait in seconds: twice the last one, up to a minute."""
    return min(BACKOFF_LIMIT_S, previous_s * 2) if previous_s else BACKOFF_FIRST_S

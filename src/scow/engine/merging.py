"""What a container is configured with, from what was asked for and what its image says. Docker's rules, pure."""

import posixpath
from typing import Any

import msgspec

from scow.errors import InvalidArgument
from scow.oci.image_config import ExecConfig
from scow.wire.container import ContainerConfig, HealthConfig


class NoCommand(InvalidArgument):
    """Neither the request nor the image says what to run."""

    def __init__(self) -> None:
        super().__init__("no command specified")


def merge_config(asked: ContainerConfig, image: ExecConfig) -> ContainerConfig:
    """Fill what was not asked for from the image."""
    entrypoint, cmd = asked.entrypoint, asked.cmd
    if not entrypoint:
        if not cmd:
            cmd = image.cmd
        if entrypoint is None:
            entrypoint = image.entrypoint
    if entrypoint == [""]:  # the client's way to say "none at all"
        entrypoint = None
    return msgspec.structs.replace(
        asked,
        user=asked.user or image.user,
        exposed_ports=_merge_keys(image.exposed_ports, asked.exposed_ports),
        volumes=_merge_keys(image.volumes, asked.volumes),
        env=merge_env(asked.env or [], image.env or []),
        labels={**(image.labels or {}), **(asked.labels or {})},
        working_dir=_clean(asked.working_dir or image.working_dir),
        stop_signal=asked.stop_signal or image.stop_signal,
        stop_timeout=asked.stop_timeout if asked.stop_timeout is not None else image.stop_timeout,
        shell=asked.shell or image.shell,
        healthcheck=_merge_healthcheck(asked.healthcheck, image),
        entrypoint=entrypoint,
        cmd=cmd,
    )


def arguments(config: ContainerConfig) -> tuple[str, ...]:
    """What will be executed. Raises NoCommand."""
    args = (*(config.entrypoint or ()), *(config.cmd or ()))
    if not args:
        raise NoCommand
    return args


def merge_env(asked: list[str], image: list[str]) -> list[str]:
    """The request's variables, then the image's that it doesn't set."""
    names = {variable.partition("=")[0] for variable in asked}
    return [*asked, *(variable for variable in image if variable.partition("=")[0] not in names)]


def _merge_keys(lower: dict[str, Any] | None, upper: dict[str, Any] | None) -> dict[str, Any] | None:
    merged: dict[str, Any] = {**{_port(key): {} for key in lower or {}}, **{_port(key): {} for key in upper or {}}}
    return merged or None


def _port(key: str) -> str:
    return f"{key}/tcp" if key.isdigit() else key


def _clean(path: str) -> str:
    return posixpath.normpath(path).replace("//", "/") if path else ""


def _merge_healthcheck(asked: HealthConfig | None, image: ExecConfig) -> HealthConfig | None:
    base = image.healthcheck
    if base is None:
        return asked
    if asked is None:
        asked = HealthConfig()
    return HealthConfig(
        test=asked.test or base.test,
        interval=asked.interval or base.interval,
        timeout=asked.timeout or base.timeout,
        start_period=asked.start_period or base.start_period,
        start_interval=asked.start_interval or base.start_interval,
        retries=asked.retries or base.retries,
    )

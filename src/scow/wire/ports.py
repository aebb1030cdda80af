"""Published ports, by container port (`80/tcp`)."""

from scow.wire.message import Message


class PortBinding(Message, frozen=True, kw_only=True):
    """Where on the host a container's port can be reached; an empty port means any free one."""

    host_ip: str = ""
    host_port: str = ""


PortMap = dict[str, list[PortBinding] | None]

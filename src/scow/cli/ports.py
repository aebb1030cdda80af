"""`--publish` and `--expose`: ports and ranges of ports."""

from __future__ import annotations

from scow.cli.errors import CliError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

PROTOCOLS = ("tcp", "udp", "sctp")


def parse_range(text: str, what: str) -> tuple[int, int]:
    """Understand "80" or "80-90". Raises CliError naming `what`."""
    first, dash, last = text.partition("-")
    if not first.isdigit() or (dash and not last.isdigit()) or int(first) > 65535 or int(last or first) > 65535:
        raise CliError(f"invalid {what}: {text}")
    start, end = int(first), int(last or first)
    if end < start:
        raise CliError(f"invalid {what}: invalid range specified for port: {text}")
    return start, end


def long_form(text: str) -> str:
    """Turn "target=80,published=8080,protocol=udp" into "8080:80/udp"; other text stays."""
    if "=" not in text:
        return text
    values = dict(part.partition("=")[::2] for part in text.split(","))
    if "target" not in values or any(key not in ("target", "published", "protocol", "mode") for key in values):
        raise CliError(f"invalid publish opts format (should be name=value but got '{text}')")
    target = f"{values['target']}/{values.get('protocol', 'tcp')}"
    return f"{values['published']}:{target}" if values.get("published") else target


def parse_publish(texts: Sequence[str]) -> dict[str, list[dict[str, str]]]:
    """Understand `--publish` values as PortBindings: "80/tcp" -> host addresses and ports. Raises CliError."""
    bindings: dict[str, list[dict[str, str]]] = {}
    for text in texts:
        ports, _, protocol = long_form(text).partition("/")
        protocol = protocol.lower() or "tcp"
        if protocol not in PROTOCOLS:
            raise CliError(f"invalid proto: {protocol}")
        rest, _, container = ports.rpartition(":")
        address, colon, host = rest.rpartition(":")
        if not colon:
            address, host = "", rest
        if not container:
            raise CliError(f"no port specified: {text}<empty>")
        first, last = parse_range(container, "containerPort")
        start, end = parse_range(host, "hostPort") if host else (0, 0)
        # A range of host ports for one container port means "one of these".
        if host and end - start != last - first and first != last:
            raise CliError(f"invalid ranges specified for container and host Ports: {container} and {host}")
        address = address.removeprefix("[").removesuffix("]")
        if address and not all(letter in "0123456789abcdefABCDEF.:%" for letter in address):
            raise CliError(f"invalid IP address: {address}")
        for number in range(first, last + 1):
            if not host:
                chosen = ""
            elif first == last and start != end:
                chosen = f"{start}-{end}"
            else:
                chosen = str(start + number - first)
            bindings.setdefault(f"{number}/{protocol}", []).append({"HostIp": address, "HostPort": chosen})
    return bindings


def parse_expose(texts: Sequence[str]) -> dict[str, dict[str, str]]:
    """Understand `--expose` values. Raises CliError."""
    exposed: dict[str, dict[str, str]] = {}
    for text in texts:
        if ":" in text:
            raise CliError(f"invalid port format for --expose: {text}")
        ports, _, protocol = text.partition("/")
        try:
            first, last = parse_range(ports, "port")
        except CliError:
            raise CliError(f"invalid range format for --expose: {text}, error: invalid port") from None
        for number in range(first, last + 1):
            exposed[f"{number}/{protocol.lower() or 'tcp'}"] = {}
    return exposed

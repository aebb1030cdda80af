"""The ports of EXPOSE: `80`, `53/udp`, `8000-8010`, and docker's longer forms with a host's address and port."""

from typing import Final

PROTOCOLS: Final = ("tcp", "udp", "sctp")


def parse_exposed(text: str) -> list[str]:
    """The keys in an image's config, `80/tcp`, that a word of EXPOSE means. Raises ValueError in docker's words."""
    written, slash, protocol = text.partition("/")
    protocol = protocol.lower() if slash and protocol else "tcp"
    container = written.rpartition(":")[2]
    if not container:
        raise ValueError(f"no port specified: {text}<empty>")
    low, dash, high = container.partition("-")
    first, last = _number(low), _number(high if dash else low)
    if first is None or last is None or first > last:
        raise ValueError(f"invalid containerPort: {container}")
    if protocol not in PROTOCOLS:
        raise ValueError(f"invalid proto: {protocol}")
    return [f"{port}/{protocol}" for port in range(first, last + 1)]


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 and int(text) < 65536 else None

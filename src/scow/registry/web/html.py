"""What every page shares: escaping, the frame around the content, sizes and ages in words, headers."""

import hashlib
import re
from html import escape
from pathlib import Path
from typing import Final

import msgspec

from scow.registry.replies import Reply

_HERE: Final = Path(__file__).parent
_TYPES: Final = {
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
ASSETS: Final = {name: (_HERE / name).read_bytes() for name in _TYPES}
ETAGS: Final = {name: hashlib.sha256(data).hexdigest()[:16] for name, data in ASSETS.items()}

# Controls, marks without width, and those that change the direction of text: "gnp.exe" must not be read as "exe.png".
_UNSEEN: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]")

# `same-origin` rather than `no-referrer`, with which browsers would send forms with `Origin: null`.
SECURITY: Final = (
    (
        "Content-Security-Policy",
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'",
    ),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "same-origin"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
)


class Viewer(msgspec.Struct, frozen=True):
    """Who looks at a page, as its head shows it."""

    name: str | None = None  # None for nobody; empty where nobody has to log in
    can_log_out: bool = False
    on_login: bool = False  # on the very page to log in


def e(value: object) -> str:
    """A value as text of a page or of a quoted attribute. What would turn or hide the text around it is spelt out."""
    text = str(value)
    if not text.isascii() or not text.isprintable():
        text = _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
    return escape(text, quote=True)


def size_text(size: int) -> str:
    """Bytes in words, by powers of 1000 as docker shows them."""
    value, units = float(size), ("B", "kB", "MB", "GB", "TB")
    for unit in units[:-1]:
        if value < 999.5:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} {units[-1]}"


def age_text(seconds: float) -> str:
    """A span of time in words."""
    for unit, length in (("year", 31557600), ("month", 2629800), ("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            count = int(seconds // length)
            return f"{count} {unit}{'s' if count != 1 else ''} ago"
    return "just now"


def asset_reply(name: str, known: str | None) -> Reply | None:
    """A file that pages need; None if there is no such file. `known` is the request's If-None-Match."""
    if name not in ASSETS:
        return None
    etag = f'"{ETAGS[name]}"'
    headers = (("ETag", etag), ("Cache-Control", "public, max-age=31536000, immutable"), *SECURITY)
    if known is not None and etag in known:
        return Reply(304, headers)
    return Reply(200, (("Content-Type", _TYPES[name]), *headers), ASSETS[name])


def page_reply(
    title: str, content: str, *, viewer: Viewer, status: int = 200, headers: tuple[tuple[str, str], ...] = ()
) -> Reply:
    """A whole page. `content` is HTML."""
    who = _who(viewer)
    text = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{e(title)} · Scow registry</title>
<link rel="icon" href="/-/assets/icon.svg?v={ETAGS["icon.svg"]}">
<link rel="stylesheet" href="/-/assets/page.css?v={ETAGS["page.css"]}">
<script src="/-/assets/page.js?v={ETAGS["page.js"]}" defer></script>
</head>
<body>
<a class="skip" href="#content">Skip to content</a>
<header><div class="bar"><a class="brand" href="/">Scow <span>registry</span></a>{who}</div></header>
<main id="content">
{content}
</main>
</body>
</html>
"""
    kind = ("Content-Type", "text/html; charset=utf-8")
    return Reply(status, (kind, ("Cache-Control", "no-store"), *SECURITY, *headers), text.encode("utf-8", "replace"))


def _who(viewer: Viewer) -> str:
    if viewer.on_login or viewer.name == "":
        return ""
    if viewer.name is None:
        return '<a class="who" href="/-/login">Log in</a>'
    name = f"<span>{e(viewer.name)}</span>"
    if not viewer.can_log_out:  # a certificate or a password of the browser's own
        return f'<div class="who">{name}</div>'
    return f'<form class="who" method="post" action="/-/logout">{name}<button>Log out</button></form>'

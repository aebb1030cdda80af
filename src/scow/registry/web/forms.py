"""What the pages' own forms send: read with a bound, and only from the pages themselves."""

from typing import Final
from urllib.parse import parse_qs, urlsplit

from scow.registry.calls import Call
from scow.registry.errors import AccessDenied, QueryInvalid

FORM_LIMIT: Final = 16 << 10


async def read_form(call: Call, url: str) -> dict[str, str]:
    """The fields of a form that one of our pages has sent. Raises AccessDenied and QueryInvalid.

    Browsers send cookies and passwords by themselves, so a page elsewhere must not be able to post it. They name the
    page's origin with every form. `url` is the registry's as clients reach it; empty: what the request says.
    """
    try:
        origin = urlsplit(call.headers.get("Origin", "")).netloc
    except ValueError:
        origin = ""
    ours = {urlsplit(call.base_url).netloc, urlsplit(url).netloc} - {""}
    if call.headers.get("Sec-Fetch-Site", "same-origin") != "same-origin" or origin not in ours:
        raise AccessDenied("this must be asked for on the registry's own page")
    data = await call.form(FORM_LIMIT)
    try:
        fields = parse_qs(data.decode(), keep_blank_values=True, max_num_fields=20)
    except ValueError as error:
        raise QueryInvalid("the form is malformed") from error
    return {name: values[0] for name, values in fields.items()}


def local_path(text: str | None) -> str:
    """Where to go after a login: a page of ours, whatever somebody has put into the link."""
    if not text or not text.isascii() or not text.isprintable() or "\\" in text:
        return "/"
    is_page = text == "/" or text.startswith(("/?", "/-/"))
    return text if is_page and not text.startswith(("/-/log", "/-/oidc")) else "/"

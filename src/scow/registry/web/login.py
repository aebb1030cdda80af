"""The page to log in: a form for name and password, and the way out again."""

from http import HTTPStatus
from urllib.parse import quote

from scow.registry.access import Access
from scow.registry.calls import Call
from scow.registry.errors import MethodUnsupported
from scow.registry.metrics import Metrics
from scow.registry.replies import Headers, Reply
from scow.registry.sessions import end
from scow.registry.web.forms import local_path, read_form
from scow.registry.web.html import SECURITY, Viewer, e, page_reply


class Login:
    """The endpoints `/-/login` and `/-/logout`."""

    def __init__(self, access: Access, metrics: Metrics, url: str) -> None:
        """`url` is the registry's as clients reach it; empty: what the request says."""
        self._access = access
        self._metrics = metrics
        self._url = url

    async def answer(self, call: Call) -> Reply:
        """Show the form, or take it. Raises AccessDenied, QueryInvalid and TooManyRequests."""
        if call.method in ("GET", "HEAD"):
            call.caller = caller = await self._access.identify(call)
            after = local_path(call.parameter("next"))
            if caller.free or caller.name is not None:
                return went(after)
            return await self._form(after)
        if call.method != "POST":
            raise MethodUnsupported(call.method, ("GET", "HEAD", "POST"))
        fields = await read_form(call, self._url)
        name, password, after = fields.get("name", ""), fields.get("password", ""), local_path(fields.get("next"))
        who = await self._access.log_in(call, name, password)
        if who is None:
            self._metrics.count("authentication_failures")
            return await self._form(after, name, "The name or the password is wrong.")
        call.caller = self._access.caller(who)
        return went(after, (await self._access.sessions.begin(call, who),))

    async def answer_end(self, call: Call) -> Reply:
        """Log out. Raises AccessDenied."""
        if call.method != "POST":
            raise MethodUnsupported(call.method, ("POST",))
        await read_form(call, self._url)
        return went("/", (end(call),))

    async def _form(self, after: str, name: str = "", mistake: str = "") -> Reply:
        issuers = "".join(
            f'<a class="by" href="/-/oidc/{issuer.settings.name}?next={quote(after, safe="")}">'
            f"Log in with {e(issuer.title)}</a> "
            for issuer in self._access.issuers.all
        )
        with_password = not issuers or await self._access.has_accounts()
        content = f"<h1>Log in</h1>{issuers}" + (_password_form(after, name, mistake) if with_password else "")
        status = HTTPStatus.FORBIDDEN if mistake else HTTPStatus.OK
        return page_reply("Log in", content, viewer=Viewer(on_login=True), status=status)


def _password_form(after: str, name: str, mistake: str) -> str:
    said = f'<p class="mistake" role="alert">{e(mistake)}</p>' if mistake else ""
    focus = ("", " autofocus") if name else (" autofocus", "")
    return (
        f'<div class="card narrow"><form class="login" method="post" action="/-/login">{said}'
        f'<input type="hidden" name="next" value="{e(after)}">'
        f'<label>Name <input name="name" value="{e(name)}" autocomplete="username" autocapitalize="none" '
        f'spellcheck="false" required{focus[0]}></label>'
        '<label>Password <input type="password" name="password" autocomplete="current-password" '
        f"required{focus[1]}></label><button>Log in</button></form></div>"
    )


def went(path: str, headers: Headers = ()) -> Reply:
    """An answer that sends the browser on to a page of ours."""
    return Reply(HTTPStatus.SEE_OTHER, (("Location", path), ("Cache-Control", "no-store"), *SECURITY, *headers))


def login_path(call: Call) -> str:
    """The page to log in, which leads back to the page that was asked for."""
    return f"/-/login?next={quote(call.raw_path, safe='')}"

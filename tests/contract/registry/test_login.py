"""Logging in on the registry's page: the form, the cookie, and what it is worth."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import aiohttp
import msgspec
import pytest

from scow.registry.accounts import Account
from scow.registry.passwords import hash_password
from scow.registry.server import Server
from scow.registry.settings import Auth, Rule, Settings, Token

from .conftest import Answer, Client, Running

ANN, BOB = hash_password("ann's password"), hash_password("bob's password")
RULES = [
    Rule(repositories=["**"], actions=["*"], users=["ann"]),
    Rule(repositories=["open/**"], actions=["pull"], anonymous=True),
]


class Browser(Client):
    """Keeps cookies, names its origin, and doesn't follow redirects."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        super().__init__(session, url)
        self.cookie = ""

    async def __call__(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        if self.cookie:
            headers.setdefault("Cookie", self.cookie)
        answer = await super().__call__(method, path, body, **headers)
        for line in answer.headers.getall("Set-Cookie", []):
            value = line.partition(";")[0]
            self.cookie = value if value.partition("=")[2] else ""
        return answer

    async def submit(self, path: str, **fields: str) -> Answer:
        form = {"Content_Type": "application/x-www-form-urlencoded", "Origin": self.url}
        return await self("POST", path, urlencode(fields).encode(), **form)

    async def log_in(self, name: str = "ann", password: str = "ann's password", after: str = "/") -> Answer:
        return await self.submit("/-/login", name=name, password=password, next=after)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return msgspec.structs.replace(settings, auth=Auth(rules=RULES))


@pytest.fixture
async def browser(running: Running, session: aiohttp.ClientSession) -> Browser:
    for name, hashed in (("ann", ANN), ("bob", BOB)):
        await running.registry.accounts.put(name, Account(hashed))
    return Browser(session, running.url)


async def test_whoever_may_not_read_is_led_to_the_form_and_back(browser: Browser) -> None:
    path = "/-/repositories/secret/app?q=v1"
    refused = await browser("GET", path)
    assert refused.status == 303
    form = await browser("GET", refused.headers["Location"])
    assert form.status == 200
    after = re.search(r'name="next" value="([^"]*)"', form.body.decode())
    assert after is not None
    assert after[1] == path
    answer = await browser.log_in(after=after[1])
    assert (answer.status, answer.headers["Location"]) == (303, path)
    assert (await browser("GET", path)).status == 404  # it does not exist, and she may know
    assert (await browser("GET", "/-/login")).headers["Location"] == "/"


async def test_the_head_of_a_page_says_who_it_is_and_lets_them_go(browser: Browser) -> None:
    assert b'href="/-/login"' in (await browser("GET", "/")).body
    await browser.log_in()
    assert b"<span>ann</span><button>Log out</button>" in (await browser("GET", "/")).body
    answer = await browser.submit("/-/logout")
    assert (answer.status, answer.headers["Location"]) == (303, "/")
    assert b'href="/-/login"' in (await browser("GET", "/")).body


async def test_a_cookie_is_kept_from_scripts_and_other_sites(browser: Browser) -> None:
    (line,) = (await browser.log_in()).headers.getall("Set-Cookie")
    assert line.startswith("scow-session=")
    assert line.endswith("; Path=/; Max-Age=28800; HttpOnly; SameSite=Lax")


async def test_behind_https_the_cookie_is_for_https(
    serve: Callable[..., Any], settings: Settings, session: aiohttp.ClientSession
) -> None:
    running = await serve(settings, proxies=["127.0.0.1"])
    await running.registry.accounts.put("ann", Account(ANN))
    browser = Browser(session, running.url)
    data = urlencode({"name": "ann", "password": "ann's password"}).encode()
    forwarded = {"X_Forwarded_Proto": "https", "X_Forwarded_Host": "registry.example"}
    answer = await browser("POST", "/-/login", data, Origin="https://registry.example", **forwarded)
    assert answer.headers["Set-Cookie"].startswith("__Host-scow-session=")
    assert answer.headers["Set-Cookie"].endswith("; Secure")
    assert b"<span>ann</span>" in (await browser("GET", "/", **forwarded)).body


@pytest.mark.parametrize(("name", "password"), [("ann", "wrong"), ("nobody", "x"), ("", ""), ('<b>"', "x")])
async def test_a_wrong_password_gets_the_form_again(browser: Browser, name: str, password: str) -> None:
    answer = await browser.log_in(name, password)
    assert answer.status == 403
    assert "Set-Cookie" not in answer.headers
    assert "WWW-Authenticate" not in answer.headers  # no window of the browser's own
    assert b"The name or the password is wrong." in answer.body
    assert b"<b>" not in answer.body


async def test_a_form_elsewhere_logs_nobody_in_or_out(browser: Browser) -> None:
    data = urlencode({"name": "ann", "password": "ann's password"}).encode()
    for headers in (
        {},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": browser.url, "Sec_Fetch_Site": "cross-site"},
    ):
        for path in ("/-/login", "/-/logout"):
            assert (await browser("POST", path, data, **headers)).status == 403
    assert not browser.cookie


@pytest.mark.parametrize(
    "after", ["https://evil.example/", "//evil.example", "/\\evil.example", "/-/logout", "/v2/", "/-/x\r\nX: y", ""]
)
async def test_a_login_leads_to_pages_alone(browser: Browser, after: str) -> None:
    assert (await browser.log_in(after=after)).headers["Location"] == "/"


async def test_the_api_takes_no_cookies(browser: Browser) -> None:
    await browser.log_in()
    assert (await browser("GET", "/v2/secret/app/tags/list")).status == 401
    assert (await browser("DELETE", "/v2/open/app/manifests/v1")).status == 401


async def test_a_session_ends_with_the_password_and_with_the_account(browser: Browser, running: Running) -> None:
    accounts = running.registry.accounts
    for change in (accounts.put("ann", Account(hash_password("new"))), accounts.remove("ann")):
        await browser.log_in(password="ann's password")
        assert browser.cookie
        await change
        running.registry.passwords.forget()
        assert b"<span>ann</span>" not in (await browser("GET", "/")).body
        await accounts.put("ann", Account(ANN))
        running.registry.passwords.forget()


async def test_a_session_ends_with_its_time(
    serve: Callable[..., Any], settings: Settings, session: aiohttp.ClientSession
) -> None:
    running = await serve(settings, auth=msgspec.structs.replace(settings.auth, session_life_s=0))
    await running.registry.accounts.put("ann", Account(ANN))
    browser = Browser(session, running.url)
    await browser.log_in()
    assert browser.cookie
    assert b"<span>ann</span>" not in (await browser("GET", "/")).body


async def test_a_session_of_one_process_is_good_at_another(
    browser: Browser, running: Running, settings: Settings, session: aiohttp.ClientSession
) -> None:
    await browser.log_in()
    other = Server(running.registry, settings)
    browser.url = await other.start()
    assert b"<span>ann</span>" in (await browser("GET", "/")).body
    await other.aclose()


@pytest.mark.parametrize("change", ["", "x", "e30.e30.e30"])
async def test_a_forged_cookie_is_nobodys(browser: Browser, change: str) -> None:
    await browser.log_in()
    browser.cookie = browser.cookie[:-1] + change if len(change) < 2 else f"scow-session={change}"
    assert b'href="/-/login"' in (await browser("GET", "/")).body


async def test_a_token_for_clients_is_no_session(
    serve: Callable[..., Any], settings: Settings, session: aiohttp.ClientSession
) -> None:
    running = await serve(settings, auth=Auth(rules=RULES, token=Token()))
    await running.registry.accounts.put("ann", Account(ANN))
    browser = Browser(session, running.url)
    form = urlencode({"grant_type": "password", "username": "ann", "password": "ann's password"}).encode()
    token = (await browser("POST", "/token", form)).json["token"]
    browser.cookie = f"scow-session={token}"
    assert b'href="/-/login"' in (await browser("GET", "/")).body
    await browser.log_in()
    bearer = "Bearer " + browser.cookie.partition("=")[2]
    assert (await browser("GET", "/v2/", Authorization=bearer, Cookie="")).status == 401


async def test_deletion_by_whoever_has_logged_in(browser: Browser, session: aiohttp.ClientSession) -> None:
    path = "/-/images/open/app/v1"
    assert (await browser.submit(path, confirm="yes")).headers["Location"].startswith("/-/login?next=")
    await browser.log_in("bob", "bob's password")
    assert (await browser.submit(path, confirm="yes")).status == 403
    await browser.log_in()
    assert (await browser.submit(path, confirm="no")).status == 403
    assert (await browser.submit(path, confirm="yes")).status == 404  # allowed, but there is none


async def test_the_audit_log_tells_of_logins(
    serve: Callable[..., Any], settings: Settings, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    file = tmp_path / "audit.log"
    running = await serve(settings, auth=msgspec.structs.replace(settings.auth, audit_log=str(file)))
    await running.registry.accounts.put("ann", Account(ANN))
    browser = Browser(session, running.url)
    await browser.log_in(password="wrong")
    await browser.log_in()
    await browser("GET", "/-/login")
    await running.server.aclose()
    await running.registry.aclose()
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(line["action"], line["status"], line["user"]) for line in lines] == [
        ("POST web-login", 403, None),
        ("POST web-login", 303, "ann"),
    ]


async def test_where_nobody_has_to_log_in_there_is_no_form(
    serve: Callable[..., Any], settings: Settings, session: aiohttp.ClientSession
) -> None:
    browser = Browser(session, (await serve(settings, auth=Auth())).url)
    assert (await browser("GET", "/-/login")).headers["Location"] == "/"
    assert b"/-/login" not in (await browser("GET", "/")).body


@pytest.mark.parametrize("header", ["Host", "Origin"])
async def test_half_an_address_is_no_address(
    serve: Callable[..., Any], settings: Settings, session: aiohttp.ClientSession, header: str
) -> None:
    browser = Browser(session, (await serve(settings)).url)
    value = {"Host": "[::1", "Origin": "http://[::1"}[header]
    async with session.post(f"{browser.url}/-/login", data=b"name=x", headers={header: value}) as answer:
        assert answer.status == 403

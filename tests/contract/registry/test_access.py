"""HTTP Basic with users of the registry and of an htpasswd file."""

import asyncio
import base64
import hashlib
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import bcrypt
import pytest

from scow.errors import InvalidArgument
from scow.registry.accounts import Account, RefreshToken
from scow.registry.command import main
from scow.registry.errors import TooManyRequests
from scow.registry.htpasswd import HtpasswdInvalid, read_htpasswd
from scow.registry.passwords import CHECKS, TRIES_OF_NAME, Delays, hash_password
from scow.registry.settings import Auth, Gc, Limits, Rule, Settings, SettingsInvalid, Token

from .conftest import Client, Running, digest_of


def count_checks(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What bcrypt is given to check from now on."""
    checks: list[Any] = []
    check = bcrypt.checkpw
    monkeypatch.setattr("bcrypt.checkpw", lambda *given: checks.append(given) or check(*given))
    return checks


def basic(name: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


async def test_with_the_first_user_everything_needs_a_password(client: Client, running: Running) -> None:
    await running.registry.accounts.put("ann", Account(hash_password("secret")))
    client.url = running.url
    for method, path in (("GET", "/v2/"), ("POST", "/v2/a/blobs/uploads/"), ("GET", "/v2/a/tags/list")):
        answer = await client(method, path)
        assert (answer.status, answer.codes) == (401, ["UNAUTHORIZED"])
        assert answer.headers.getall("WWW-Authenticate") == ['Basic realm="scow registry"']
    assert (await client("GET", "/v2/", Authorization=basic("ann", "secret"))).status == 200
    assert (await client("GET", "/v2/", Authorization=basic("ann", "secret"))).status == 200


@pytest.mark.parametrize(
    "header",
    [
        basic("ann", "wrong"),
        basic("bob", "secret"),
        basic("", ""),
        "Basic",
        "Basic !!!",
        "Bearer x",
        "x" * 7000,
        basic("ann", "x" * 200),
        "Basic " + base64.b64encode(b"ann").decode(),
        "Basic /////w==",
    ],
)
async def test_wrong_credentials_are_refused(client: Client, running: Running, header: str) -> None:
    await running.registry.accounts.put("ann", Account(hash_password("secret")))
    answer = await client("GET", "/v2/", Authorization=header)
    assert (answer.status, answer.codes) == (401, ["UNAUTHORIZED"])


async def test_reading_can_be_open_while_writing_is_not(
    serve: Callable[..., Any], settings: Settings, client: Client
) -> None:
    running = await serve(settings, auth=Auth(anonymous_pull=True))
    await running.registry.accounts.put("ann", Account(hash_password("secret")))
    client.url = running.url
    assert (await client("GET", "/v2/")).status == 200
    assert (await client("POST", "/v2/a/blobs/uploads/")).status == 401
    for path in ("/v2//blobs/uploads/", f"/v2//blobs/uploads/?digest={digest_of(b'x')}", "/v2/%2Fblobs/uploads/"):
        assert (await client("POST", path, b"x")).status == 404  # a repository without a name is nobody's
    assert await running.registry.objects.staged() == []


async def test_users_of_an_htpasswd_file_and_its_change(
    serve: Callable[..., Any], settings: Settings, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scow.registry.passwords.FRESH_S", 0)
    path = tmp_path / "htpasswd"
    path.write_text(f"# users\n\nbob:{hash_password('one').replace('$2b$', '$2y$')}\n")
    client.url = (await serve(settings, auth=Auth(htpasswd=str(path)))).url
    assert (await client("GET", "/v2/")).status == 401
    assert (await client("GET", "/v2/", Authorization=basic("bob", "one"))).status == 200
    path.write_text(f"bob:{hash_password('other')}\neve:{hash_password('three')}\n")
    assert (await client("GET", "/v2/", Authorization=basic("bob", "one"))).status == 401
    assert (await client("GET", "/v2/", Authorization=basic("bob", "other"))).status == 200


@pytest.mark.parametrize("damage", ["", "ann:$2y$10$cut", "ann", None])
async def test_a_slip_in_the_htpasswd_file_shuts_nobody_out(
    serve: Callable[..., Any],
    settings: Settings,
    client: Client,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    damage: str | None,
) -> None:
    monkeypatch.setattr("scow.registry.passwords.FRESH_S", 0)
    path = tmp_path / "htpasswd"
    good = f"bob:{hash_password('one')}\n"
    path.write_text(good)
    client.url = (await serve(settings, auth=Auth(htpasswd=str(path)))).url
    path.unlink() if damage is None else path.write_text(f"{good}{damage}\n")
    for _ in range(3):
        assert (await client("GET", "/v2/", Authorization=basic("bob", "one"))).status == 200
        assert (await client("GET", "/v2/", Authorization=basic("bob", "two"))).status == 401
    said = [record.getMessage() for record in caplog.records if record.name == "scow.registry.htpasswd"]
    assert len(said) == (damage != "")
    assert all(line.startswith("users are kept as they were: ") and str(path) in line for line in said)
    path.write_text(f"eve:{hash_password('three')}\n")
    assert (await client("GET", "/v2/", Authorization=basic("bob", "one"))).status == 401
    assert (await client("GET", "/v2/", Authorization=basic("eve", "three"))).status == 200


async def test_without_its_htpasswd_file_a_registry_does_not_start(
    serve: Callable[..., Any], settings: Settings
) -> None:
    with pytest.raises(SettingsInvalid, match=r"^/nowhere: auth\.htpasswd cannot be read: No such file or directory$"):
        await serve(settings, auth=Auth(htpasswd="/nowhere"))


@pytest.mark.parametrize(
    "line", ["nocolon", ":x", "ann:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=", "ann:$2y$05$short", "ann:$2y$99$" + "a" * 53]
)
def test_a_line_that_cannot_be_used_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "htpasswd"
    path.write_text(f"# first\n{line}\n")
    with pytest.raises(HtpasswdInvalid, match=r"htpasswd:2: "):
        read_htpasswd(path)


@pytest.mark.parametrize("password", ["", "x" * 73])
def test_a_password_that_bcrypt_would_cut_is_refused(password: str) -> None:
    with pytest.raises(InvalidArgument, match="1 to 72 bytes"):
        hash_password(password)


def test_a_password_that_is_no_text_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="not UTF-8"):
        hash_password(b"p\xff".decode(errors="surrogateescape"))


@pytest.mark.parametrize(
    "words", [("user", "add", ""), ("user", "add", "a:b"), ("user", "add", "robot+ci"), ("robot", "add", "robot+")]
)
def test_a_name_that_no_account_can_have_is_refused(
    settings: Settings, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    assert main([*words, "--storage", settings.storage]) == 1
    assert "names of robots" in (said := capsys.readouterr().err) or "an account's name" in said


class TestGuessing:
    @pytest.fixture(autouse=True)
    def short(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("scow.registry.passwords.FIRST_DELAY_S", 0.2)

    async def test_wrong_passwords_make_the_next_answers_come_later(self, client: Client, running: Running) -> None:
        await running.registry.accounts.put("ann", Account(hash_password("secret")))
        took = []
        for _ in range(5):
            started = time.monotonic()
            assert (await client("GET", "/v2/", Authorization=basic("ann", "wrong"))).status == 401
            took.append(time.monotonic() - started)
        assert took[3] >= 0.2
        assert took[4] >= 0.4

    async def test_who_was_right_before_does_not_wait(
        self, client: Client, running: Running, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("scow.registry.passwords.FIRST_DELAY_S", 600)
        monkeypatch.setattr("scow.registry.passwords.LAST_DELAY_S", 600)
        await running.registry.accounts.put("ann", Account(hash_password("secret")))
        assert (await client("GET", "/v2/", Authorization=basic("ann", "secret"))).status == 200
        for _ in range(3):
            await client("GET", "/v2/", Authorization=basic("ann", "wrong"))
        async with asyncio.timeout(60):
            assert (await client("GET", "/v2/", Authorization=basic("ann", "secret"))).status == 200

    async def test_an_unknown_name_is_checked_as_long_as_others(
        self, client: Client, running: Running, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        kept = bcrypt.hashpw(b"secret", bcrypt.gensalt(5)).decode()
        for name in ("ann", "bob"):
            await running.registry.accounts.put(name, Account(kept))
        await running.registry.accounts.put("eve", Account(bcrypt.hashpw(b"x", bcrypt.gensalt(4)).decode()))
        checked = []
        monkeypatch.setattr("bcrypt.checkpw", lambda _, wanted: checked.append(wanted[:7]))
        for name in ("ann", "nobody", "robot+nobody"):
            assert (await client("GET", "/v2/", Authorization=basic(name, "wrong"))).status == 401
        assert checked == [b"$2b$05$", b"$2b$05$"]  # of robots' secrets there is nothing slow to check

    async def test_a_password_that_many_requests_bring_at_once_is_checked_once(
        self, client: Client, running: Running, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await running.registry.accounts.put("ann", Account(hash_password("secret")))
        checks = count_checks(monkeypatch)
        asked = [client("GET", "/v2/", Authorization=basic("ann", "secret")) for _ in range(30)]
        assert {answer.status for answer in await asyncio.gather(*asked)} == {200}
        assert len(checks) == 1

    async def test_guesses_at_once_are_few_and_keep_nobody_else_waiting(
        self, client: Client, running: Running, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await running.registry.accounts.put("ann", Account(hash_password("secret")))
        await running.registry.accounts.put("bob", Account(hash_password("other")))
        checks = []
        check = bcrypt.checkpw
        monkeypatch.setattr("bcrypt.checkpw", lambda *given: checks.append(given) or check(*given))
        guesses = [client("GET", "/v2/", Authorization=basic("ann", f"guess {number}")) for number in range(60)]
        asked = await asyncio.gather(*guesses, client("GET", "/v2/", Authorization=basic("bob", "other")))
        statuses = [answer.status for answer in asked[:-1]]
        assert (statuses.count(401), statuses.count(429)) == (TRIES_OF_NAME, 60 - TRIES_OF_NAME)
        assert next(answer for answer in asked if answer.status == 429).headers["Retry-After"] == "1"
        assert asked[-1].status == 200
        assert len(checks) == TRIES_OF_NAME + 1

    async def test_whose_password_is_guessed_elsewhere_is_not_shut_out(
        self, running: Running, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("scow.registry.passwords.WAITING_LIMIT", 5)
        await running.registry.accounts.put("ann", Account(hash_password("secret")))
        check = running.registry.passwords.check
        for number in range(3):
            assert not await check("ann", f"wrong {number}", "192.0.2.1")
        guesses = [asyncio.create_task(check("ann", f"guess {number}", "192.0.2.1")) for number in range(8)]
        await asyncio.sleep(0)
        assert await check("ann", "secret", "192.0.2.2")
        results = await asyncio.gather(*guesses, return_exceptions=True)
        assert [type(result) for result in results] == [bool] * 5 + [TooManyRequests] * 3

    async def test_a_crowd_of_guesses_is_no_row_to_stand_in(
        self, running: Running, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("scow.registry.passwords.FIRST_DELAY_S", 0.001)
        await running.registry.accounts.put("ann", Account(hash_password("secret")))
        passwords = running.registry.passwords
        for number in range(3):
            assert not await passwords.check("bob", f"wrong {number}", "192.0.2.1")
        begun, going_on, verify = threading.Semaphore(0), threading.Event(), bcrypt.checkpw

        def check(password: bytes, wanted: bytes) -> bool:
            if password != b"secret":
                begun.release()
                assert going_on.wait(20)
            return verify(password, wanted)

        monkeypatch.setattr("bcrypt.checkpw", check)
        guesses = [
            asyncio.create_task(passwords.check(f"name {number}", "guess", "192.0.2.1")) for number in range(CHECKS * 2)
        ]
        assert await asyncio.to_thread(begun.acquire, timeout=20)
        async with asyncio.timeout(20):
            assert await passwords.check("ann", "secret", "192.0.2.2")
        going_on.set()
        assert not any(await asyncio.gather(*guesses))

    def test_the_delay_grows_to_a_limit_and_ends_with_success(self) -> None:
        delays = Delays()
        seen = []
        for _ in range(12):
            seen.append(delays.delay_s("a", "b"))
            delays.failed("a")
        assert seen[:5] == [0, 0, 0, 0.2, 0.4]
        assert seen[-1] == 8
        assert delays.delay_s("b") == 0
        delays.succeeded("a")
        assert delays.delay_s("a") == 0

    async def test_a_right_password_is_checked_once_in_minutes(
        self, client: Client, running: Running, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await running.registry.accounts.put("ann", Account(hash_password("secret")))
        checks = count_checks(monkeypatch)
        for _ in range(5):
            assert (await client("GET", "/v2/", Authorization=basic("ann", "secret"))).status == 200
        assert len(checks) == 1


async def test_too_many_requests_are_told_when_to_come_again(
    serve: Callable[..., Any], settings: Settings, client: Client
) -> None:
    client.url = (await serve(settings, limits=Limits(requests_per_s=0.01, burst=3))).url
    answers = [await client("GET", "/v2/") for _ in range(5)]
    assert [answer.status for answer in answers] == [200, 200, 200, 429, 429]
    assert answers[3].codes == ["TOOMANYREQUESTS"]
    assert answers[3].headers["Retry-After"] == "100"
    assert (await client("GET", "/healthz")).status == 200


async def test_the_audit_log_names_who_did_what(
    serve: Callable[..., Any], settings: Settings, client: Client, tmp_path: Path
) -> None:
    path = tmp_path / "audit.log"
    running = await serve(settings, auth=Auth(audit_log=str(path), anonymous_pull=True))
    await running.registry.accounts.put("ann", Account(hash_password("secret")))
    client.url = running.url
    ann = {"Authorization": basic("ann", "secret")}
    location = (await client("POST", "/v2/a/b/blobs/uploads/", **ann)).headers["Location"]
    digest = digest_of(b"data")
    await client("PUT", f"{location}?digest={digest}", b"data", X_Request_Id="mine-1", **ann)
    await client("GET", f"/v2/a/b/blobs/{digest}")  # reading is not written down
    await client("DELETE", f"/v2/a/b/blobs/{digest}", **ann)
    await client("GET", "/v2/", Authorization=basic("ann", "wrong"))
    await client("POST", "/v2/a/b/blobs/uploads/")  # without credentials, to be asked for them: neither
    await running.registry.aclose()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["user"], line["action"], line["repository"], line["status"]) for line in lines] == [
        ("ann", "POST uploads", "a/b", 202),
        ("ann", "PUT upload", "a/b", 201),
        ("ann", "DELETE blob", "a/b", 202),
        (None, "GET ping", None, 401),
    ]
    assert (lines[1]["digest"], lines[1]["request_id"], lines[1]["remote"]) == (digest, "mine-1", "127.0.0.1")
    assert lines[2]["reference"] == digest


async def test_the_audit_log_tells_whose_password_was_tried(
    serve: Callable[..., Any], settings: Settings, client: Client, tmp_path: Path
) -> None:
    path = tmp_path / "audit.log"
    running = await serve(settings, auth=Auth(audit_log=str(path), token=Token()))
    await running.registry.accounts.put("ann", Account(hash_password("secret")))
    client.url = running.url
    evil = "x\n{}" + "y" * 300
    await client("GET", "/v2/", Authorization=basic("ann", "wrong"))
    await client("GET", "/token", Authorization=basic(evil, "wrong"))
    for password in ("wrong", "secret"):
        form = urlencode({"grant_type": "password", "username": "ann", "password": password}).encode()
        await client("POST", "/token", form, Content_Type="application/x-www-form-urlencoded")
    old = RefreshToken("gone", "docker", time.time() + 100)
    await running.registry.accounts.put_refresh_token(hashlib.sha256(b"old").digest(), old)
    form = urlencode({"grant_type": "refresh_token", "refresh_token": "old"}).encode()
    await client("POST", "/token", form, Content_Type="application/x-www-form-urlencoded")
    await running.registry.aclose()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["action"], line["tried"], line["user"], line["status"]) for line in lines] == [
        ("GET ping", "ann", None, 401),
        ("GET token", evil[:255], None, 401),
        ("POST token", "ann", None, 401),
        ("POST token", "ann", "ann", 200),
        ("POST token", "gone", None, 401),
    ]


async def test_the_audit_log_tells_of_accounts_changed_by_command(settings: Settings, tmp_path: Path) -> None:
    path, config = tmp_path / "audit.log", tmp_path / "registry.toml"
    config.write_text(f'storage = "{settings.storage}"\n[auth]\naudit_log = "{path}"\n')
    run = [sys.executable, "-m", "scow.registry"]

    async def manage(*arguments: str) -> str:
        command = [*run, *arguments, "--config", str(config)]
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stderr

    assert f"the audit log does not tell of this: {path}: No such file" in await manage("robot", "add", "early")
    path.touch()
    await manage("robot", "add", "ci")
    await manage("robot", "rm", "ci")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["action"], line["account"]) for line in lines] == [
        ("robot add", "robot+ci"),
        ("account rm", "robot+ci"),
    ]
    assert all(line["operator"] for line in lines)


class TestAuditFile:
    @pytest.fixture
    def write(self, client: Client) -> Callable[..., Any]:
        async def write(url: str, *, wrong: str) -> None:
            client.url = url
            await client("GET", "/v2/", Authorization=basic(wrong, "x"))

        return write

    async def test_one_that_cannot_be_opened_is_named_at_the_start(
        self, serve: Callable[..., Any], settings: Settings
    ) -> None:
        with pytest.raises(SettingsInvalid, match=r"^/nowhere/x: auth\.audit_log cannot be written: No such file"):
            await serve(settings, auth=Auth(audit_log="/nowhere/x"))

    async def test_lines_go_on_after_the_file_could_not_be_opened(
        self,
        serve: Callable[..., Any],
        settings: Settings,
        tmp_path: Path,
        write: Callable[..., Any],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        folder, moved = tmp_path / "logs", tmp_path / "moved"
        folder.mkdir()
        running = await serve(settings, auth=Auth(audit_log=str(folder / "audit.log"), token=Token()))
        await write(running.url, wrong="one")
        await until(lambda: (folder / "audit.log").read_text().count("\n") == 1)
        folder.rename(moved)
        for name in ("two", "three"):
            await write(running.url, wrong=name)
        await until(lambda: any("cannot be written" in record.getMessage() for record in caplog.records))
        folder.mkdir()
        await write(running.url, wrong="four")
        await until(lambda: (folder / "audit.log").exists() and "four" in (folder / "audit.log").read_text())
        said = [record.getMessage() for record in caplog.records if "cannot be written" in record.getMessage()]
        assert len(said) == 1
        assert str(folder / "audit.log") in said[0]

    async def test_a_full_disk_ends_nothing_and_is_told(
        self,
        serve: Callable[..., Any],
        settings: Settings,
        write: Callable[..., Any],
        caplog: pytest.LogCaptureFixture,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        running = await serve(settings, auth=Auth(audit_log="/dev/full", token=Token()))
        for _ in range(3):
            await write(running.url, wrong="x")
        await until(lambda: any("No space left on device" in record.getMessage() for record in caplog.records))
        assert "Traceback" not in capsys.readouterr().err


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110  # of a thread: nothing tells us
            await asyncio.sleep(0.01)


async def test_rules_hold_for_passwords_too(serve: Callable[..., Any], settings: Settings, client: Client) -> None:
    rules = [Rule(repositories=["a/*"], actions=["pull", "push"], users=["ann"])]
    running = await serve(settings, auth=Auth(rules=rules))
    client.url = running.url
    await running.registry.accounts.put("ann", Account(hash_password("secret")))
    ann = {"Authorization": basic("ann", "secret")}
    assert (await client("POST", "/v2/a/b/blobs/uploads/", **ann)).status == 202
    for method, path in (
        ("POST", "/v2/a/b/c/blobs/uploads/"),
        ("DELETE", f"/v2/a/b/blobs/{digest_of(b'')}"),
        ("GET", "/v2/x/tags/list"),
    ):
        answer = await client(method, path, **ann)
        assert (answer.status, answer.codes) == (403, ["DENIED"])
    assert (await client("GET", "/v2/a/b/tags/list")).status == 401


async def test_a_request_id_is_given_or_kept(client: Client) -> None:
    made = (await client("GET", "/v2/")).headers["X-Request-Id"]
    assert made != (await client("GET", "/v2/")).headers["X-Request-Id"]
    assert (await client("GET", "/v2/", X_Request_Id="abc-1")).headers["X-Request-Id"] == "abc-1"
    assert (await client("GET", "/v2/", X_Request_Id="a b")).headers["X-Request-Id"] != "a b"


async def test_the_access_log_is_one_object_a_line(
    serve: Callable[..., Any], settings: Settings, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    client.url = (await serve(settings, access_log=True)).url
    digest = await client.push_blob(b"data")
    caplog.clear()
    with caplog.at_level("INFO", "scow.registry.access"):
        await client("GET", f"/v2/test/repo/blobs/{digest}", X_Request_Id="r1", User_Agent="test/1")
        await client("GET", "/v2/x/manifests/y")
    first, second = (json.loads(record.getMessage()) for record in caplog.records)
    assert first.items() >= {"request_id": "r1", "status": 200, "sent": 4, "agent": "test/1", "method": "GET"}.items()
    assert (second["status"], second["path"], second["user"]) == (404, "/v2/x/manifests/y", None)
    assert second["ms"] >= 0


async def test_the_metrics_count_what_was_asked_and_sent(client: Client) -> None:
    digest = await client.push_blob(b"0123456789")
    for _ in range(3):
        await client("GET", f"/v2/test/repo/blobs/{digest}")
    await client("GET", "/v2/test/repo/manifests/none")
    answer = await client("GET", "/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    lines = answer.body.decode().splitlines()
    for line in (
        'scow_registry_requests_total{endpoint="blob",method="GET",status="2xx"} 3',
        'scow_registry_requests_total{endpoint="manifest",method="GET",status="4xx"} 1',
        'scow_registry_request_seconds_count{endpoint="blob"} 3',
        "scow_registry_received_bytes_total 10",
        "scow_registry_requests_in_flight 1",
    ):
        assert line in lines
    named = {line.split(" ")[2] for line in lines if line.startswith("# TYPE ")}
    for line in lines:
        assert line.startswith("#") or re.sub(r"(_bucket|_sum|_count)?(\{.*\})? .*", "", line) in named


async def test_a_read_only_registry_serves_and_takes_nothing(
    serve: Callable[..., Any], settings: Settings, client: Client, running: Running
) -> None:
    digest = await client.push_image("latest")
    client.url = (await serve(settings, read_only=True)).url
    assert (await client("GET", "/v2/test/repo/manifests/latest")).status == 200
    for method, path in (
        ("POST", "/v2/test/repo/blobs/uploads/"),
        ("PUT", "/v2/test/repo/manifests/x"),
        ("DELETE", f"/v2/test/repo/manifests/{digest}"),
    ):
        answer = await client(method, path)
        assert (answer.status, answer.codes) == (405, ["UNSUPPORTED"])


async def test_a_read_only_registry_takes_nothing_away_by_itself(
    serve: Callable[..., Any], settings: Settings, client: Client
) -> None:
    """Somebody may be copying its storage."""
    client.url = (await serve(settings, gc=Gc(interval_s=0, grace_s=0))).url
    digest = await client.push_blob(b"unused")
    quick = Gc(interval_s=0.05, grace_s=0)
    client.url = (await serve(settings, read_only=True, gc=quick)).url
    await asyncio.sleep(0.4)
    assert (await client("GET", f"/v2/test/repo/blobs/{digest}")).status == 200
    client.url = (await serve(settings, gc=quick)).url
    async with asyncio.timeout(60):
        while (await client("GET", f"/v2/test/repo/blobs/{digest}")).status == 200:  # noqa: ASYNC110
            await asyncio.sleep(0.02)

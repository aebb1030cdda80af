"""The registry in a browser: what pages say, to whom, and that nothing pushed becomes markup."""

import base64
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import bcrypt
import msgspec
import pytest

from scow.registry.settings import Auth, Rule, Settings

from .conftest import CONFIG, INDEX, LAYER, MANIFEST, Client, Running, descriptor

EVIL = '<script>alert("x")</script>&\''
ESCAPED = "&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt;&amp;&#x27;"


async def push(client: Client, tag: str = "v1", repository: str = "test/repo", **more: Any) -> str:
    config = json.dumps(
        {
            "os": "linux",
            "architecture": "arm64",
            "config": {"Env": [f"A={EVIL}"], "Labels": {EVIL: EVIL}},
            "history": [{"created_by": f"RUN {EVIL}"}, {"created_by": "CMD x", "empty_layer": True}],
        }
    ).encode()
    layer = b"layer" * 1000
    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor(CONFIG, await client.push_blob(config, repository), len(config)),
        "layers": [descriptor(LAYER, await client.push_blob(layer, repository), len(layer))],
        **more,
    }
    digest, answer = await client.push_manifest(document, tag, repository)
    assert answer.status == 201
    return digest


async def page(client: Client, path: str, **headers: str) -> str:
    answer = await client("GET", path, **headers)
    assert answer.status == 200
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert "unsafe" not in answer.headers["Content-Security-Policy"]
    text = answer.body.decode()
    assert "<script>" not in text
    assert " style=" not in text
    return text


async def test_repositories_are_listed_searched_and_paged(client: Client) -> None:
    for number in range(51):
        document = {"schemaVersion": 2, "mediaType": INDEX, "manifests": []}
        await client.push_manifest(document, "v1", f"team/app{number:02}", INDEX)
    first = await page(client, "/")
    assert 'href="/-/repositories/team/app49"' in first
    assert "app50" not in first
    assert "last=team%2Fapp49" in first
    assert "app50" in await page(client, "/?last=team%2Fapp49")
    found = await page(client, "/?q=p07")
    assert "team/app07" in found
    assert "team/app08" not in found


async def test_a_tag_shows_its_platform_layers_history_and_pull_command(client: Client) -> None:
    digest = await push(client, annotations={"note": EVIL})
    tags = await page(client, "/-/repositories/test/repo")
    assert "linux/arm64" in tags
    assert digest[:19] in tags
    shown = await page(client, "/-/images/test/repo/v1")
    assert f"docker pull {client.url.removeprefix('http://')}/test/repo:v1</code>" in shown
    assert f"RUN {ESCAPED}" in shown
    assert f"{ESCAPED}={ESCAPED}" in shown
    assert shown.count(ESCAPED) == 5
    assert "5 kB" in shown


async def test_a_manifest_that_is_too_large_to_be_shown_is_listed(client: Client) -> None:
    await push(client, "huge", annotations={"note": "x" * 1_000_000})
    await push(client, "small")
    listed = await page(client, "/-/repositories/test/repo")
    assert listed.index("/-/images/test/repo/huge") < listed.index("linux/arm64")
    shown = await page(client, "/-/images/test/repo/huge")
    assert "too large" in shown
    assert "xxx" not in shown
    assert "docker pull" in shown


async def test_referrers_and_the_platforms_of_an_index_are_linked(client: Client) -> None:
    digest = await push(client)
    signature = await push(
        client, "sig", artifactType="application/vnd.example.signature", subject=descriptor(MANIFEST, digest, 700)
    )
    platform = {"os": "linux", "architecture": "riscv64"}
    index = {
        "schemaVersion": 2,
        "mediaType": INDEX,
        "manifests": [descriptor(MANIFEST, digest, 700, platform=platform)],
    }
    await client.push_manifest(index, "multi", media_type=INDEX)
    shown = await page(client, "/-/images/test/repo/v1")
    assert "application/vnd.example.signature" in shown
    assert f'href="/-/images/test/repo/{signature}"' in shown
    tags = await page(client, "/-/repositories/test/repo?q=multi")
    assert "linux/riscv64" in tags
    assert re.search(r'class="number">5\.\d+ kB<', tags)
    assert f'href="/-/images/test/repo/{digest}"' in await page(client, "/-/images/test/repo/multi")


async def test_a_tag_is_deleted_from_its_own_page_when_confirmed(client: Client) -> None:
    await push(client)
    path = "/-/images/test/repo/v1"
    form = {"Content_Type": "application/x-www-form-urlencoded"}
    assert (await client("POST", path, b"confirm=yes", **form)).status == 403
    assert (await client("POST", path, b"confirm=yes", Origin="http://evil.example", **form)).status == 403
    assert (await client("POST", path, b"", Origin=client.url, **form)).status == 403
    assert (await client("GET", path)).status == 200
    answer = await client("POST", path, b"confirm=yes", Origin=client.url, **form)
    assert (answer.status, answer.headers["Location"]) == (303, "/-/repositories/test/repo")
    assert (await client("GET", path)).status == 404


async def test_people_see_what_they_may_pull(
    serve: Callable[..., Any], settings: Settings, session: aiohttp.ClientSession, running: Running, tmp_path: Path
) -> None:
    await push(Client(session, running.url), repository="secret/app")
    await push(Client(session, running.url), repository="open/app")
    passwords = tmp_path / "htpasswd"
    hashes = {name: bcrypt.hashpw(b"pw", bcrypt.gensalt(4)).decode() for name in ("ann", "bob")}
    passwords.write_text("".join(f"{name}:{value}\n" for name, value in hashes.items()))
    rules = [
        Rule(repositories=["**"], actions=["*"], users=["ann"]),
        Rule(repositories=["open/*"], actions=["pull"], anonymous=True),
    ]
    guarded = await serve(msgspec.structs.replace(settings, auth=Auth(htpasswd=str(passwords), rules=rules)))
    client = Client(session, guarded.url)
    ann = {"Authorization": "Basic " + base64.b64encode(b"ann:pw").decode()}
    bob = {"Authorization": "Basic " + base64.b64encode(b"bob:pw").decode()}
    assert "secret/app" in await page(client, "/", **ann)
    assert "secret" not in await page(client, "/")
    assert "Delete…" in await page(client, "/-/images/open/app/v1", **ann)
    assert "Delete…" not in await page(client, "/-/images/open/app/v1", **bob)
    refused = await client("GET", "/-/images/secret/app/v1")
    login = "/-/login?next=%2F-%2Fimages%2Fsecret%2Fapp%2Fv1"
    assert (refused.status, refused.headers["Location"]) == (303, login)
    assert (await client("GET", "/-/repositories/secret/app", **bob)).status == 403
    assert (await client("POST", "/-/images/open/app/v1", b"confirm=yes", Origin=client.url, **bob)).status == 403
    assert (await client("GET", "/-/login", **ann)).headers["Location"] == "/"


@pytest.mark.parametrize("name", ["page.css", "page.js"])
async def test_assets_are_kept_by_browsers(client: Client, name: str) -> None:
    answer = await client("GET", f"/-/assets/{name}")
    assert answer.status == 200
    again = await client("GET", f"/-/assets/{name}", If_None_Match=answer.headers["ETag"])
    assert (again.status, again.body) == (304, b"")


async def test_pages_can_be_turned_off(
    serve: Callable[..., Any], settings: Settings, session: aiohttp.ClientSession
) -> None:
    client = Client(session, (await serve(settings, web=False)).url)
    assert (await client("GET", "/")).codes == ["UNSUPPORTED"]
    assert (await client("GET", "/-/assets/page.css")).codes == ["UNSUPPORTED"]

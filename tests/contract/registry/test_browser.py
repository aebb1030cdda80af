"""The pages in a real browser: narrow and wide, light and dark, by keyboard alone, and with names meant to do harm."""

from pathlib import Path
from typing import Any

import pytest

from support.browser import Browser, find_chromium

from .conftest import Client, descriptor
from .test_web import push

EVIL = '"><script>alert(1)</script><img src=x onerror=alert(2)>\u202egnp.exe' + "y" * 300
LONG = "long/" + "component-" * 15 + "x/" + "deep/" * 8 + "image"


@pytest.fixture
def program() -> str:
    found = find_chromium()
    if found is None:
        pytest.skip("needs Debian's package chromium")
    return found


async def _focus(browser: Browser, text: str) -> None:
    """Go on by the tabulator until what has this text is focused, and can be seen to be."""
    for _ in range(40):
        await browser.press("Tab")
        if await browser.value(f"document.activeElement.textContent.includes({text!r})"):
            assert await browser.value("getComputedStyle(document.activeElement).outlineStyle") == "solid"
            return
    raise AssertionError(f"the keyboard does not reach {text}")


async def test_pages_work_in_a_browser_by_keyboard_on_any_screen(program: str, tmp_path: Path, client: Client) -> None:
    notes: dict[str, Any] = {"annotations": {EVIL: EVIL, "org.opencontainers.image.source": "javascript:alert(3)"}}
    digest = await push(client, "v1", "test/repo", **notes)
    await push(client, "t" * 128, LONG, **notes)
    await push(client, "v2", "test/repo", subject=descriptor("application/json", digest), artifactType=EVIL)
    for number in range(60):
        await push(client, f"build-{number:03}", "test/repo")
    pages = (
        "/",
        "/-/repositories/test/repo",
        "/-/images/test/repo/v1",
        f"/-/images/{LONG}/{'t' * 128}",
        f"/?q={LONG[:40]}",
        "/-/images/test/repo/none",
    )
    async with Browser(program, tmp_path / "profile") as browser:
        for width in (280, 700, 1600):
            for path in pages:
                await browser.open(client.url + path, width, dark=width == 700)
                assert await browser.value("document.documentElement.scrollWidth") <= width, (width, path)
                cut = "[...document.querySelectorAll('.card')].filter(card => card.scrollWidth > card.clientWidth)"
                assert await browser.value(f"{cut}.map(card => card.textContent)") == [], (width, path)
        missing = [note for note in browser.complaints if "404" not in note]  # of the page that is not there
        assert missing == []
        await browser.open(f"{client.url}/-/images/test/repo/v1")
        assert "\\u202egnp.exe" in await browser.value("document.body.textContent")
        assert (
            await browser.value("document.querySelectorAll('main script, main img, a[href^=javascript]').length") == 0
        )
        await _focus(browser, "Copy")
        await _focus(browser, "Delete…")
        await browser.press("Enter")
        await browser.press("Tab")
        await browser.press("Tab")
        await browser.press("Enter")  # without the mark in the box nothing is sent
        assert await browser.value("location.pathname") == "/-/images/test/repo/v1"
        await browser.value("document.querySelector('input[type=checkbox]').focus()")
        await browser.press(" ")
        await _focus(browser, "Delete")
        await browser.press("Enter")
        await browser.until("location.pathname === '/-/repositories/test/repo'")
    assert (await client("GET", "/v2/test/repo/manifests/v1")).status == 404

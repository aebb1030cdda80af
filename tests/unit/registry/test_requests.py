"""Paths, ranges and settings."""

import contextlib
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from scow.registry.blobs import RangeOutside, parse_range
from scow.registry.calls import Route, parse_path
from scow.registry.configuration import read_settings
from scow.registry.errors import PageUnknown
from scow.registry.settings import Settings, SettingsInvalid


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/v2", Route("ping")),
        ("/v2/", Route("ping")),
        ("/v2/_catalog", Route("catalog")),
        ("/v2/a/manifests/latest", Route("manifest", "a", "latest")),
        ("/v2/a/b/c/manifests/sha256:0", Route("manifest", "a/b/c", "sha256:0")),
        ("/v2/a/blobs/sha256:0", Route("blob", "a", "sha256:0")),
        ("/v2/a/blobs/sha256%3A0", Route("blob", "a", "sha256:0")),
        ("/v2/a/blobs/uploads/", Route("uploads", "a")),
        ("/v2/a/blobs/uploads", Route("uploads", "a")),
        ("/v2/a/b/blobs/uploads/id", Route("upload", "a/b", "id")),
        ("/v2/a/tags/list", Route("tags", "a")),
        ("/v2/tags/list/tags/list", Route("tags", "tags/list")),
        ("/v2/manifests/manifests/manifests", Route("manifest", "manifests", "manifests")),
        ("/v2/a/referrers/sha256:0", Route("referrers", "a", "sha256:0")),
    ],
)
def test_paths_are_read_from_their_end(path: str, route: Route) -> None:
    assert parse_path(path) == route


WORDS = ("", "a", "blobs", "uploads", "manifests", "tags", "list", "referrers", "%2F", "..", "sha256:0")


@given(st.text() | st.lists(st.sampled_from(WORDS), max_size=6).map("/".join))
@example("/blobs/uploads/")
@example("/blobs/uploads/id")
def test_any_path_is_a_route_with_a_repository_or_unknown(path: str) -> None:
    with contextlib.suppress(PageUnknown):
        route = parse_path("/v2/" + path)
        assert route.repository or route.kind in ("ping", "catalog")


@given(st.text(alphabet="bytes=-0123456789 ,"), st.integers(0, 1000))
def test_a_range_lies_within_the_blob_or_is_refused(text: str, size: int) -> None:
    try:
        part = parse_range(text, size)
    except RangeOutside:
        return
    if part is not None:
        offset, count = part
        assert 0 <= offset < offset + count <= size


def test_settings_come_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "registry.toml"
    path.write_text('listen = "[::1]:5001"\nstorage = "/srv"\n[gc]\ngrace_s = 10\n[auth]\nanonymous_pull = true\n')
    settings = read_settings(path)
    assert settings.address() == ("::1", 5001)
    assert (settings.gc.grace_s, settings.gc.interval_s, settings.auth.anonymous_pull) == (10, 300, True)


@pytest.mark.parametrize(
    ("text", "why"), [("colour = 1", "colour"), ("[gc]\ngrace = 1", "grace"), ("listen = 5000", "listen"), ("x", "x")]
)
def test_a_wrong_setting_is_named(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "registry.toml"
    path.write_text(text)
    with pytest.raises(SettingsInvalid, match=why if len(why) > 1 else "registry.toml"):
        read_settings(path)


@pytest.mark.parametrize("listen", ["5000", "localhost", "a:b", "a:70000", ":-1"])
def test_an_address_needs_host_and_port(listen: str) -> None:
    with pytest.raises(SettingsInvalid, match="host:port"):
        Settings(listen=listen).address()

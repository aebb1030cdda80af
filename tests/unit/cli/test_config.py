"""docker's config.json: what it says of proxies."""

import json
from pathlib import Path

import pytest

from scow.cli.config import Config

PROXIES = {
    "default": {"httpProxy": "http://proxy.example:3128", "noProxy": "localhost,.example"},
    "unix:///other.sock": {"allProxy": "socks5://proxy.example", "ftpProxy": ""},
}
DEFAULT = {
    "HTTP_PROXY": "http://proxy.example:3128",
    "http_proxy": "http://proxy.example:3128",
    "NO_PROXY": "localhost,.example",
    "no_proxy": "localhost,.example",
}


@pytest.mark.parametrize(
    ("host", "found"),
    [
        ("unix:///run/scow/scow.sock", DEFAULT),
        ("unix:///other.sock", {"ALL_PROXY": "socks5://proxy.example", "all_proxy": "socks5://proxy.example"}),
    ],
)
def test_proxies_are_those_of_the_host_or_else_the_default(tmp_path: Path, host: str, found: dict[str, str]) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"proxies": PROXIES}))
    assert Config(str(tmp_path)).proxies(host) == found


@pytest.mark.parametrize("proxies", [None, [], {}, {"default": "x"}, {"default": {"httpProxy": 1}}])
def test_proxies_that_are_none(tmp_path: Path, proxies: object) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"proxies": proxies}))
    assert Config(str(tmp_path)).proxies("unix:///run/scow/scow.sock") == {}

"""The tags that a rule of `[[sync]]` means."""

import pytest

from scow.registry.settings import SettingsInvalid, Sync
from scow.registry.upstream.selection import Selection, parse_version, select_repositories

TAGS = ["latest", "edge", "1.2", "1.10", "v1.9.1", "2.0-rc1", "2.0", "1.10-alpine", "sha-deadbeef"]


@pytest.mark.parametrize(
    ("rule", "chosen"),
    [
        ({}, ["2.0", "2.0-rc1", "1.10", "1.10-alpine", "v1.9.1", "1.2", "edge", "latest", "sha-deadbeef"]),
        ({"tags": ["1.*"]}, ["1.10", "1.10-alpine", "1.2"]),
        ({"tags": ["/^v?1\\.\\d+/"], "exclude": ["*-alpine"]}, ["1.10", "v1.9.1", "1.2"]),
        ({"tags": [">=1.9 <2"], "exclude": ["/-/"]}, ["1.10", "v1.9.1"]),
        ({"tags": ["~1.10"]}, ["1.10"]),
        ({"tags": ["^1.9"]}, ["1.10", "1.10-alpine", "v1.9.1"]),
        ({"latest": 2, "exclude": ["*-*"]}, ["2.0", "1.10"]),
        ({"latest": 1, "tags": ["*", "latest"]}, ["2.0", "latest"]),
        ({"tags": ["none"]}, []),
    ],
)
def test_tags_are_chosen_by_pattern_and_version(rule: dict[str, object], chosen: list[str]) -> None:
    assert Selection(Sync(name="r", upstream="host", repositories=["a"], **rule)).of(TAGS) == chosen  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["/(/", ">=x", ">=1 or 2"])
def test_what_is_no_rule_is_refused(text: str) -> None:
    with pytest.raises(SettingsInvalid):
        Selection(Sync(name="r", upstream="host", repositories=["a"], tags=[text]))


def test_versions_are_in_the_order_of_semver() -> None:
    ordered = ["1", "1.0.1", "v1.2", "1.10.0-alpha.2", "1.10.0-alpha.10", "1.10.0-beta", "1.10.0", "2"]
    versions = [parse_version(tag) for tag in ordered]
    assert versions == sorted(versions)  # type: ignore[type-var]
    assert parse_version("latest") is None


def test_repositories_are_names_or_patterns() -> None:
    assert select_repositories(["x/one", "a/*"], ["a/b", "a/c/d", "b/a"]) == ["x/one", "a/b"]
    assert select_repositories(["a/**"], ["a/b", "a/c/d", "b/a"]) == ["a/b", "a/c/d"]

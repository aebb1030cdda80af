"""What URLs of git repositories mean, and what they may not."""

import pytest

from scow.build.git import GitSource, is_git, parse_git
from scow.build.sources import shown_url
from scow.errors import InvalidArgument

HOST = "https://host/a.git"


@pytest.mark.parametrize(
    "text",
    [
        HOST,
        f"{HOST}#main",
        f"{HOST}?branch=main",
        "git://host/a",
        "git@host:a/b",
        "some.body@host.example:a.git#main",
        "ssh://host/a",
        "ssh://me@host:2222/a.git",
        "github.com/a/b",
    ],
)
def test_repositories_are_told_from_other_sources(text: str) -> None:
    assert is_git(text)


@pytest.mark.parametrize(
    "text",
    ["https://host/a.tar", "file:///a.git", "ext::sh -c id", "dir/git@host", "-a@host:b", "a.git", "ftp://h/a.git"],
)
def test_other_sources_are_no_repositories(text: str) -> None:
    assert not is_git(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (HOST, GitSource(address=HOST)),
        (f"{HOST}#v1", GitSource(address=HOST, reference="v1")),
        (f"{HOST}#v1:a/b", GitSource(address=HOST, reference="v1", folder="a/b")),
        (f"{HOST}#:a", GitSource(address=HOST, folder="a")),
        (f"{HOST}?branch=v1&subdir=a", GitSource(address=HOST, reference="refs/heads/v1", folder="a")),
        (f"{HOST}?tag=v1", GitSource(address=HOST, reference="refs/tags/v1")),
        (f"{HOST}?ref=v1", GitSource(address=HOST, reference="v1")),
        (f"{HOST}?commit=abcdef0", GitSource(address=HOST, reference="abcdef0", checksum="abcdef0")),
        (f"{HOST}?submodules=0&keep-git-dir=1", GitSource(address=HOST, submodules=False, keep_git_dir=True)),
        ("github.com/a/b#c", GitSource(address="https://github.com/a/b", reference="c")),
        ("git@host:a/b#c:d", GitSource(address="git@host:a/b", reference="c", folder="d")),
    ],
)
def test_a_url_says_what_to_check_out(text: str, expected: GitSource) -> None:
    assert parse_git(text) == expected


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (f"{HOST}#--upload-pack=touch /tmp/x", "invalid git reference"),
        (f"{HOST}#-f", "invalid git reference"),
        (f"{HOST}?ref=--output=/etc/passwd", "invalid git reference"),
        (f"{HOST}#+refs/heads/a", "invalid git reference"),
        (f"{HOST}#a..b", "invalid git reference"),
        (f"{HOST}#main@{{1}}", "invalid git reference"),
        (f"{HOST}#a%20b c", "invalid git reference"),
        (f"{HOST}?colour=red", "unexpected query 'colour'"),
        (f"{HOST}?ref=a&ref=b", "several values"),
        (f"{HOST}?branch=a&tag=b", "conflicting references"),
        (f"{HOST}?ref=a#b", "conflicting references"),
        (f"{HOST}?subdir=a#:b", "conflicting subdirs"),
        (f"{HOST}?submodules=perhaps", "must be boolean"),
        (f"{HOST}?commit=main", "invalid checksum"),
        ("ssh://-oProxyCommand=id/a", "invalid git URL"),
        ("ssh://me@-oProxyCommand=id/a", "invalid git URL"),
        ("ssh://%2doProxyCommand=id/a", "invalid git URL"),
        ("git@host:-oProxyCommand=id", "invalid git URL"),
        ("git@host:a\nb", "invalid git URL"),
        ("ssh://host", "invalid git URL"),
        ("https:///a.git", "invalid git URL"),
    ],
)
def test_hostile_and_contradictory_urls_are_refused(text: str, why: str) -> None:
    with pytest.raises(InvalidArgument, match=why):
        parse_git(text)


def test_passwords_are_not_shown() -> None:
    assert parse_git("https://me:secret@host/a.git").shown == "https://host/a.git"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://token@host/x.git#v1", "https://host/x.git#v1"),
        ("https://user:p@ss@host/x@y", "https://host/x@y"),
        ("https://host/x@y", "https://host/x@y"),
        ("git@host:x.git", "git@host:x.git"),
    ],
)
def test_urls_are_shown_without_passwords(url: str, shown: str) -> None:
    assert shown_url(url) == shown

"""Names of images are parsed and normalised as docker does."""

import pytest

from scow.oci.reference import InvalidReference, parse_reference

SHA = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("typed", "canonical", "familiar"),
    [
        ("alpine", "docker.io/library/alpine", "alpine"),
        ("alpine:3.20", "docker.io/library/alpine:3.20", "alpine:3.20"),
        ("docker.io/alpine", "docker.io/library/alpine", "alpine"),
        ("index.docker.io/library/alpine", "docker.io/library/alpine", "alpine"),
        ("user/app:1", "docker.io/user/app:1", "user/app:1"),
        ("library/a/b", "docker.io/library/a/b", "library/a/b"),
        ("localhost/app", "localhost/app", "localhost/app"),
        ("localhost:5000/app:1", "localhost:5000/app:1", "localhost:5000/app:1"),
        ("127.0.0.1:5000/a/b", "127.0.0.1:5000/a/b", "127.0.0.1:5000/a/b"),
        ("[::1]:5000/a", "[::1]:5000/a", "[::1]:5000/a"),
        ("ghcr.io/x/y:v1@" + SHA, "ghcr.io/x/y:v1@" + SHA, "ghcr.io/x/y:v1@" + SHA),
        ("a__b/c-d.e", "docker.io/a__b/c-d.e", "a__b/c-d.e"),
    ],
)
def test_a_reference_has_a_canonical_and_a_familiar_form(typed: str, canonical: str, familiar: str) -> None:
    reference = parse_reference(typed)
    assert (str(reference), reference.familiar) == (canonical, familiar)


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("", "invalid reference format"),
        ("Alpine", r"repository name \(Alpine\) must be lowercase"),
        ("user/App", r"repository name \(user/App\) must be lowercase"),
        ("Bad:Ref:x", r"repository name \(Bad\) must be lowercase"),
        ("a b", "invalid reference format"),
        ("a:", "invalid reference format"),
        ("a:" + "t" * 129, "invalid reference format"),
        ("a@sha256:12", "invalid reference format"),
        ("../etc", "invalid reference format"),
        ("a//b", "invalid reference format"),
        ("a" * 64, "cannot specify 64-byte hexadecimal strings"),
        ("x/" * 130 + "a", "must not be more than 255 characters"),
    ],
)
def test_what_is_no_reference_is_refused_in_dockers_words(typed: str, words: str) -> None:
    with pytest.raises(InvalidReference, match=words):
        parse_reference(typed)


def test_latest_is_the_tag_of_a_bare_name_only() -> None:
    assert str(parse_reference("alpine").with_default_tag()) == "docker.io/library/alpine:latest"
    assert str(parse_reference("alpine@" + SHA).with_default_tag()) == "docker.io/library/alpine@" + SHA

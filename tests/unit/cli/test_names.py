"""Image names as users type them."""

import pytest

from scow.cli.errors import CliError
from scow.cli.names import parse_name

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "canonical", "familiar"),
    [
        ("busybox", "docker.io/library/busybox:latest", "busybox:latest"),
        ("busybox:1.36", "docker.io/library/busybox:1.36", "busybox:1.36"),
        ("user/app", "docker.io/user/app:latest", "user/app:latest"),
        ("docker.io/busybox", "docker.io/library/busybox:latest", "busybox:latest"),
        ("index.docker.io/library/busybox", "docker.io/library/busybox:latest", "busybox:latest"),
        ("localhost/app", "localhost/app:latest", "localhost/app:latest"),
        ("localhost:5000/a/b:v1", "localhost:5000/a/b:v1", "localhost:5000/a/b:v1"),
        (f"quay.io/a/b@{DIGEST}", f"quay.io/a/b@{DIGEST}", f"quay.io/a/b@{DIGEST}"),
    ],
)
def test_names_are_normalised(text: str, canonical: str, familiar: str) -> None:
    name = parse_name(text, default_tag=True)
    assert str(name) == canonical
    assert name.familiar == familiar


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Foo", "invalid reference format: repository name (library/Foo) must be lowercase"),
        ("foo:", "invalid reference format"),
        ("foo@sha256:12", "invalid reference format"),
        ("", "invalid reference format"),
        ("a//b", "invalid reference format"),
        ("a" * 64, f"invalid repository name ({'a' * 64}), cannot specify 64-byte hexadecimal strings"),
    ],
)
def test_other_names_are_refused(text: str, message: str) -> None:
    with pytest.raises(CliError) as refusal:
        parse_name(text)
    assert refusal.value.message == message


def test_credentials_of_the_hub_are_kept_under_its_old_address() -> None:
    assert parse_name("busybox").auth_key == "https://index.docker.io/v1/"
    assert parse_name("quay.io/x").auth_key == "quay.io"

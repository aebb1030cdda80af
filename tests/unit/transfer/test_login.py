"""Which registry a login is about."""

import pytest

from scow.errors import InvalidArgument
from scow.transfer.login import registry_host


@pytest.mark.parametrize(
    ("address", "host"),
    [
        ("", "index.docker.io"),
        ("https://index.docker.io/v1/", "index.docker.io"),
        ("registry.example:5000", "registry.example:5000"),
        ("http://registry.example/v2/", "registry.example"),
        ("ghcr.io/team", "ghcr.io"),
        ("[::1]:5000", "[::1]:5000"),
    ],
)
def test_the_host_is_taken_from_whatever_clients_call_a_registry(address: str, host: str) -> None:
    assert registry_host(address) == host


def test_an_address_without_a_host_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="invalid registry address"):
        registry_host("https:///v1/")

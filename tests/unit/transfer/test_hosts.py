"""Which endpoints a reference leads to."""

import pytest

from scow.oci.reference import parse_reference
from scow.transfer.hosts import HostPolicy, InvalidInsecureRegistry, InvalidMirror, Proxies


async def urls(policy: HostPolicy, text: str, *, for_push: bool = False) -> list[str]:
    return [endpoint.url for endpoint in await policy.endpoints(parse_reference(text), for_push=for_push)]


async def test_docker_io_is_asked_at_its_registry_host() -> None:
    assert await urls(HostPolicy(), "alpine") == ["https://registry-1.docker.io"]


async def test_mirrors_come_before_the_hub_in_order() -> None:
    policy = HostPolicy(mirrors=["https://10.9.9.9/", "http://10.9.9.8:5000/cache"])
    assert await urls(policy, "alpine") == [
        "https://10.9.9.9",
        "http://10.9.9.8:5000/cache",
        "https://registry-1.docker.io",
    ]


async def test_mirrors_serve_pulls_from_the_hub_only() -> None:
    policy = HostPolicy(mirrors=["https://10.9.9.9"])
    assert await urls(policy, "alpine", for_push=True) == ["https://registry-1.docker.io"]
    assert await urls(policy, "10.1.2.3/alpine") == ["https://10.1.2.3"]


@pytest.mark.parametrize("host", ["127.0.0.1:5000", "127.9.9.9", "localhost:5000", "[::1]:5000"])
async def test_loopback_is_insecure_by_default(host: str) -> None:
    endpoints = await HostPolicy().endpoints(parse_reference(f"{host}/x"))
    assert [(endpoint.url, endpoint.verify) for endpoint in endpoints] == [
        (f"https://{host}", False),
        (f"http://{host}", False),
    ]


@pytest.mark.parametrize("entry", ["10.1.2.3:5000", "10.1.0.0/16", "http://10.1.2.3:5000", "10.1.2.3"])
async def test_configured_hosts_and_networks_are_insecure(entry: str) -> None:
    assert await urls(HostPolicy(insecure=[entry]), "10.1.2.3:5000/x") == [
        "https://10.1.2.3:5000",
        "http://10.1.2.3:5000",
    ]


async def test_all_others_need_tls_and_a_certificate() -> None:
    policy = HostPolicy(insecure=["10.1.2.3:5000", "10.2.0.0/16"])
    for host in ("10.1.2.3:5001", "10.3.0.1"):
        [endpoint] = await policy.endpoints(parse_reference(f"{host}/x"))
        assert endpoint.url == f"https://{host}"
        assert endpoint.verify


async def test_an_insecure_mirror_needs_no_certificate() -> None:
    policy = HostPolicy(mirrors=["https://10.1.2.3:5000"], insecure=["10.1.2.3:5000"])
    assert [endpoint.verify for endpoint in await policy.endpoints(parse_reference("x"))] == [False, True]


@pytest.mark.parametrize(
    ("mirror", "why"),
    [
        ("ftp://x", "unsupported scheme"),
        ("mirror.example", "unsupported scheme"),
        ("https://", "no host"),
        ("https://x?y=1", "query or fragment"),
        ("https://user:hidden@x", "username/password"),
    ],
)
def test_a_senseless_mirror_is_refused(mirror: str, why: str) -> None:
    with pytest.raises(InvalidMirror, match=f"invalid mirror: {why}") as refusal:
        HostPolicy(mirrors=[mirror])
    assert "hidden" not in str(refusal.value)


@pytest.mark.parametrize("entry", ["", "a/b", "10.0.0.0/99"])
def test_a_senseless_insecure_registry_is_refused(entry: str) -> None:
    with pytest.raises(InvalidInsecureRegistry):
        HostPolicy(insecure=[entry])


@pytest.mark.parametrize(
    ("no_proxy", "url", "proxied"),
    [
        ("", "https://a.example/v2/", True),
        ("", "https://127.0.0.1:5000/v2/", False),
        ("", "https://localhost/v2/", False),
        ("a.example", "https://a.example/v2/", False),
        ("example", "https://a.example/v2/", False),
        (".example", "https://a.example/v2/", False),
        ("b.example, 10.0.0.0/8", "https://10.2.3.4/v2/", False),
        ("a.example:444", "https://a.example/v2/", True),
        ("*", "https://a.example/v2/", False),
        ("xample", "https://a.example/v2/", True),
    ],
)
def test_the_proxy_is_used_unless_the_host_is_exempt(no_proxy: str, url: str, proxied: bool) -> None:
    proxies = Proxies(https="http://proxy:3128", no_proxy=no_proxy)
    assert proxies.for_url(url) == ("http://proxy:3128" if proxied else None)

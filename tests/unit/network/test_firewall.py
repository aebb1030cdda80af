"""The text of the firewall table; what it does is tested with packets in tests/linux."""

from datetime import UTC, datetime

from scow.network.firewall import elements, render
from scow.network.model import OPTION_ICC, Endpoint, Network, Pool, PublishedPort

POOL = Pool(subnet="10.1.0.0/24", gateway="10.1.0.1")


def network(**changes: object) -> Network:
    values = {"id": "0" * 64, "name": "n", "driver": "bridge", "created": datetime.now(UTC), "bridge": "b0"}
    return Network(**(values | {"pools": (POOL,)} | changes))  # type: ignore[arg-type]  # a test's shorthand


def test_each_published_port_is_one_map_element() -> None:
    endpoint = Endpoint(
        id="e",
        network_id="n",
        network_name="n",
        container_id="c",
        ip="10.1.0.2",
        ports=(
            PublishedPort(80, "tcp", "0.0.0.0", 8080),
            PublishedPort(53, "udp", "127.0.0.1", 5353),
            PublishedPort(80, "tcp", "::", 8080),
        ),
    )
    assert elements(endpoint) == [
        "any4 { tcp . 8080 : 10.1.0.2 . 80 }",
        "at4 { udp . 127.0.0.1 . 5353 : 10.1.0.2 . 53 }",
    ], "an endpoint without IPv6 publishes nothing there"


def test_an_internal_network_is_neither_translated_nor_let_out() -> None:
    script = render("inet t", [network(internal=True)])
    assert 'set internal { type ifname; elements = { "b0" }; }' in script
    assert 'oifname != "b0"' not in script


def test_containers_are_kept_apart_where_inter_container_traffic_is_off() -> None:
    assert '"b0" . "b0"' in render("inet t", [network()])
    assert '"b0" . "b0"' not in render("inet t", [network(options={OPTION_ICC: "false"})])

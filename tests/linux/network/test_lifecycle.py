"""What is made, what is left: ports that are taken, kills at any moment, forty containers at once."""

import asyncio
import ipaddress
import os
import secrets
import signal
import socket
import sqlite3
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from scow import points
from scow.errors import Conflict, Forbidden, NotFound
from scow.linux import links, netns, nftables_child
from scow.linux.netlink import Netlink
from scow.linux.nftables import Nftables, NftablesFailed
from scow.network.addresses import AddressTaken
from scow.network.dns import message
from scow.network.model import Endpoint, EndpointRequest, NetworkRequest, NoSuchNetwork, Pool, Port
from scow.network.networks import Networks
from scow.network.ports import PublishingFailed
from scow.network.refusals import AlreadyConnected, LeftMeanwhile, NetworkInUse
from support.ports import free_port

from .conftest import Rig, ask, in_sandbox, serving, unreachable


async def run(networks: Networks, name: str, *ports: Port, **request: str) -> Endpoint:
    sandbox = await networks.sandbox(name)
    wanted = EndpointRequest(container_name=name, **request)  # type: ignore[arg-type]  # shorthand
    return await networks.connect(sandbox, "bridge", wanted, ports)


def link_names(networks: Networks) -> set[str]:
    machine = Netlink()
    try:
        return {link.name for link in links.links(machine) if link.name.startswith(f"v{networks.tag[:6]}")}
    finally:
        machine.close()


def of_its_own() -> Port:
    """Port 80 at a port that no engine beside us chooses when nobody holds it for a while."""
    return Port(80, host_port=free_port("0.0.0.0"))


def own_table(networks: Networks) -> str:
    with Nftables() as nft:
        return nft.run(f"list table inet scow_{networks.tag}")


async def test_a_port_that_another_container_has_is_refused_by_name(rig: Rig) -> None:
    networks = await rig.engine()
    port = free_port("0.0.0.0")
    await run(networks, "first", Port(80, host_port=port))
    with pytest.raises(PublishingFailed) as refusal:
        await run(networks, "second", Port(80, host_ip="127.0.0.1", host_port=port))
    text = str(refusal.value)
    assert text.startswith("driver failed programming external connectivity on endpoint second (")
    assert f"Bind for 127.0.0.1:{port} failed: port is already allocated (held by container first)" in text
    assert networks.of_container("second") == []
    await networks.release("first")
    await networks.release("second")
    assert (await run(networks, "third", Port(80, host_port=port))).ports[0].host_port == port


async def test_a_port_that_a_program_of_the_machine_has_is_refused_naming_it(rig: Rig) -> None:
    networks = await rig.engine()
    with socket.socket() as program:
        program.bind(("127.0.0.1", 0))
        program.listen()
        with pytest.raises(PublishingFailed, match=r"address already in use \(held by process .*, pid \d+\)"):
            await run(networks, "c1", Port(80, host_port=program.getsockname()[1]))
    assert networks.endpoints(networks.get("bridge").id) == []


async def test_a_published_port_is_kept_from_programs_of_the_machine(rig: Rig) -> None:
    networks = await rig.engine()
    published = (await run(networks, "c1", of_its_own())).ports[0]
    with socket.socket() as program:
        program.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with pytest.raises(OSError, match="Address already in use"):
            program.bind(("0.0.0.0", published.host_port))
    await networks.release("c1")
    with socket.socket() as program:
        program.bind(("0.0.0.0", published.host_port))


async def test_a_range_gives_the_first_free_port(rig: Rig) -> None:
    networks = await rig.engine()
    low = free_port("0.0.0.0")
    first = await run(networks, "c1", Port(80, host_port=low, last_host_port=low + 20))
    second = await run(networks, "c2", Port(80, host_port=low, last_host_port=low + 20))
    assert first.ports[0].host_port == low
    assert low < second.ports[0].host_port <= low + 20


async def test_a_failed_connect_leaves_nothing(rig: Rig) -> None:
    networks = await rig.engine(spare_sandboxes=0)
    sandbox = await networks.sandbox("c1")
    networks._bridges[networks.get("bridge").id] = 999999
    with pytest.raises(OSError, match=r"."):
        await networks.connect(sandbox, "bridge", published=[Port(80)])
    assert networks.of_container("c1") == []
    assert not link_names(networks)
    assert "tcp . " not in own_table(networks)


async def test_host_and_none_are_recorded_without_links(rig: Rig) -> None:
    networks = await rig.engine()
    host = await networks.sandbox("c1", "host")
    assert host.path is None
    assert (await networks.connect(host, "host")).ip == ""
    none = await networks.sandbox("c2", "none")
    await networks.connect(none, "none")
    machine = in_sandbox(none.path, Netlink)
    assert [(link.name, link.up) for link in links.links(machine)] == [("lo", True)]
    machine.close()
    assert [endpoint.container_id for endpoint in networks.endpoints(networks.get("none").id)] == ["c2"]


async def test_a_static_address_is_free_again_for_the_same_container_at_once(rig: Rig) -> None:
    networks = await rig.engine()
    wanted = f"{rig.subnet}.99"
    await run(networks, "c1", ipv4=wanted)
    with pytest.raises(AddressTaken):
        await run(networks, "c2", ipv4=wanted)
    await networks.release("c1")
    assert (await run(networks, "c1", ipv4=wanted)).ip == wanted


async def test_forty_containers_at_once_get_forty_addresses_and_leave_nothing(rig: Rig) -> None:
    networks = await rig.engine()
    endpoints = await asyncio.gather(*(run(networks, f"c{number}", Port(80)) for number in range(40)))
    assert len({endpoint.ip for endpoint in endpoints}) == 40
    assert len({endpoint.ports[0].host_port for endpoint in endpoints}) == 40
    await asyncio.gather(*(networks.release(f"c{number}") for number in range(40)))
    await networks.settled()
    assert not link_names(networks) & {endpoint.link for endpoint in endpoints}
    assert networks.endpoints(networks.get("bridge").id) == []


async def test_after_a_kill_live_containers_keep_their_network_and_dead_ones_lose_it(rig: Rig) -> None:
    networks = await rig.engine()
    live, dead = await run(networks, "live", of_its_own()), await run(networks, "dead", of_its_own())
    path = rig.folder / "netns" / "live"
    await rig.kill(networks)
    with serving(path, 80):
        assert ask("127.0.0.1", live.ports[0].host_port), "without any engine"
        after = await rig.engine()
        await after.reconcile({"live"})
        await after.settled()
        assert ask("127.0.0.1", live.ports[0].host_port)
        assert await asyncio.to_thread(partial(unreachable, "127.0.0.1", dead.ports[0].host_port))
    assert after.of_container("live") == [live]
    assert after.of_container("dead") == []
    assert dead.link not in link_names(after)
    assert not (rig.folder / "netns" / "dead").exists()
    with pytest.raises(PublishingFailed):
        await run(after, "new", Port(80, host_port=live.ports[0].host_port))


@pytest.mark.parametrize("point", ["recorded", "attached", "published", "unpinned"])
async def test_a_kill_in_the_middle_of_a_connect_or_release_leaves_nothing(rig: Rig, point: str) -> None:
    networks = await rig.engine(spare_sandboxes=0)
    sandbox = await networks.sandbox("c1")
    reached, forever = asyncio.Event(), asyncio.Event()

    async def stop_here(*_: object) -> None:
        reached.set()
        await forever.wait()

    if point == "recorded":
        networks._attach = stop_here  # type: ignore[method-assign]  # the pause point
    elif point == "attached":
        networks._firewall.publish = stop_here  # type: ignore[method-assign]  # the pause point
    elif point == "unpinned":
        await networks.connect(sandbox, "bridge", published=[of_its_own()])
        networks._state.remove_sandbox = stop_here  # type: ignore[method-assign]  # the pause point
    step = (
        networks.release("c1") if point == "unpinned" else networks.connect(sandbox, "bridge", published=[of_its_own()])
    )
    if point == "published":
        await step
    else:
        task = asyncio.ensure_future(step)
        await reached.wait()
        networks._machine.close()  # so that undoing can't do anything to the machine, as after a kill
        networks._state = None  # type: ignore[assignment]  # and can't write anything
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await rig.kill(networks)
    after = await rig.engine(spare_sandboxes=0)
    await after.reconcile(set())
    await after.settled()
    assert not link_names(after)
    assert not list((rig.folder / "netns").iterdir())
    with sqlite3.connect(rig.folder / "state.db") as db:
        assert db.execute("SELECT (SELECT count(*) FROM endpoints), (SELECT count(*) FROM sandboxes)").fetchone() == (
            0,
            0,
        )
    db.close()
    assert "tcp . " not in own_table(after)


async def test_a_flushed_ruleset_is_restored_by_the_next_change(rig: Rig) -> None:
    networks = await rig.engine()
    first = await run(networks, "c1", Port(80))
    with Nftables() as nft:
        nft.run(f"delete table inet scow_{networks.tag}")
    await run(networks, "c2", Port(80))
    with serving(rig.folder / "netns" / "c1", 80):
        assert ask("127.0.0.1", first.ports[0].host_port)


async def test_a_lost_link_of_a_live_container_is_made_again(rig: Rig) -> None:
    networks = await rig.engine()
    endpoint = await run(networks, "c1", of_its_own())
    await rig.kill(networks)
    machine = Netlink()
    machine.request([links.delete_link(endpoint.link), links.delete_link(networks.get("bridge").bridge)])
    machine.close()
    after = await rig.engine()
    await after.reconcile({"c1"})
    with serving(rig.folder / "netns" / "c1", 80):
        assert ask(endpoint.ip, 80)


async def test_stopping_the_engine_leaves_live_containers_alone(rig: Rig) -> None:
    networks = await rig.engine()
    endpoint = await run(networks, "c1", of_its_own())
    await networks.stop()
    assert link_names(networks) == {endpoint.link}, "spare sandboxes are gone"
    with serving(rig.folder / "netns" / "c1", 80):
        assert ask("127.0.0.1", endpoint.ports[0].host_port)
    rig.running.clear()


async def test_a_network_in_use_is_not_removed_and_predefined_ones_never(rig: Rig) -> None:
    networks = await rig.engine()
    made = await networks.create(NetworkRequest(name="mine", pools=(Pool(subnet="10.97.9.0/24", gateway=""),)))
    sandbox = await networks.sandbox("c1")
    await networks.connect(sandbox, "mine")
    with pytest.raises(AlreadyConnected):
        await networks.connect(sandbox, made.id[:12])
    with pytest.raises(NetworkInUse, match="has active endpoints"):
        await networks.remove("mine")
    with pytest.raises(Conflict, match="network with name mine already exists"):
        await networks.create(NetworkRequest(name="mine"))
    with pytest.raises(Forbidden, match="Pool overlaps with other one on this address space"):
        await networks.create(NetworkRequest(name="twin", pools=(Pool(subnet="10.97.9.128/25", gateway=""),)))
    with pytest.raises(NotFound, match="plugin"):
        await networks.create(NetworkRequest(name="odd", driver="odd"))
    await networks.release("c1")
    await networks.remove("mine")
    with pytest.raises(NoSuchNetwork, match="network mine not found"):
        networks.get("mine")
    for name in ("bridge", "host", "none"):
        with pytest.raises(Forbidden, match="is a pre-defined network and cannot be removed"):
            await networks.remove(name)


async def test_user_defined_networks_outlive_the_engine(rig: Rig) -> None:
    networks = await rig.engine()
    made = await networks.create(NetworkRequest(name="mine", labels={"a": "b"}))
    await rig.kill(networks)
    after = await rig.engine()
    assert after.get("mine") == made


async def test_pinned_namespaces_are_told_from_plain_files(rig: Rig) -> None:
    networks = await rig.engine()
    sandbox = await networks.sandbox("c1")
    assert sandbox.path is not None
    assert netns.is_pinned(sandbox.path)
    await networks.release("c1")
    assert not netns.is_pinned(sandbox.path)


async def test_networks_made_at_once_get_subnets_of_their_own(rig: Rig) -> None:
    networks = await rig.engine()
    made = await asyncio.gather(*(networks.create(NetworkRequest(name=f"n{number}")) for number in range(4)))
    assert len({network.pools[0].subnet for network in made}) == 4
    await asyncio.gather(*(networks.remove(network.name) for network in made))
    assert {network.name for network in networks.all()} == {"bridge", "host", "none"}


async def test_engines_that_make_networks_at_once_choose_different_subnets(rig: Rig, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    second = Rig(tmp_path / "other")
    try:
        engines = [await rig.engine(), await second.engine()]
        made = await asyncio.gather(*(each.create(NetworkRequest(name="n")) for each in engines))
        assert made[0].pools[0].subnet != made[1].pools[0].subnet
        await asyncio.gather(*(each.remove("n") for each in engines))
    finally:
        await second.finish()


@pytest.mark.parametrize("harm", ["delete table inet {}", "flush table inet {}", "flush chain inet {} forward"])
async def test_rules_that_others_remove_come_back(rig: Rig, harm: str) -> None:
    networks = await rig.engine()
    port = (await run(networks, "c1", Port(80))).ports[0]
    nft = Nftables()
    await asyncio.to_thread(nft.run, harm.format(f"scow_{networks.tag}"))
    async with asyncio.timeout(30):
        while True:
            try:
                found = own_table(networks)
            except NftablesFailed:
                found = ""
            if f"tcp . {port.host_port}" in found and "oifname @bridges drop" in found:
                break
            await asyncio.sleep(0.02)
    with serving(networks._sandboxes.path("c1"), 80):
        assert await asyncio.to_thread(ask, "127.0.0.1", port.host_port)
    nft.close()


async def test_our_own_changes_are_not_taken_for_others(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    networks = await rig.engine()
    for number in range(3):
        await run(networks, f"c{number}", Port(80))
        made = await networks.create(NetworkRequest(name=f"n{number}"))
        await networks.remove(made.id)
        await networks.release(f"c{number}")
    await run(networks, "last", Port(80))
    firewall = networks._firewall
    async with firewall._lock:
        withdrawn = firewall.unpublish(networks.of_container("last")[0].id)
        turns = [asyncio.create_task(each) for each in (networks.reload(), withdrawn)]
        await asyncio.sleep(0)  # both wait for their turn
    await asyncio.gather(*turns)
    await networks.release("last")
    await networks.settled()
    await asyncio.sleep(0.2)  # for longer than a restoration waits
    assert "changed from outside" not in caplog.text


@pytest.mark.parametrize("internal", [False, True])
async def test_a_network_that_is_added_is_written_as_in_a_new_table(rig: Rig, internal: bool) -> None:
    networks = await rig.engine()
    await networks.create(NetworkRequest(name="n", enable_ipv6=True, internal=internal))

    def lines() -> list[str]:
        # Sets are listed in no particular order, over several lines.
        return sorted(own_table(networks).replace("elements = ", "").replace(",", "").split())

    added = lines()
    await networks.reload()
    assert lines() == added


@pytest.fixture
def own_bridge() -> Iterator[tuple[str, set[str]]]:
    """A bridge that an administrator has made, and its addresses, which are the same when the engine has gone."""
    name, subnet = f"adm{secrets.token_hex(3)}", f"10.{secrets.randbelow(50) + 200}.{secrets.randbelow(250)}"
    given = {f"{subnet}.7/24", f"{subnet}.9/24"}
    machine = Netlink()
    machine.request([links.add_bridge(name, f"02:00:{secrets.token_hex(4)}")])
    for address in sorted(given):
        machine.request([links.add_address(links.index_of(name), ipaddress.ip_interface(address))])
    try:
        yield name, given
        assert addresses_on(name) == given
    finally:
        machine.attempt([links.delete_link(name)])
        machine.close()


def addresses_on(name: str) -> set[str]:
    machine = Netlink()
    index = links.index_of(name)
    found = {str(address) for at, address in links.addresses(machine) if at == index and not address.is_link_local}
    machine.close()
    return found


async def test_a_default_bridge_that_was_there_is_used_and_left_as_it_was(
    own_bridge: tuple[str, set[str]], rig: Rig
) -> None:
    name, given = own_bridge
    networks = await rig.engine(bridge_name=name, bip="")
    assert networks.get("bridge").pools[0].gateway == min(given).partition("/")[0]
    endpoint = await run(networks, "c1")
    assert endpoint.ip.startswith(min(given).rpartition(".")[0])
    await networks.release("c1")
    await rig.kill(networks)
    await rig.engine(bridge_name=name, bip="")


async def test_without_a_default_bridge_the_one_that_was_there_goes_when_nobody_is_on_it(rig: Rig) -> None:
    networks = await rig.engine()
    bridge = networks.get("bridge").bridge
    await run(networks, "c1")
    await rig.kill(networks)
    networks = await rig.engine(has_bridge=False)
    assert networks.get("bridge").bridge == bridge
    assert links.index_of(bridge)
    await networks.release("c1")
    await networks.settled()
    await rig.kill(networks)
    networks = await rig.engine(has_bridge=False)
    assert {network.name for network in networks.all()} == {"host", "none"}
    with pytest.raises(OSError, match="no interface"):
        links.index_of(bridge)


async def test_a_network_on_a_bridge_that_was_there_leaves_it_when_it_goes(
    own_bridge: tuple[str, set[str]], rig: Rig
) -> None:
    name, given = own_bridge
    networks = await rig.engine()
    options = {"com.docker.network.bridge.name": name}
    with pytest.raises(Conflict, match=f"bridge {name} has the address"):
        await networks.create(NetworkRequest(name="elsewhere", options=options))
    subnet, gateway = str(ipaddress.ip_interface(min(given)).network), min(given).partition("/")[0]
    await networks.create(NetworkRequest(name="there", options=options, pools=(Pool(subnet=subnet, gateway=gateway),)))
    await networks.remove("there")
    await networks.settled()


async def test_a_bridge_whose_removal_was_cut_short_goes_at_the_next_start(rig: Rig) -> None:
    networks = await rig.engine()
    made = await networks.create(NetworkRequest(name="n"))
    await networks._state.retire_network(made)
    await rig.kill(networks)
    again = await rig.engine()
    machine = Netlink()
    assert made.bridge not in {link.name for link in links.links(machine)}
    machine.close()
    assert again._state.leaving() == []
    with pytest.raises(NoSuchNetwork):
        again.get("n")


async def test_a_container_that_ends_while_it_is_connected_is_connected_to_nothing(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    ending = ""

    async def end(point: str) -> None:
        if point == ending:
            await networks.release("c1")

    networks = await rig.engine()
    await networks.create(NetworkRequest(name="n"))
    monkeypatch.setattr(points, "at", end)
    for point in ("connect.recorded", "connect.attached"):
        ending = point
        sandbox = await networks.sandbox("c1", "n")
        with pytest.raises((LeftMeanwhile, OSError)):
            await networks.connect(sandbox, "n", EndpointRequest(names=("c1",)))
        assert networks.of_container("c1") == []
        await networks.settled()
        assert networks._state.load()[2] == []
    await networks.remove("n")


async def test_names_are_served_on_the_same_port_after_a_kill(rig: Rig) -> None:
    networks = await rig.engine()
    await networks.create(NetworkRequest(name="n"))
    sandbox = await networks.sandbox("c1", "n")
    await networks.connect(sandbox, "n", EndpointRequest(names=("c1",)))
    before = networks._state.load()[1]
    await rig.kill(networks)
    again = await rig.engine()
    await again.reconcile(["c1"])
    assert before == again._state.load()[1]
    assert before["c1"] > 0
    assert b"c1" in await asyncio.to_thread(asked_within, again._sandboxes.path("c1"), "c1")
    await again.release("c1")
    await again.remove("n")


def asked_within(sandbox: Path, name: str) -> bytes:
    """What 127.0.0.11 answers to a question for a name in a sandbox."""
    question = bytes.fromhex("000701000001000000000000") + message.pack_name(name) + bytes.fromhex("00010001")

    def ask() -> bytes:
        with socket.socket(type=socket.SOCK_DGRAM) as client:
            client.settimeout(60)
            client.connect(("127.0.0.11", 53))
            client.send(question)
            return client.recv(4096)

    return in_sandbox(sandbox, ask)


async def test_the_table_is_written_again_when_the_rules_process_crashes(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def send_and_kill(connection: socket.socket, kind: int, data: bytes) -> None:
        send(connection, kind, data)
        if crashes:
            os.kill(crashes.pop(), signal.SIGKILL)

    networks = await rig.engine()
    nft = networks._firewall._nft
    assert nft is not None
    assert nft.pid is not None
    send, crashes = nftables_child.send, [nft.pid]
    monkeypatch.setattr(nftables_child, "send", send_and_kill)
    endpoint = await run(networks, "c1", Port(80))
    assert not crashes
    assert f"tcp . {endpoint.ports[0].host_port}" in own_table(networks)
    with serving(networks._sandboxes.path("c1"), 80):
        assert await asyncio.to_thread(ask, "127.0.0.1", endpoint.ports[0].host_port)

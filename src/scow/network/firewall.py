"""The engine's one nftables table: translation of addresses and ports, and who may talk to whom.

`inet scow_TAG` holds everything, so that removing it removes everything, and no rule of anybody else is ever touched.
Published ports are elements of maps: publishing one costs no new rule. `install` writes the whole table
in one transaction, whatever was there before; `publish` and `unpublish` change elements only, and fall back to
`install` when the table isn't as they expect (somebody flushed the ruleset).

What the rules say: to a container's bridge goes what belongs to a connection it began, what a published port led
there, and what comes from the same bridge (unless inter-container traffic is off); nothing goes in or out of an
internal network, which reaches nothing of the machine either.
An accept here can't overrule a drop in another table: `passages` says what is done about those.
"""

import asyncio
import ipaddress
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from scow.linux.nftables import Nftables, NftablesCrashed, NftablesFailed
from scow.linux.ruleset_events import RulesetEvents
from scow.network import addresses, firewalld
from scow.network.model import Endpoint, Network
from scow.network.passages import Chain, changes, end_of, forward_chains, our_rules
from scow.network.threads import Threads

_log = logging.getLogger(__name__)
_RESTORE_DELAY_S: Final = 0.05
_RETRY_DELAY_S: Final = 1.0
_KIN: Final = "inet scow_"  # other engines', which never refuse what isn't theirs
_LOOK_DELAY_S: Final = 0.3  # others change many rules in a row


class Firewall:
    """The table of one engine; owned by the event loop, its calls run in threads. `nft` is closed with it."""

    def __init__(self, tag: str, threads: Threads, nft: Nftables | None = None) -> None:
        self.table = f"inet scow_{tag}"
        self._threads = threads
        self._nft = nft
        self._networks: tuple[Network, ...] = ()
        self._published: dict[str, list[str]] = {}
        self._lock = asyncio.Lock()  # a script is written and run before the next is written
        self._written = 0  # how often the whole table was written
        self._events: RulesetEvents | None = None
        self._restoring: asyncio.Task[None] | None = None
        self._firewalld = firewalld.Firewalld()
        self._trusted: set[str] = set()  # bridges that we put into its zone
        self._obstructed = True  # others' tables refuse what they don't know, or may, since nobody has looked yet
        self._looking: asyncio.Task[None] | None = None
        self._look_wanted = False

    async def install(self, networks: Iterable[Network], endpoints: Iterable[Endpoint] | None = None) -> None:
        """Make the table say exactly this; without `endpoints`, what is published stays. Raises NftablesFailed."""
        self._networks = tuple(network for network in networks if network.bridge)
        if endpoints is not None:
            self._published = {endpoint.id: elements(endpoint) for endpoint in endpoints if endpoint.ports}
        async with self._lock:
            await self._reinstall()
        if self._obstructed:
            await self._look()

    async def add(self, network: Network) -> None:
        """Add one network to what the table says: a tenth of the time that `install` takes. Raises NftablesFailed."""
        self._networks = (*self._networks, network)
        await self._change("add", additions(network))
        if self._obstructed:
            await self._look()

    async def publish(self, endpoint: Endpoint) -> None:
        """Lead the endpoint's published ports to it. Raises NftablesFailed; then nothing is published."""
        lines = elements(endpoint)
        if not lines:
            return
        self._published[endpoint.id] = lines
        try:
            await self._change("add", _elements(lines))
        except BaseException:
            self._published.pop(endpoint.id, None)
            raise

    async def unpublish(self, endpoint_id: str) -> None:
        """Undo `publish`; an endpoint that has nothing published is fine."""
        lines = self._published.pop(endpoint_id, [])
        written = self._written
        if lines:
            # Whoever writes the whole table from here on leaves them out.
            await self._change("delete", _elements(lines), is_due=lambda: self._written == written)

    def watch(self) -> None:
        """Notice from now on what others take away from the table, and restore it. Raises OSError."""
        self._events = RulesetEvents()
        asyncio.get_running_loop().add_reader(self._events, self._changed)

    def _changed(self) -> None:
        assert self._events is not None
        lost, gone, others = self._events.changes(self.table, _KIN)
        # While a script of ours runs, what goes is what it takes away; but it never ends without the table.
        self._react(lost=lost and not self._lock.locked(), gone=gone, others=others)

    def _react(self, *, lost: bool, gone: bool, others: bool) -> None:
        if lost or gone:
            self._restore_soon()
        if others:
            self._look_soon()

    def _look_soon(self) -> None:
        self._look_wanted = True
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look_while_wanted(), name="firewall-passages")

    async def _look_while_wanted(self) -> None:
        while self._look_wanted:
            await asyncio.sleep(_LOOK_DELAY_S)
            self._look_wanted = False  # what changes from now on is looked at once more
            await self._look()

    async def _look(self) -> None:
        """Look at others' tables, and open what is in the way; what can't be is in the log."""
        try:
            async with self._lock:
                managed = await self._open_passages()
            if managed:
                await self._tell_firewalld()
        except (NftablesFailed, ValueError) as failure:
            _log.warning("containers may be cut off by another firewall: %s", failure)

    def _restore_soon(self) -> None:
        if self._restoring is None or self._restoring.done():
            self._restoring = asyncio.create_task(self._restore(), name="firewall-restore")

    async def _restore(self) -> None:
        while True:
            # Whoever flushes the ruleset often goes on at once with rules of its own.
            await asyncio.sleep(_RESTORE_DELAY_S)
            try:
                async with self._lock:
                    await self._reinstall()
            except NftablesFailed as failure:
                _log.error("cannot restore table %s, which was changed from outside: %s", self.table, failure)
                await asyncio.sleep(_RETRY_DELAY_S)
                continue
            _log.warning("restored table %s, which was changed from outside", self.table)
            return

    async def _unwatch(self) -> None:
        if self._events is not None:
            asyncio.get_running_loop().remove_reader(self._events)
            self._events.close()
            self._events = None
        for task in (self._restoring, self._looking):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    async def destroy(self) -> None:
        """Remove the table, if it is there, and the context."""
        await self._unwatch()
        self._published.clear()
        self._networks = ()
        await self._look()
        await self._run(f"add table {self.table}\ndelete table {self.table}\n")
        await self.aclose()

    async def aclose(self) -> None:
        """Let go of the ruleset; the table stays as it is. A second call does nothing."""
        await self._unwatch()
        if self._nft is not None:
            nft, self._nft = self._nft, None
            await asyncio.to_thread(nft.close)

    async def _change(self, verb: str, lines: Sequence[str], is_due: Callable[[], bool] = lambda: True) -> None:
        script = "".join(f"{verb} {line.format(table=self.table)}\n" for line in lines)
        async with self._lock:
            if not is_due():
                return
            try:
                await self._run(script)
            except NftablesFailed as failure:
                _log.warning("restoring table %s, which was changed from outside: %s", self.table, failure)
                await self._reinstall()

    async def _reinstall(self) -> None:
        self._written += 1
        script = render(self.table, self._networks)
        for lines in self._published.values():
            script += "".join(f"add element {self.table} {line}\n" for line in lines)
        try:
            await self._run(script)
        except NftablesCrashed as failure:
            _log.warning("writing table %s once more: %s", self.table, failure)
            await self._run(script)

    async def _run(self, script: str) -> None:
        def job() -> None:
            if self._nft is None:
                self._nft = Nftables()
            self._nft.run(script)

        await self._threads(job)
        if self._events is not None:
            _, gone, others = self._events.changes(self.table, _KIN)
            self._react(lost=False, gone=gone, others=others)

    async def _open_passages(self) -> bool:
        """Let our packets through other tables that refuse what they don't know; whether firewalld has one."""
        found = forward_chains(await self._ask("list chains"))
        refusing = [chain for chain, drops in found.items() if await self._pass(chain, drops=drops)]
        self._obstructed = bool(refusing)
        return any(chain.table == firewalld.TABLE for chain in found)

    async def _pass(self, chain: Chain, *, drops: bool) -> bool:
        """Open one chain for all bridges; whether it refuses what it doesn't know."""
        if chain.table == firewalld.TABLE:
            return True
        mark = f"scow {self.table.rpartition('_')[2]}"
        try:
            listing = await self._ask(f"list chain {chain}")
            end = end_of(listing, drops=drops)
            script = changes({chain: end}, our_rules(listing, mark), [each.bridge for each in self._networks], mark)
            if script:
                await self._run(script)
        except (NftablesFailed, ValueError) as failure:  # it may be another's alone, or say what can't be read
            _log.warning("containers may be cut off by %s: %s", chain, failure)
            return drops
        return end.refuses

    async def _tell_firewalld(self) -> None:
        bridges = {network.bridge for network in self._networks}
        try:
            await self._firewalld.release(self._trusted - bridges)
            self._trusted &= bridges
            self._trusted |= set(await self._firewalld.trust(sorted(bridges)))
        except firewalld.FirewalldFailed as failure:
            _log.warning("containers may be cut off by firewalld: %s", failure)

    async def _ask(self, question: str) -> str:
        """What nft says, in JSON. Raises NftablesFailed."""

        def job() -> str:
            if self._nft is None:
                self._nft = Nftables()
            try:
                return self._nft.run(question, json=True)
            except NftablesCrashed:  # others change the ruleset just now
                return self._nft.run(question, json=True)

        return await self._threads(job)


def elements(endpoint: Endpoint) -> list[str]:
    """Name the map elements (`MAP { KEY : VALUE }`) that publish an endpoint's ports."""
    lines = []
    for port in endpoint.ports:
        address = ipaddress.ip_address(port.host_ip)
        target = endpoint.ip if address.version == 4 else endpoint.ipv6
        if not target:
            continue
        where = "" if address.is_unspecified else f"{address} . "
        name = f"{'any' if address.is_unspecified else 'at'}{address.version}"
        lines.append(f"{name} {{ {port.protocol} . {where}{port.host_port} : {target} . {port.container_port} }}")
    return lines


def _elements(lines: Iterable[str]) -> list[str]:
    return [f"element {{table}} {line.replace('{', '{{').replace('}', '}}')}" for line in lines]


def additions(network: Network) -> list[str]:
    """Name what `render` writes for one network alone, as `element` and `rule` lines."""
    sets = {
        "bridges": [_quoted(network)],
        "internal": [_quoted(network)] if network.internal else [],
        "within": [_pair(network)] if network.inter_container else [],
    }
    found = _elements(f"{name} {{ {', '.join(members)} }}" for name, members in sets.items() if members)
    return found + [f"rule {{table}} postrouting {line.strip()}" for line in _translation(network).splitlines()]


def render(table: str, networks: Sequence[Network]) -> str:
    """Write the script that replaces the whole table, without published ports, in one transaction."""
    return f"""\
add table {table}
delete table {table}
table {table} {{
    map any4 {{ type inet_proto . inet_service : ipv4_addr . inet_service; }}
    map any6 {{ type inet_proto . inet_service : ipv6_addr . inet_service; }}
    map at4 {{ type inet_proto . ipv4_addr . inet_service : ipv4_addr . inet_service; }}
    map at6 {{ type inet_proto . ipv6_addr . inet_service : ipv6_addr . inet_service; }}
    set bridges {{ type ifname; {_members(_quoted(network) for network in networks)} }}
    set internal {{ type ifname; {_members(_quoted(network) for network in networks if network.internal)} }}
    set within {{ type ifname . ifname; {_members(_pair(network) for network in networks if network.inter_container)} }}
    chain published {{
        dnat ip to meta l4proto . ip daddr . th dport map @at4
        dnat ip to meta l4proto . th dport map @any4
        dnat ip6 to meta l4proto . ip6 daddr . th dport map @at6
        dnat ip6 to meta l4proto . th dport map @any6
    }}
    chain raw {{
        type filter hook prerouting priority raw; policy accept;
        # route_localnet, which lets 127.0.0.1 reach published ports, would also let containers reach ours.
        iifname @bridges ip daddr 127.0.0.0/8 drop
        iifname @bridges ip saddr 127.0.0.0/8 drop
    }}
    chain prerouting {{
        type nat hook prerouting priority dstnat; policy accept;
        fib daddr type local jump published
    }}
    chain input {{
        type filter hook input priority filter; policy accept;
        iifname @internal ct state established,related accept
        iifname @internal meta l4proto {{ icmp, icmpv6 }} accept
        iifname @internal drop
    }}
    chain output {{
        type nat hook output priority -100; policy accept;
        # The kernel lets nothing leave loopback under ::1: a relay carries it. Without one it is refused at once, and
        # clients of "localhost" go on to 127.0.0.1.
        ip6 daddr ::1 return
        fib daddr type local jump published
    }}
    chain postrouting {{
        type nat hook postrouting priority srcnat; policy accept;
        oifname @bridges ip saddr 127.0.0.0/8 masquerade
{"".join(_translation(network) for network in networks)}\
    }}
    chain forward {{
        type filter hook forward priority filter; policy accept;
        iifname . oifname @within accept
        iifname @internal drop
        oifname @internal drop
        oifname @bridges ct state established,related accept
        oifname @bridges ct status dnat accept
        oifname @bridges drop
    }}
}}
"""


def _quoted(network: Network) -> str:
    return f'"{network.bridge}"'


def _pair(network: Network) -> str:
    return f"{_quoted(network)} . {_quoted(network)}"


def _members(names: Iterable[str]) -> str:
    listed = ", ".join(names)
    return f"elements = {{ {listed} }};" if listed else ""


def _translation(network: Network) -> str:
    bridge = _quoted(network)
    lines = []
    for pool in network.pools:
        subnet = addresses.parse_subnet(pool.subnet)
        family = "ip" if subnet.version == 4 else "ip6"
        # Whoever reaches a neighbour by a published port must get the answer from there, not from the neighbour.
        lines.append(f"        oifname {bridge} {family} saddr {subnet} ct status dnat masquerade\n")
        if network.masquerade:
            lines.append(f"        oifname != {bridge} {family} saddr {subnet} masquerade\n")
    return "".join(lines)

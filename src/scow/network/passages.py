"""Other firewalls that let nothing be forwarded but what they know (dockerd, ufw, firewalld), and a way through them.

A packet has to pass every table's chain, so an accept in our table can't overrule their policy, or a last rule that
refuses everything. Two rules for each of our bridges at the end of such a chain, or before that last rule, do: what the
owner's rules decide comes before, and what may pass at all is decided in our table all the same. The rules carry our
mark; nothing else in the chain is touched, and they go with the network, with the need, or with the engine.
"""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

_FAMILIES: Final = ("ip", "ip6", "inet")
_PLAIN: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*")
_WITHOUT_EFFECT: Final = ("counter", "log")
_DIRECTIONS: Final = ("iifname", "oifname")


class Chain(NamedTuple):
    """A base chain on the forward hook."""

    family: str
    table: str
    name: str

    def __str__(self) -> str:
        return f"{self.family} {self.table} {self.name}"


class Rule(NamedTuple):
    """One of our rules in a chain of somebody else's."""

    chain: Chain
    handle: int
    direction: str  # iifname or oifname
    bridge: str


class End(NamedTuple):
    """What becomes of a packet at the end of a chain: whether it is refused, and by which rule if not by the policy."""

    refuses: bool
    rule: int = 0


def forward_chains(listing: str) -> dict[Chain, bool]:
    """Read `nft -j list chains`: others' chains on the forward hook, and whether their policy is drop."""
    found = {}
    for item in _items(listing):
        said = item.get("chain", {})
        chain = Chain(str(said.get("family")), str(said.get("table")), str(said.get("name")))
        if said.get("hook") != "forward" or chain.table.startswith("scow_"):
            continue
        # A name that nft can't read back can't be asked about: it is no program's that we know of.
        if chain.family in _FAMILIES and _PLAIN.fullmatch(chain.table) and _PLAIN.fullmatch(chain.name):
            found[chain] = said.get("policy") == "drop"
    return found


def end_of(listing: str, *, drops: bool) -> End:
    """Read `nft -j list chain`: how it ends, `drops` being its policy."""
    rules = [item["rule"] for item in _items(listing) if "rule" in item]
    last = rules[-1] if rules else {}
    said = [_verdict(expression) for expression in last.get("expr", [])]
    said = [name for name in said if name not in _WITHOUT_EFFECT]
    return End(True, last["handle"]) if said in (["drop"], ["reject"]) else End(drops)


def _verdict(expression: Any) -> str:
    """What an expression is called; REJECT and others are still iptables' own where that wrote them."""
    if not isinstance(expression, dict) or not expression:
        return str(expression)
    name, value = next(iter(expression.items()))
    return str(value.get("name", "")).lower() if name == "xt" and isinstance(value, dict) else name


def our_rules(listing: str, mark: str) -> list[Rule]:
    """Read `nft -j list chain`: the rules whose comment is our mark."""
    found = []
    for item in _items(listing):
        rule = item.get("rule", {})
        if rule.get("comment") != mark:
            continue
        chain = Chain(rule["family"], rule["table"], rule["chain"])
        match: dict[str, Any] = next((each["match"] for each in rule.get("expr", []) if "match" in each), {})
        direction = match.get("left", {}).get("meta", {}).get("key", "")
        found.append(Rule(chain, rule["handle"], direction, str(match.get("right", ""))))
    return found


def changes(chains: Mapping[Chain, End], rules: Iterable[Rule], bridges: Iterable[str], mark: str) -> str:
    """Write the script that gives each of the bridges its rules in every chain that refuses, and no other ones."""
    wanted = {
        (chain, direction, bridge)
        for chain, end in chains.items()
        if end.refuses
        for bridge in bridges
        for direction in _DIRECTIONS
    }
    script = []
    for rule in rules:
        if (rule.chain, rule.direction, rule.bridge) in wanted:
            wanted.discard((rule.chain, rule.direction, rule.bridge))
        else:
            script.append(f"delete rule {rule.chain} handle {rule.handle}\n")
    for chain, direction, bridge in sorted(wanted):
        last = chains[chain].rule
        where = f"insert rule {chain} handle {last}" if last else f"add rule {chain}"
        # As iptables writes them, which reads its table too: an interface, a counter, a verdict.
        script.append(f'{where} {direction} "{bridge}" counter accept comment "{mark}"\n')
    return "".join(script)


def _items(listing: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = json.loads(listing)["nftables"] if listing.strip() else []
    return items

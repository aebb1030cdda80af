"""Rules in other firewalls' chains: as few as needed, and none that isn't ours is touched."""

import json

from scow.network.passages import Chain, End, Rule, changes, end_of, forward_chains, our_rules

DROPS = Chain("ip", "filter", "FORWARD")
ACCEPTS = Chain("ip", "other", "forward")


def listing(*items: dict[str, object]) -> str:
    return json.dumps({"nftables": [{"metainfo": {}}, *items]})


def test_others_forward_chains_are_found_with_their_policy() -> None:
    chains = [
        {"chain": {"family": "ip", "table": "filter", "name": "FORWARD", "hook": "forward", "policy": "drop"}},
        {"chain": {"family": "ip", "table": "other", "name": "forward", "hook": "forward", "policy": "accept"}},
        {"chain": {"family": "inet", "table": "scow_1", "name": "forward", "hook": "forward", "policy": "drop"}},
        {"chain": {"family": "ip", "table": "filter", "name": "DOCKER"}},
        {"chain": {"family": "ip", "table": "a b", "name": "x", "hook": "forward", "policy": "drop"}},
    ]
    assert forward_chains(listing(*chains)) == {DROPS: True, ACCEPTS: False}
    assert forward_chains("") == {}


def test_each_bridge_gets_a_rule_in_and_out_where_the_policy_is_drop() -> None:
    assert changes({DROPS: End(True), ACCEPTS: End(False)}, [], ["b0"], "scow 1").splitlines() == [
        'add rule ip filter FORWARD iifname "b0" counter accept comment "scow 1"',
        'add rule ip filter FORWARD oifname "b0" counter accept comment "scow 1"',
    ]


def test_a_last_rule_that_refuses_everything_is_passed_by_before_it() -> None:
    refuse = {"reject": {"type": "icmpx", "expr": "admin-prohibited"}}
    match = {"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "b0"}}
    for last, end in (
        ([refuse], End(True, 9)),
        ([{"counter": {"packets": 1, "bytes": 1}}, {"drop": None}], End(True, 9)),
        ([{"xt": {"type": "target", "name": "REJECT"}}], End(True, 9)),
        ([match, {"drop": None}], End(False)),
        ([{"accept": None}], End(False)),
    ):
        assert (
            end_of(
                listing({"rule": {"handle": 5, "expr": [refuse]}}, {"rule": {"handle": 9, "expr": last}}), drops=False
            )
            == end
        )
    assert end_of(listing(), drops=True) == End(True)
    assert changes({DROPS: End(True, 9)}, [], ["b0"], "scow 1").splitlines() == [
        'insert rule ip filter FORWARD handle 9 iifname "b0" counter accept comment "scow 1"',
        'insert rule ip filter FORWARD handle 9 oifname "b0" counter accept comment "scow 1"',
    ]


def test_what_is_there_stays_and_what_is_no_longer_needed_goes() -> None:
    there = [Rule(DROPS, 7, "iifname", "b0"), Rule(DROPS, 8, "oifname", "gone"), Rule(ACCEPTS, 9, "oifname", "b0")]
    assert changes({DROPS: End(True), ACCEPTS: End(False)}, there, ["b0"], "scow 1").splitlines() == [
        "delete rule ip filter FORWARD handle 8",
        "delete rule ip other forward handle 9",
        'add rule ip filter FORWARD oifname "b0" counter accept comment "scow 1"',
    ]


def test_only_rules_with_our_mark_are_ours() -> None:
    rule = {
        **{"family": "ip", "table": "filter", "chain": "FORWARD", "handle": 7},
        "expr": [{"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "b0"}}, {"accept": None}],
    }
    mine, theirs = {"rule": {**rule, "comment": "scow 1"}}, {"rule": {**rule, "comment": "scow 2"}}
    assert our_rules(listing(mine, theirs, {"rule": rule}), "scow 1") == [Rule(DROPS, 7, "iifname", "b0")]

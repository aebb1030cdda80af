"""The rules by which the build cache is trimmed, from `builder.gc` of daemon.json."""

from typing import Any

import pytest

from scow.engine.cache_limits import MOUNT, Rule, rules
from scow.engine.config import InvalidConfig, make_config
from scow.wire.build import CacheRoom

GB = 1 << 30


def configured(gc: dict[str, Any]) -> tuple[Rule, ...]:
    return rules(make_config({}, {"builder": {"gc": gc}}).builder.gc, 1000 * GB)


def test_without_a_word_caches_are_kept_within_shares_of_the_disk() -> None:
    mounts, old, everything = configured({})
    assert mounts == Rule(filters={"type": [MOUNT], "unused-for": ["48h"]}, room=CacheRoom(most=GB // 2))
    assert old.filters == {"unused-for": ["1440h"]}
    assert everything == Rule(room=CacheRoom(reserved=100 * GB, most=600 * GB, free=200 * GB))
    assert old.room == everything.room


@pytest.mark.parametrize(
    ("gc", "room"),
    [
        ({"defaultKeepStorage": "20GB"}, CacheRoom(reserved=20 * GB)),
        ({"defaultKeepStorage": "20GB", "defaultReservedSpace": "30g"}, CacheRoom(reserved=30 * GB)),
        ({"defaultMaxUsedSpace": 1000, "defaultMinFreeSpace": "2kb"}, CacheRoom(most=1000, free=2048)),
    ],
)
def test_sizes_that_are_given_replace_the_shares(gc: dict[str, Any], room: CacheRoom) -> None:
    assert configured(gc)[-1] == Rule(room=room)


def test_rules_of_ones_own_replace_the_others() -> None:
    policy = [
        {"keepStorage": "10GB", "filter": ["unused-for=2200h", "type==exec.cachemount"]},
        {"maxUsedSpace": "50GB", "all": True},
    ]
    assert configured({"defaultKeepStorage": "20GB", "policy": policy}) == (
        Rule(filters={"unused-for": ["2200h"], "type": [MOUNT]}, room=CacheRoom(reserved=10 * GB)),
        Rule(all=True, room=CacheRoom(most=50 * GB)),
    )


def test_switched_off_there_are_no_rules() -> None:
    assert configured({"enabled": False, "policy": [{"all": True}]}) == ()


@pytest.mark.parametrize(
    "gc",
    [
        {"enabled": "perhaps"},
        {"policies": []},
        {"defaultKeepStorage": "much"},
        {"policy": [{"filter": ["unused-for"]}]},
        {"policy": [{"filter": ["colour=red"]}]},
        {"policy": [{"filter": ["until=soon"]}]},
        {"policy": [{"keepStorage": "-1"}]},
    ],
)
def test_what_makes_no_sense_is_refused_at_the_start(gc: dict[str, Any]) -> None:
    with pytest.raises(InvalidConfig, match="unable to configure the engine"):
        configured(gc)

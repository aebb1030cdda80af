"""Which containers a listing shows: docker's filters, alone and together."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from scow.engine.container import ContainerTable, NoSuchContainer
from scow.engine.listing import select
from scow.engine.record import ContainerRecord, MountRecord, State
from scow.errors import InvalidArgument
from scow.oci.digest import Digest
from scow.store.database import Database
from scow.wire.container import ContainerConfig
from scow.wire.host_config import HostConfig
from scow.wire.network import EndpointSettings

BASE, OTHER = Digest("sha256:" + "b" * 64), Digest("sha256:" + "c" * 64)
RECORDS = (
    ContainerRecord(
        id="a" * 64,
        name="web-1",
        created_at=1,
        config=ContainerConfig(labels={"tier": "front", "x": ""}, exposed_ports={"8080/tcp": {}}),
        host_config=HostConfig(port_bindings={"80/tcp": []}),
        image=BASE,
        endpoints={"lan": EndpointSettings(network_id="f" * 64)},
        state=State(status="running", pid=1, started_at=1),
    ),
    ContainerRecord(
        id="ab" + "0" * 62,
        name="job",
        created_at=2,
        config=ContainerConfig(labels={"tier": "back"}),
        host_config=HostConfig(),
        image=OTHER,
        mounts=(MountRecord(type="volume", name="data", source="/v/data", destination="/data"),),
        state=State(status="exited", exit_code=3, started_at=1),
    ),
    ContainerRecord(
        id="d" * 64, name="new", created_at=3, config=ContainerConfig(), host_config=HostConfig(), image=BASE
    ),
)


@pytest.fixture
async def table(tmp_path: Path) -> AsyncIterator[ContainerTable]:
    db = Database.open(tmp_path / "state.db")
    made = ContainerTable(db, tmp_path)
    made.load()
    for record in RECORDS:
        made.reserve(record.name)
        await made.add(record)
    yield made
    await db.aclose()


def names(table: ContainerTable, *, all: bool = True, limit: int | None = None, **filters: str) -> list[str]:
    wanted: Any = {key.replace("_", "-"): value.split() for key, value in filters.items()}
    images = {"base": [BASE]}
    found = select(table, all=all, limit=limit, filters=wanted, image_ids=lambda ref: images.get(ref, []))
    return [container.name for container in found]


async def test_without_filters_those_that_run_are_shown(table: ContainerTable) -> None:
    assert names(table, all=False) == ["web-1"]
    assert names(table) == ["new", "job", "web-1"]


@pytest.mark.parametrize(
    ("filters", "shown"),
    [
        ({"status": "exited created"}, ["new", "job"]),
        ({"exited": "3"}, ["job"]),
        ({"exited": "0"}, []),  # one that was never started, or runs, has no exit code
        ({"before": "job"}, ["web-1"]),
        ({"since": "job"}, ["new"]),
        ({"ancestor": "base"}, ["new", "web-1"]),
        ({"ancestor": "unknown"}, []),
        ({"id": "ab"}, ["job"]),
        ({"id": "a"}, ["job", "web-1"]),
        ({"name": "^/web"}, ["web-1"]),
        ({"name": "o"}, ["job"]),
        ({"name": "["}, []),  # no regular expression: looked for as it stands
        ({"label": "tier"}, ["job", "web-1"]),
        ({"label": "tier=front x="}, ["web-1"]),
        ({"label": "tier=front x=1"}, []),
        ({"network": "lan"}, ["web-1"]),
        ({"network": "f" * 64}, ["web-1"]),
        ({"volume": "data"}, ["job"]),
        ({"volume": "/data"}, ["job"]),
        ({"publish": "80"}, ["web-1"]),
        ({"publish": "79-81/tcp"}, ["web-1"]),
        ({"publish": "80/udp"}, []),
        ({"expose": "8000-9000"}, ["web-1"]),
        ({"health": "none"}, ["new", "job", "web-1"]),
        ({"health": "healthy"}, []),
        ({"is_task": "true"}, []),
        ({"is_task": "false"}, ["new", "job", "web-1"]),
        ({"status": "exited running", "label": "tier=back"}, ["job"]),
    ],
)
async def test_filters_choose(table: ContainerTable, filters: dict[str, str], shown: list[str]) -> None:
    assert names(table, **filters) == shown


async def test_some_filters_mean_all_containers(table: ContainerTable) -> None:
    for filters in ({"status": "created"}, {"since": "job"}):
        assert names(table, all=False, **filters) == ["new"]
    assert names(table, all=False, label="tier") == ["web-1"]


async def test_a_limit_counts_the_newest_of_those_that_fit(table: ContainerTable) -> None:
    assert names(table, all=False, limit=2) == ["new", "job"]
    assert names(table, limit=1, ancestor="base", label="tier") == ["web-1"]
    assert names(table, limit=0) == names(table, limit=-1) == ["new", "job", "web-1"]


@pytest.mark.parametrize(
    ("filters", "words"),
    [
        ({"colour": "red"}, "invalid filter 'colour'"),
        ({"status": "gone"}, "invalid filter 'status=gone'"),
        ({"exited": "x"}, "invalid filter 'exited=x'"),
        ({"health": "ill"}, "unrecognized filter value for health: ill"),
        ({"publish": "http"}, "'publish=http': it isn't a port"),
        ({"expose": "1-b"}, "'expose=1-b'"),
        ({"is_task": "maybe"}, "is-task"),
    ],
)
async def test_filters_that_make_no_sense_are_refused(
    table: ContainerTable, filters: dict[str, str], words: str
) -> None:
    with pytest.raises(InvalidArgument, match=words):
        names(table, **filters)
    with pytest.raises(NoSuchContainer):
        names(table, before="nobody")

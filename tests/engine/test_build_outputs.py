"""What builds make of their result: squashed, reproducible, or refused."""

import json
from collections.abc import Iterator

import pytest

from support.builds import build, context, error_of, image_of, post, text
from support.daemon import Daemon

pytestmark = pytest.mark.usefixtures("_forgotten_images")


@pytest.fixture
def _forgotten_images(engine: Daemon) -> Iterator[None]:
    yield
    engine.clean()
    engine.request("POST", "/images/prune?filters=%7B%22dangling%22%3A%5B%22true%22%5D%7D")


def test_squashed_layers_are_one_over_the_base(engine: Daemon) -> None:
    base = image_of(
        build(
            engine,
            "FROM busybox\nRUN mkdir -p /old/deep /gone && echo 1 > /old/deep/x && echo 2 > /gone/y && echo 3 > /swap",
            t="squash-base",
        )
    )
    dockerfile = """
    FROM squash-base
    RUN echo never > /passing && rm -r /gone && rm /swap && ln -s /old /swap
    RUN rm /passing && rm -r /old && mkdir /old && echo new > /old/z && ln /old/z /linked
    ENV A=1
    """
    plain = image_of(build(engine, dockerfile, t="unsquashed"))
    squashed = image_of(build(engine, dockerfile, t="squashed", squash=1))
    assert squashed != plain
    below, whole = (engine.json("GET", f"/images/{id}/json") for id in (base, squashed))
    assert whole["RootFS"]["Layers"][:-1] == below["RootFS"]["Layers"]
    assert whole["Config"]["Env"][-1] == "A=1"
    history = engine.json("GET", f"/images/{squashed}/history")
    assert history[0]["Comment"] == f"merge {plain} to {base}"
    assert [step["Size"] for step in history[1:4]] == [0, 0, 0]
    listing = "find / -xdev ! -path '/proc*' ! -path '/sys*' ! -path '/dev*' ! -path '/etc*' | sort; ls -l /old/z /swap"
    seen = [engine.docker("run", "--rm", name, "sh", "-c", listing).stdout for name in ("unsquashed", "squashed")]
    assert seen[0] == seen[1]
    assert "/old/deep" not in seen[1]
    assert "/passing" not in seen[1]


def test_a_squashed_image_from_nothing_is_the_same_again_with_a_source_date(engine: Daemon) -> None:
    options = {"squash": 1, "nocache": 1, "buildargs": json.dumps({"SOURCE_DATE_EPOCH": "1500000000"})}
    ids = [
        image_of(build(engine, "FROM scratch\nCOPY a /a\nCOPY b /b/\n", {"a": b"1", "b": b"2"}, **options))
        for _ in range(2)
    ]
    assert ids[0] == ids[1]
    inspected = engine.json("GET", f"/images/{ids[0]}/json")
    assert len(inspected["RootFS"]["Layers"]) == 1
    assert inspected["Created"].startswith("2017-07-14T02:40:00")


@pytest.mark.parametrize("value", ["yesterday", "-1", "1.5", "\u00b2", "9" * 30])
def test_a_source_date_that_is_none_is_refused(engine: Daemon, value: str) -> None:
    status, data = post(
        engine, context({"Dockerfile": "FROM scratch"}), buildargs=json.dumps({"SOURCE_DATE_EPOCH": value})
    )
    assert status == 400
    assert "invalid SOURCE_DATE_EPOCH" in json.loads(data)["message"]


def test_a_step_that_asks_for_devices_is_refused(engine: Daemon) -> None:
    messages = build(engine, "FROM busybox\nRUN --device=vendor.com/device=foo true")
    assert "RUN --device=vendor.com/device=foo is not allowed" in messages[-1]["error"]
    assert "Running in" not in text(messages)


def test_a_source_date_before_the_first_from_holds_unless_the_client_has_one(engine: Daemon) -> None:
    dockerfile = "ARG SOURCE_DATE_EPOCH=1500000000\nFROM busybox\nRUN echo 1 > /f"
    times = []
    for options in ({}, {"buildargs": '{"SOURCE_DATE_EPOCH":"1400000000"}'}):
        id = image_of(build(engine, dockerfile, nocache=1, **options))
        times.append(engine.json("GET", f"/images/{id}/json")["Created"])
        assert engine.docker("run", "--rm", id, "stat", "-c", "%Y", "/f").stdout.strip() in ("1500000000", "1400000000")
    assert times == ["2017-07-14T02:40:00Z", "2014-05-13T16:53:20Z"]
    assert "invalid SOURCE_DATE_EPOCH" in error_of(build(engine, dockerfile.replace("1500000000", "soon")))


DATED = """
FROM busybox AS made
ARG SOURCE_DATE_EPOCH=1500000000
RUN mkdir /new && echo x > /new/file && ln -s file /new/link
COPY . /copied
WORKDIR /work
"""


def test_a_source_date_of_the_dockerfile_itself_counts(engine: Daemon) -> None:
    inspected = engine.json("GET", f"/images/{image_of(build(engine, DATED, {'a': b'1'}))}/json")
    assert inspected["Created"].startswith("2017-07-14T02:40:00")
    given = json.dumps({"SOURCE_DATE_EPOCH": "1300000000"})
    inspected = engine.json("GET", f"/images/{image_of(build(engine, DATED, {'a': b'1'}, buildargs=given))}/json")
    assert inspected["Created"].startswith("2011-03-13T07:06:40")


def test_two_engines_build_the_same_image(engine: Daemon, own_engine: Daemon) -> None:
    attested = {"outputs": json.dumps([{"Type": "image", "Attrs": {}}]), "attest": ["type=provenance", "type=sbom"]}
    made = [
        build(each, DATED, {"a": b"1"}, t="dated", nocache=1, metadata=1, **attested) for each in (engine, own_engine)
    ]
    (here,), (there,) = ([message["aux"] for message in messages if "aux" in message] for messages in made)
    assert here["ID"] == there["ID"]
    assert here["Descriptor"] == there["Descriptor"]


def test_a_build_without_wishes_takes_back_what_one_with_wishes_attested(engine: Daemon) -> None:
    for attested, kinds in ((["type=sbom"], ["image", "attestation"]), ([], [])):
        build(engine, "FROM busybox\nLABEL taken=back", t="taken", attest=attested)
        listed = engine.json("GET", "/v1.50/images/taken/json?manifests=1")["Manifests"]
        assert [each["Kind"] for each in listed or ()] == kinds

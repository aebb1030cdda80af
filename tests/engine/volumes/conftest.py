"""Volumes are kept between the tests of an engine; here they go after each."""

from collections.abc import Iterator

import pytest

from support.daemon import Daemon


@pytest.fixture
def volumes(engine: Daemon) -> Iterator[Daemon]:
    """The shared engine, without the volumes that the test made at its end."""
    before = {volume["Name"] for volume in engine.json("GET", "/volumes")["Volumes"] or []}
    yield engine
    engine.clean()
    for volume in engine.json("GET", "/volumes")["Volumes"] or []:
        if volume["Name"] not in before:
            status, answer = engine.request("DELETE", f"/volumes/{volume['Name']}")
            assert status == 204, answer

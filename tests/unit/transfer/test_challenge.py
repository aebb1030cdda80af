"""What a registry asks for, as its header lines say it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scow.transfer.challenge import Challenge, parse_challenges


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (
            [
                'Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push"'
            ],
            [
                (
                    "bearer",
                    {
                        "realm": "https://auth.docker.io/token",
                        "service": "registry.docker.io",
                        "scope": "repository:a/b:pull,push",
                    },
                )
            ],
        ),
        (['Basic realm="basic-realm"'], [("basic", {"realm": "basic-realm"})]),
        (["Basic"], [("basic", {})]),
        (['BEARER Realm = "x" , Service=y'], [("bearer", {"realm": "x", "service": "y"})]),
        (
            ['Basic realm="a", Bearer realm="b",service="c"'],
            [("basic", {"realm": "a"}), ("bearer", {"realm": "b", "service": "c"})],
        ),
        (['Bearer realm="say \\"hi\\", friend"'], [("bearer", {"realm": 'say "hi", friend'})]),
        (["Negotiate", 'Bearer realm="x"'], [("negotiate", {}), ("bearer", {"realm": "x"})]),
        ([""], []),
        (["=, nonsense=1"], []),
    ],
)
def test_challenges_are_read_from_header_lines(lines: list[str], expected: list[tuple[str, dict[str, str]]]) -> None:
    assert parse_challenges(lines) == [Challenge(scheme, parameters) for scheme, parameters in expected]


def test_a_challenge_may_ask_for_several_scopes() -> None:
    challenge = parse_challenges(['Bearer realm="x",scope="repository:a:pull repository:b:pull"'])[0]
    assert challenge.scopes == {"repository:a:pull", "repository:b:pull"}


@given(st.text(max_size=200))
def test_no_header_is_too_odd_to_be_read(line: str) -> None:
    for challenge in parse_challenges([line]):
        assert challenge.scheme

"""Which rules of a seccomp profile hold for a machine and a container."""

import json
from typing import Any

import pytest

from scow.runtime.seccomp import InvalidProfile, Machine, default_profile_path, resolve

AMD64 = Machine("x86_64", (6, 1))


def names(rules: list[dict[str, Any]], machine: Machine = AMD64, capabilities: tuple[str, ...] = ()) -> list[str]:
    profile = {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"action": "SCMP_ACT_ALLOW", **rule} for rule in rules]}
    section = resolve(json.dumps(profile).encode(), frozenset(capabilities), machine)
    return [name for rule in section["syscalls"] for name in rule["names"]]


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ({}, True),
        ({"includes": {}}, True),
        ({"includes": {"arches": ["amd64"]}}, True),
        ({"includes": {"arches": ["arm64"]}}, False),
        ({"excludes": {"arches": ["amd64"]}}, False),
        ({"excludes": {"arches": ["arm64"]}}, True),
        ({"includes": {"caps": ["CAP_A"]}}, True),
        ({"includes": {"caps": ["CAP_A", "CAP_B"]}}, False),
        ({"excludes": {"caps": ["CAP_A", "CAP_B"]}}, False),
        ({"excludes": {"caps": ["CAP_B"]}}, True),
        ({"includes": {"minKernel": "6.1"}}, True),
        ({"includes": {"minKernel": "6.2"}}, False),
        ({"excludes": {"minKernel": "6.0"}}, False),
        ({"excludes": {"minKernel": "6.10"}}, True),
        ({"includes": None, "excludes": None, "args": None}, True),
    ],
)
def test_conditions(condition: dict[str, Any], holds: bool) -> None:
    assert names([{"names": ["read"], **condition}], capabilities=("CAP_A",)) == (["read"] if holds else [])


def test_old_profiles_name_one_call_a_rule() -> None:
    assert names([{"name": "read"}, {"names": ["write", "open"]}]) == ["read", "write", "open"]
    with pytest.raises(InvalidProfile, match="both 'name' and 'names'"):
        names([{"name": "read", "names": ["write"]}])


def test_architectures_are_those_of_the_machine() -> None:
    profile = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "archMap": [
            {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]},
            {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]},
        ],
    }
    text = json.dumps(profile).encode()
    assert resolve(text, frozenset(), AMD64)["architectures"] == ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]
    assert resolve(text, frozenset(), Machine("aarch64", (6, 1)))["architectures"] == [
        "SCMP_ARCH_AARCH64",
        "SCMP_ARCH_ARM",
    ]
    both = json.dumps({**profile, "architectures": ["SCMP_ARCH_X86"]}).encode()
    with pytest.raises(InvalidProfile, match="either 'architectures' or 'archMap'"):
        resolve(both, frozenset(), AMD64)


def test_actions_with_error_numbers_and_arguments_are_kept() -> None:
    rule = {
        "names": ["clone"],
        "action": "SCMP_ACT_ERRNO",
        "errnoRet": 1,
        "args": [{"index": 0, "value": 2114060288, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}],
    }
    profile = {"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "syscalls": [rule]}
    section = resolve(json.dumps(profile).encode(), frozenset(), AMD64)
    assert section["defaultErrnoRet"] == 38
    assert section["syscalls"] == [rule]


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"{}", b'{"defaultAction": 1}', b'{"defaultAction": "A", "syscalls": [{}]}']
)
def test_what_is_no_profile(text: bytes) -> None:
    with pytest.raises(InvalidProfile, match="Decoding seccomp profile failed"):
        resolve(text, frozenset(), AMD64)


def test_the_distributions_profile_resolves() -> None:
    path = default_profile_path()
    if path is None:
        pytest.skip("containers-common is not installed")
    plain = resolve(path.read_bytes(), frozenset(), AMD64)
    admin = resolve(path.read_bytes(), frozenset({"CAP_SYS_ADMIN"}), AMD64)

    def allowed(section: dict[str, Any]) -> set[str]:
        rules = [rule for rule in section["syscalls"] if rule["action"] == "SCMP_ACT_ALLOW" and "args" not in rule]
        return {name for rule in rules for name in rule["names"]}

    assert {"read", "execve", "arch_prctl"} <= allowed(plain)
    assert "bpf" in allowed(admin) - allowed(plain)

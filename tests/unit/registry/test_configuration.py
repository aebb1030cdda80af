"""The TOML file, the environment, and what is said of mistakes."""

import re
from pathlib import Path

import pytest

from scow.registry.configuration import keys, read_settings
from scow.registry.settings import Settings, SettingsInvalid

DOCUMENT = Path(__file__).parents[3] / "docs" / "registry.md"


def settings_of(folder: Path, text: str, **environment: str) -> Settings:
    path = folder / "registry.toml"
    path.write_text(text)
    return read_settings(path, environment)


def test_every_kind_of_key(tmp_path: Path) -> None:
    settings = settings_of(
        tmp_path,
        """
        listen = "0.0.0.0:443"
        workers = 2
        [tls]
        cert = "a"
        key = "b"
        [gc]
        grace_s = 60
        [auth.groups]
        dev = ["ann"]
        [[auth.rules]]
        repositories = ["team/**"]
        groups = ["dev"]
        actions = ["pull", "push"]
        [[policies]]
        repositories = ["**"]
        keep_last = 3
        """,
    )
    assert settings.address() == ("0.0.0.0", 443)
    assert settings.tls is not None
    assert settings.tls.key == "b"
    assert (settings.gc.grace_s, settings.policies[0].keep_last) == (60, 3)
    assert settings.auth.rules[0].actions == ["pull", "push"]
    assert settings.auth.groups == {"dev": ["ann"]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lisen = 'x'", "unknown key lisen, did you mean listen?"),
        ("[gc]\ngrace = 1", "unknown key gc.grace, did you mean grace_s?"),
        ("[auth.tokens]", "unknown key auth.tokens, did you mean token?"),
        ("[[policies]]\nrepositories = ['x']\n[[policies]]\nquota = 1", "unknown key policies[1].quota, did you mean"),
        (
            "[tls]\nzzz = 1",
            "unknown key tls.zzz; known here: cert, client_ca, client_crl, client_names, client_optional, key",
        ),
        ("[traces]\nsample = 2", "Expected `float` <= 1.0 - at `$.traces.sample`"),
        ("workers = 'two'", "Expected `int`, got `str` - at `$.workers`"),
        ("[tls]\ncert = 'x'", "Object missing required field `key` - at `$.tls`"),
        ("[[auth.rules]]\nrepositories=['x']\nactions=['read']", "Invalid enum value 'read'"),
        ("x = ", "Invalid value"),
    ],
)
def test_a_mistake_is_named_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SettingsInvalid, match=rf"registry\.toml: .*{re.escape(message)}"):
        settings_of(tmp_path, text)


def test_the_environment_wins(tmp_path: Path) -> None:
    settings = settings_of(
        tmp_path,
        'listen = "a:1"\n[gc]\ngrace_s = 5\n',
        SCOW_REGISTRY_LISTEN="b:2",
        SCOW_REGISTRY_GC_GRACE_S="7.5",
        SCOW_REGISTRY_WORKERS="3",
        SCOW_REGISTRY_READ_ONLY="true",
        SCOW_REGISTRY_AUTH_ANONYMOUS_PULL="0",
        SCOW_REGISTRY_AUTH_TOKEN_LIFE_S="60",
        SCOW_REGISTRY_AUTH_GROUPS='{dev = ["ann"]}',
        PATH="/bin",
    )
    assert (settings.listen, settings.gc.grace_s, settings.workers, settings.read_only) == ("b:2", 7.5, 3, True)
    assert settings.auth.token is not None
    assert (settings.auth.token.life_s, settings.auth.anonymous_pull) == (60, False)
    assert settings.auth.groups == {"dev": ["ann"]}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("SCOW_REGISTRY_LISTENS", "x", "unknown variable, did you mean SCOW_REGISTRY_LISTEN?"),
        ("SCOW_REGISTRY_WORKERS", "many", "Expected `int`"),
        ("SCOW_REGISTRY_AUTH_GROUPS", "{", "not a TOML value"),
    ],
)
def test_a_mistake_in_the_environment_names_the_variable(name: str, value: str, message: str) -> None:
    with pytest.raises(SettingsInvalid, match=rf"{name}: .*{re.escape(message)}"):
        read_settings(None, {name: value})


def test_without_anything_there_are_defaults() -> None:
    assert read_settings(None, {}) == Settings()


def test_a_missing_file_is_named() -> None:
    with pytest.raises(SettingsInvalid, match="/nowhere: No such file"):
        read_settings(Path("/nowhere"))


@pytest.mark.skipif(not DOCUMENT.exists(), reason="the documents are not beside the tests")
def test_every_key_is_documented() -> None:
    text = DOCUMENT.read_text()
    missing = [key for key, _ in keys() if f"`{key}`" not in text]
    assert missing == []
    assert len(list(keys())) > 40


@pytest.mark.skipif(not DOCUMENT.exists(), reason="the documents are not beside the tests")
def test_the_documents_example_can_be_used(tmp_path: Path) -> None:
    examples = re.findall(r"```toml\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert examples
    for example in examples:
        settings_of(tmp_path, example)

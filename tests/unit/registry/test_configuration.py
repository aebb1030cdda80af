"""The TOML file, the environment, and what is said of mistakes."""

import re
from pathlib import Path

import pytest

from scow.registry.checks import advise, check_files
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
        ("workers = '2'", "Expected `int`, got `str` - at `$.workers`"),
        ("workers = -1", "Expected `int` >= 0 - at `$.workers`"),
        ("drain_s = nan", "Expected `float` >= 0.0 - at `$.drain_s`"),
        ("[gc]\ngrace_s = inf", "Expected `float` <= 10000000000.0 - at `$.gc.grace_s`"),
        ("[auth.token]\nlife_s = 5", "Expected `int` >= 60 - at `$.auth.token.life_s`"),
        ("listen = '5000'", "listen: must be host:port with a port up to 65535, not '5000'"),
        ("url = 'registry.example.com'", "url: 'registry.example.com' is no URL with http:// or https://"),
        ("[auth.token]\nservice = 'a\"b'", "auth.token.service: is to be of printable ASCII without quotes"),
        (
            "[traces]\nendpoint = 'collector:4318'",
            "traces.endpoint: 'collector:4318' is no URL with http:// or https://",
        ),
        (
            "[database]\nurl = 'postgresql://u:secret@h:x/d'",
            "database.url: Port could not be cast to integer value as 'x'",
        ),
        ("[[policies]]\nrepositories = []", "policies[0].repositories: is empty: no repository is meant"),
        (
            "[[policies]]\nrepositories=['**']\nimmutable_tags=['v 1']",
            "policies[0].immutable_tags: no tag can match 'v 1'",
        ),
        (
            "[[policies]]\nrepositories=['**']\nexpire_tags=['pr-*']",
            "policies[0].expire_tags: means nothing without keep_last, keep_days or keep_pulled_days",
        ),
        (
            "[[policies]]\nrepositories=['**']\nkeep_tags=['v*']\nuntagged_days=1",
            "policies[0].keep_tags: means nothing",
        ),
        (
            "[[sync]]\nname='s'\nupstream='quay.io'\nrepositories=[]",
            "sync[0].repositories: is empty: no repository is meant",
        ),
        (
            "[[sync]]\nname='s'\nupstream='quay.io'\nrepositories=['x']\nnamespace='A'",
            "sync[0].namespace: no repository's name can begin with 'A' and a slash",
        ),
        ("[[proxy]]\nupstream=''", "proxy[0].upstream: '' is neither a host nor a URL"),
        (
            "[[proxy]]\nupstream='quay.io'\nrepositories=['A']",
            "proxy[0].repositories: no repository's name can match 'A'",
        ),
        ("[[proxy]]\nupstream='quay.io'\nhttp_proxy='a b'", "proxy[0].http_proxy: 'a b' is no URL"),
        ("[[webhooks]]\nname=''\nurl='http://x'", "webhooks[0].name: is empty"),
        ("[[webhooks]]\nname='w'\nurl='http://x'\nactions=[]", "webhooks[0].actions: is empty: nothing would be told"),
        ("[[auth.oidc]]\nname='o'\nissuer=''\nclient_id='c'", "auth.oidc[0].issuer: is empty"),
        ("[tls]\ncert=''\nkey='k'", "tls.cert: is empty, where a file is to be named"),
    ],
)
def test_a_mistake_is_named_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SettingsInvalid, match=rf"registry\.toml: .*{re.escape(message)}"):
        settings_of(tmp_path, text)


OPEN = "[[auth.rules]]\nrepositories = ['public/**']\nanonymous = true\nactions = ['pull']\n"
OTHERS = "[[auth.rules]]\nrepositories = ['**']\nusers = ['*']\nactions = ['*']\n"


@pytest.mark.parametrize(
    ("text", "is_said"),
    [
        ("[auth]\nanonymous_pull = true", True),
        (OPEN + OTHERS, True),
        (OPEN + OTHERS + "[auth.token]", False),
        (OPEN, False),
        (OTHERS, False),
        ("[auth]\nanonymous_pull = true\n[[proxy]]\nupstream = 'docker.io'", False),
        ("", False),
    ],
)
def test_where_docker_would_send_no_password_this_is_said(tmp_path: Path, text: str, is_said: bool) -> None:
    said = list(advise(settings_of(tmp_path, text)))
    assert [line.endswith("add the table [auth.token]") for line in said] == [True] * is_said


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("actions=['pull']", "auth.rules[0]: is for nobody: it needs users, groups, robots or anonymous = true"),
        ("actions=[], users=['*']", "auth.rules[0].actions: is empty: the rule allows nothing"),
        ("actions=['pull'], groups=['devs']", "auth.rules[0].groups: there is no group 'devs' in auth.groups: dev"),
        ("actions=['pull'], robots=['robot+ci']", "auth.rules[0].robots: 'robot+ci' is to be written without 'robot+'"),
    ],
)
def test_a_rule_that_allows_nobody_anything_is_a_mistake(tmp_path: Path, rule: str, message: str) -> None:
    text = f"[auth]\ngroups = {{dev=['ann']}}\nrules = [{{repositories=['team/**'], {rule}}}]"
    with pytest.raises(SettingsInvalid, match=re.escape(message)):
        settings_of(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("[auth]\nhtpasswd = 'FILE'", "auth.htpasswd"),
        ("[auth.token]\nkeys = 'FILE'", "auth.token.keys"),
        ("[tls]\ncert = 'FILE'\nkey = '/dev/null'", "tls.cert"),
        (
            "[[auth.oidc]]\nname = 'x'\nissuer = 'https://x'\nclient_id = 'x'\nclient_secret_file = 'FILE'",
            "auth.oidc[0].client_secret_file",
        ),
        ("[[proxy]]\nupstream = 'docker.io'\nusername = 'x'\npassword_file = 'FILE'", "proxy[0].password_file"),
        (
            "[[sync]]\nname = 'x'\nupstream = 'x'\nrepositories = ['x']\npassword_file = 'FILE'",
            "sync[0].password_file",
        ),
    ],
)
def test_a_file_that_is_missing_is_found_at_start(tmp_path: Path, text: str, key: str) -> None:
    file = tmp_path / "file"
    settings = settings_of(tmp_path, text.replace("FILE", str(file)))
    with pytest.raises(SettingsInvalid, match=re.escape(f"{key}: {file}: No such file")):
        check_files(settings)
    file.write_text("x")
    check_files(settings)


def test_a_variable_that_is_missing_is_found_at_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of(tmp_path, "[[proxy]]\nupstream = 'docker.io'\nusername = 'x'\npassword_env = 'SOME_PW'")
    with pytest.raises(SettingsInvalid, match=re.escape("proxy[0].password_env: the environment has no SOME_PW")):
        check_files(settings)
    monkeypatch.setenv("SOME_PW", "")
    check_files(settings)


def test_an_issuers_groups_need_not_be_known_here(tmp_path: Path) -> None:
    issuer = "[[auth.oidc]]\nname = 'x'\nissuer = 'https://id.example'\nclient_id = 'y'\n"
    rule = "[[auth.rules]]\nrepositories = ['**']\nactions = ['*']\ngroups = ['theirs']"
    assert settings_of(tmp_path, issuer + rule).auth.rules[0].groups == ["theirs"]


@pytest.mark.parametrize(
    "pattern", ["Team/**", "/team/**", "team/", "team//app", "team/app:latest", "host:5000/**", ""]
)
def test_a_pattern_that_no_name_can_match_is_a_mistake(tmp_path: Path, pattern: str) -> None:
    text = f"[[auth.rules]]\nrepositories = ['{pattern}']\nactions = ['pull']\nanonymous = true"
    with pytest.raises(SettingsInvalid, match=rf"no repository's name can match '{re.escape(pattern)}'"):
        settings_of(tmp_path, text)


@pytest.mark.parametrize(
    "pattern", ["**", "*", "team/**", "team*", "*-dev", "**/app", "home/{user}/**", "a_*", "v*.x/*"]
)
def test_patterns_that_names_can_match(tmp_path: Path, pattern: str) -> None:
    text = f"[[auth.rules]]\nrepositories = ['{pattern}']\nactions = ['pull']\nanonymous = true"
    assert settings_of(tmp_path, text).auth.rules[0].repositories == [pattern]


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
        ("SCOW_REGISTRY_WORKERS", "many", "'many'"),
        ("SCOW_REGISTRY_READ_ONLY", "maybe", "Expected `bool`, got `str`: 'maybe'"),
        ("SCOW_REGISTRY_DRAIN_S", "-1", "Expected `float` >= 0.0: '-1'"),
        ("SCOW_REGISTRY_AUTH_GROUPS", "{", 'not a TOML value like {a = ["b"]}'),
        ("SCOW_REGISTRY_TRACES_HEADERS", "{", 'not a TOML value like {a = "b"}'),
        ("SCOW_REGISTRY_POLICIES", "{", 'not a TOML value like [{name = "a"}]'),
        ("SCOW_REGISTRY_POLICIES", "[{keep_lst = 1}]", "unknown key [0].keep_lst, did you mean keep_last?"),
        ("SCOW_REGISTRY_AUTH_RULES", "[{repositories = ['x']}]", "missing required field `actions` - at `$[0]`"),
        ("SCOW_REGISTRY_PROXIES", "10.0.0.0/8", 'not a TOML value like ["a", "b"]'),
        ("SCOW_REGISTRY_PROXIES", "[1]", "Expected `str`, got `int` - at `$[0]`"),
        ("SCOW_REGISTRY_TLS_CERT", "x", "Object missing required field `key` - at `$.tls`"),
        ("SCOW_REGISTRY_LISTEN", "x", "listen: must be host:port"),
    ],
)
def test_a_mistake_in_the_environment_names_the_variable(name: str, value: str, message: str) -> None:
    others = {"SCOW_REGISTRY_URL": "https://x.example", "SCOW_REGISTRY_WEB": "true"}  # which are good, and behind it
    with pytest.raises(SettingsInvalid, match=rf"{name}.*: .*{re.escape(message)}"):
        read_settings(None, {**others, name: value})


def test_lists_of_tables_come_from_the_environment_too(tmp_path: Path) -> None:
    rules = '[{repositories = ["team/**"], users = ["ann"], actions = ["pull"]}]'
    settings = settings_of(
        tmp_path,
        "[[policies]]\nrepositories = ['x']\nkeep_last = 1",
        SCOW_REGISTRY_POLICIES='[{repositories = ["**"], keep_last = 3}]',
        SCOW_REGISTRY_AUTH_RULES=rules,
    )
    assert [(policy.repositories, policy.keep_last) for policy in settings.policies] == [(["**"], 3)]
    assert settings.auth.rules[0].users == ["ann"]


def test_a_mistake_in_the_file_is_not_put_on_the_environment(tmp_path: Path) -> None:
    with pytest.raises(SettingsInvalid, match=r"^\S*/registry\.toml and SCOW_REGISTRY_AUTH_HTPASSWD: .*at `\$\.auth`"):
        settings_of(tmp_path, "auth = 'x'", SCOW_REGISTRY_AUTH_HTPASSWD="/x")
    with pytest.raises(SettingsInvalid, match=r"^SCOW_REGISTRY_DRAIN_S: "):
        settings_of(tmp_path, "workers = 1", SCOW_REGISTRY_DRAIN_S="x", SCOW_REGISTRY_WORKERS="2")


def test_what_kubernetes_says_of_a_service_of_this_name_is_no_setting() -> None:
    given = {"SERVICE_HOST": "10.0.0.1", "SERVICE_PORT": "5000", "SERVICE_PORT_HTTP": "5000"}
    given |= {"PORT": "tcp://10.0.0.1:5000", "PORT_5000_TCP": "tcp://10.0.0.1:5000", "PORT_5000_TCP_ADDR": "10.0.0.1"}
    assert read_settings(None, {f"SCOW_REGISTRY_{name}": value for name, value in given.items()}) == Settings()


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

"""Flags as docker's tools take them."""

import pytest

from scow.cli.errors import FlagError
from scow.cli.flags import Flag, Options, parse

FLAGS = (
    Flag("interactive", "i", "bool", ""),
    Flag("tty", "t", "bool", ""),
    Flag("rm", "", "bool", ""),
    Flag("sig-proxy", "", "bool", "", default=True),
    Flag("name", "n", "string", ""),
    Flag("env", "e", "list", ""),
    Flag("publish", "p", "list", ""),
    Flag("last", "l", "int", "", default=-1),
)


def read(*words: str, interspersed: bool = True) -> Options:
    return parse(FLAGS, words, interspersed)


def test_letters_are_combined() -> None:
    options = read("-it", "image")
    assert options.flag("interactive")
    assert options.flag("tty")
    assert options.args == ["image"]


@pytest.mark.parametrize("words", [("--name=x",), ("--name", "x"), ("-n", "x"), ("-nx",), ("-n=x",), ("-tn", "x")])
def test_a_value_is_attached_or_follows(words: tuple[str, ...]) -> None:
    assert read(*words).text("name") == "x"


def test_a_bool_takes_its_value_only_after_an_equals_sign() -> None:
    options = read("--rm=false", "--sig-proxy=0", "-t=false", "-i", "true")
    assert not options.flag("rm")
    assert not options.flag("sig-proxy")
    assert not options.flag("tty")
    assert options.flag("interactive")
    assert options.args == ["true"]
    assert options.changed("rm")
    assert not options.changed("name")


def test_a_value_may_begin_with_a_dash() -> None:
    assert read("-e", "-x", "--name", "--rm").texts("env") == ["-x"]
    assert read("-e", "-x", "--name", "--rm").text("name") == "--rm"


def test_lists_keep_their_order() -> None:
    assert read("-p8080:80", "-e", "B=2", "--publish", "1:1", "--env=A=1").texts("publish") == ["8080:80", "1:1"]
    assert read("-e", "B=2", "--env=A=1").texts("env") == ["B=2", "A=1"]


def test_the_first_argument_ends_the_flags_of_run() -> None:
    assert read("image", "ls", "-t", "--rm", interspersed=False).args == ["image", "ls", "-t", "--rm"]
    assert not read("image", "-t", interspersed=False).flag("tty")
    assert read("image", "-t").flag("tty")


def test_two_dashes_end_the_flags() -> None:
    options = read("-t", "--", "--rm", "-x")
    assert options.args == ["--rm", "-x"]
    assert not options.flag("rm")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--foo",), "unknown flag: --foo"),
        (("-tZ",), "unknown shorthand flag: 'Z' in -Z"),
        (("--name",), "flag needs an argument: --name"),
        (("-n",), "flag needs an argument: 'n' in -n"),
        (("--rm=foo",), 'invalid argument "foo" for "--rm" flag: strconv.ParseBool: parsing "foo": invalid syntax'),
        (("-l", "x"), 'invalid argument "x" for "-l, --last" flag: strconv.ParseInt: parsing "x": invalid syntax'),
        (("--=x",), "bad flag syntax: --=x"),
    ],
)
def test_mistakes_are_told_in_the_words_of_docker(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(FlagError) as refusal:
        read(*words)
    assert refusal.value.message == message
    assert refusal.value.exit_code == 125

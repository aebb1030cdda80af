"""How variables are replaced in a Dockerfile's words."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scow.build.shell_words import LONGEST, WordError, Words, expand

ENV = {"str": "foobarbaz", "e": "", "FOO": "/bar", "sp": "a b", "x": "1", "path": "/usr/local/bin", "star": "a*b?c"}


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("hello", "hello"),
        ("", ""),
        ("$FOO/x", "/bar/x"),
        ("${FOO}x", "/barx"),
        ("$nothing", ""),
        ("a${nothing}b", "ab"),
        ("$", "$"),
        ("$/", "$/"),
        ("a$", "a$"),
        ("$1x", "x"),
        ("$$", ""),
        (r"\$FOO", "$FOO"),
        (r"\${FOO}", "${FOO}"),
        (r"\\$FOO", r"\/bar"),
        ("'$FOO'", "$FOO"),
        ("'a\\'", "a\\"),
        ('"$FOO"', "/bar"),
        ('"\\$FOO \\" \\\\ \\n"', '$FOO " \\ \\n'),
        ("a'b'\"c\"d", "abcd"),
        (r"a\ b", "a b"),
        ("trailing\\", "trailing"),
        ("${e:-word}", "word"),
        ("${e-word}", ""),
        ("${none:-word}", "word"),
        ("${none-word}", "word"),
        ("${x:-word}", "1"),
        ("${x:+word}", "word"),
        ("${e:+word}", ""),
        ("${e+word}", "word"),
        ("${none+word}", ""),
        ("${x:?word}", "1"),
        ("${e?word}", ""),
        ("${none:-${FOO}/$x}", "/bar/1"),
        ("${none:-'a b'}", "a b"),
        ('${none:-"$FOO"}', "/bar"),
        ("${str#f*b}", "arbaz"),
        ("${str##f*b}", "az"),
        ("${str%b*}", "foobar"),
        ("${str%%b*}", "foo"),
        ("${str/ba/fo}", "fooforbaz"),
        ("${str//ba/fo}", "fooforfoz"),
        ("${str//ba?/-}", "foo--"),
        ("${str//o/}", "fbarbaz"),
        ("${str#nothing}", "foobarbaz"),
        ("${path##*/}", "bin"),
        ("${path%/*}", "/usr/local"),
        ("${path/\\//-}", "-usr/local/bin"),
        ("${star#a\\*}", "b?c"),
        ("${star%\\?c}", "a*b"),
        ("${none#x}", ""),
        ("${none/x/y}", ""),
        ("${str/$none/y}", "foobarbaz"),
        ("${str/bar/$x}", "foo1baz"),
    ],
)
def test_a_word_becomes(text: str, result: str) -> None:
    assert expand(text, ENV) == result


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("${", "missing '}'"),
        ("${FOO", "missing '}'"),
        ("${}", "bad substitution"),
        ("${{x}}", "bad substitution"),
        ("${x!y}", "unsupported modifier"),
        ("${x:=y}", r"unsupported modifier \(:=\)"),
        ("${x:-y", "looking for matching }"),
        ("${x/y}", "looking for matching /"),
        ("'a", "single-quote"),
        ('"a', "double-quote"),
        ("${none:?}", "none: not allowed to be unset"),
        ("${none?give me one}", "none: give me one"),
        ("${e:?}", "e: not allowed to be empty"),
        (r"${str#a\b}", "invalid escape"),
        ("${a:-" * 60 + "}" * 60, "nested too deeply"),
    ],
)
def test_a_bad_word_is_refused(text: str, why: str) -> None:
    with pytest.raises(WordError, match=why):
        expand(text, ENV)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a b  c", ("a", "b", "c")),
        ("'a b' c", ("a b", "c")),
        ("$sp", ("a", "b")),
        ("'$sp' \"$sp\"", ("$sp", "a b")),
        (r"a\ b", ("a b",)),
        ("''", ("",)),
        ("x$sp", ("xa", "b")),
    ],
)
def test_words_are_split_at_spaces_outside_quotes(text: str, words: tuple[str, ...]) -> None:
    assert Words().expand(text, ENV).words == words


def test_a_backtick_escapes_where_the_directive_says_so() -> None:
    assert expand("c:\\x\\`$FOO `` $FOO", ENV, escape="`") == "c:\\x\\$FOO ` /bar"
    assert expand("${star#a`*}", ENV, escape="`") == "b?c"


def test_unset_variables_can_stay() -> None:
    words = Words(keep_unset=True)
    assert words.expand("$a ${b} ${c:-d} ${e%f} $x", {"x": "1"}).text == "$a ${b} ${c:-d} ${e%f} 1"


def test_an_expansion_tells_what_it_depends_on() -> None:
    found = Words().expand("$x ${none:-$FOO} ${gone}", ENV)
    assert found.used == {"x", "none", "FOO", "gone"}
    assert found.unset == {"gone"}


def test_quotes_of_a_heredoc_are_text() -> None:
    assert Words(plain_quotes=True).expand("\"$x\" 'it' \\$x \\\\\n", ENV).text == "\"1\" 'it' $x \\\n"


def test_long_patterns_and_values_take_no_time() -> None:
    env = {"v": "a" * 20_000}
    assert expand("${v##" + "*a" * 30 + "b}", env) == env["v"]
    assert expand("${v//" + "a*" * 30 + "b/x}", env) == env["v"]
    assert expand("${v//a/b}", env) == "b" * 20_000


@given(
    st.text("$a{}:-+?#%/\\'\" \n*`", max_size=40), st.dictionaries(st.sampled_from("a"), st.text("ab*? ", max_size=9))
)
def test_whatever_is_written_is_expanded_or_refused(text: str, env: dict[str, str]) -> None:
    for how in (Words(), Words(escape="`"), Words(plain_quotes=True), Words(keep_quotes=True, keep_escapes=True)):
        try:
            how.expand(text, env)
        except WordError:
            continue


@given(st.text(st.characters(exclude_characters="$'\"\\"), max_size=40))
def test_text_without_notation_stays(text: str) -> None:
    assert expand(text, {}) == text


@pytest.mark.parametrize(
    "text",
    [
        "$A" * 20,
        '"' + "$A" * 20 + '"',
        "${A//a/$A}",
        "${B:-" * 30 + "$A$A$A$A$A" + "}" * 30,
        "${A##*" + "a*" * 5000 + "b}",
    ],
)
def test_no_text_grows_beyond_all_bounds(text: str) -> None:
    with pytest.raises(WordError, match=r"longer than|too long"):
        expand(text, {"A": "a" * (LONGEST // 8)})

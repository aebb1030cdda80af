"""Dockerfiles are read as docker reads them, and what is wrong in them is told with its place."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scow.build import instructions as kinds
from scow.build.dockerfile import Dockerfile, parse, parse_instructions, parse_triggers
from scow.build.errors import DockerfileError, Lines
from scow.build.instructions import NAMES, Instruction


def read(text: str | bytes) -> Dockerfile:
    return parse(text)


def one(text: str) -> Instruction:
    """The instruction that stands below a FROM."""
    (found,) = parse(f"FROM scratch\n{text}").stages[0].instructions
    return found


def refusal(text: str | bytes) -> DockerfileError:
    with pytest.raises(DockerfileError) as refused:
        parse(text, "Dockerfile.dev")
    return refused.value


def test_comments_blank_lines_and_case_of_instructions_do_not_matter() -> None:
    found = read("# one\n\n   from  scratch\n\t# two\nRuN echo # three\n")
    assert [each.keyword for each in found.instructions] == ["from", "RuN"]
    assert found.instructions[1].lines == Lines(5, 5)
    run = found.instructions[1]
    assert isinstance(run, kinds.Run)
    assert run.command.args == ("echo # three",)


def test_lines_are_continued_over_comments_and_empty_lines() -> None:
    found = read('FROM scratch\nRUN echo "\\\n     hello\\\n  # comment\n\n     world" \\\t \n && true\nCMD x\\')
    run, cmd = found.stages[0].instructions
    assert run.text == 'RUN echo "     hello     world"  && true'
    assert run.lines == Lines(2, 7)
    assert found.empty_continuations == (5,)
    assert cmd.text == "CMD x"


def test_a_byte_order_mark_and_carriage_returns_are_ignored() -> None:
    found = read(b"\xef\xbb\xbf# escape=`\r\nFROM scratch\r\nCOPY a `\r\n  c:\\x\\\r\n")
    (copy,) = found.stages[0].instructions
    assert isinstance(copy, kinds.Copy)
    assert (copy.sources, copy.destination) == (("a",), "c:\\x\\")


def test_bytes_that_are_no_text_are_replaced() -> None:
    assert read(b"FROM scratch\n# caf\xe9\nLABEL a=\xff").stages[0].instructions[0].text == "LABEL a=\ufffd"


@pytest.mark.parametrize(
    ("text", "syntax", "escape", "check"),
    [
        ("#syntax=docker/dockerfile:1\n# EsCape = `\n#\tcheck=skip=all \n", "docker/dockerfile:1", "`", "skip=all"),
        ("# a comment\n# escape=`\n", None, "\\", None),
        ("# unknown=value\n# syntax=x\n", None, "\\", None),
        ("\n# syntax=x\n", None, "\\", None),
        ("# direc \\\n# tive=value\n", None, "\\", None),
    ],
)
def test_directives_stand_at_the_top(text: str, syntax: str | None, escape: str, check: str | None) -> None:
    found = read(text + "FROM scratch").directives
    assert (found.syntax, found.escape, found.check) == (syntax, escape, check)


def test_a_directive_that_is_a_comment_describes_nothing() -> None:
    assert read("# syntax=x\nARG A\nFROM scratch").global_args[0].comments == ()


def test_a_directive_is_given_once() -> None:
    assert str(refusal("# escape=`\n# escape=\\\nFROM x")) == (
        "dockerfile parse error on line 2: only one escape parser directive can be used"
    )
    assert "invalid escape token 'x' does not match ` or \\" in str(refusal("# escape=x\nFROM x"))


def test_from_takes_a_platform_and_a_name() -> None:
    found = read("ARG A=1 B\nFROM --platform=$BUILDPLATFORM base:${A} As Build\nRUN x\nFROM build\n")
    first, second = found.stages
    assert (first.base.image, first.base.platform, first.name) == ("base:${A}", "$BUILDPLATFORM", "build")
    assert (first.base.written_alias, first.base.as_keyword) == ("Build", "As")
    assert (second.base.image, second.name, second.index) == ("build", "", 1)
    assert [(each.name, each.default) for each in found.global_args[0].arguments] == [("A", "1"), ("B", None)]


def test_commands_have_two_forms() -> None:
    run = one('RUN ["echo", "\\u00e9 $x"]')
    assert isinstance(run, kinds.Run)
    assert (run.command.args, run.command.shell_form) == (("echo", "é $x"), False)
    assert run.command.argv() == ("echo", "é $x")
    for shell_form in ("['echo']", '["c:\\windows"]', '["a" "b"]', "[ -f x ] && y", '["a"] b'):
        run = one(f"RUN {shell_form}")
        assert isinstance(run, kinds.Run)
        assert run.command.argv(("bash", "-c")) == ("bash", "-c", shell_form)


def test_run_has_flags() -> None:
    run = one(
        "RUN --mount=type=cache,target=/root/.cache,sharing=locked --mount=target=. --network=none "
        '--security=insecure --device="vendor.com/device=foo,required" make'
    )
    assert isinstance(run, kinds.Run)
    assert run.mounts[0].options == (("type", "cache"), ("target", "/root/.cache"), ("sharing", "locked"))
    assert (run.network, run.security, run.devices) == ("none", "insecure", ("vendor.com/device=foo,required",))
    assert run.command.args == ("make",)


def test_heredocs_are_scripts() -> None:
    run = one("RUN <<EOT bash\n  set -ex\n# kept \\\n\nEOT \nEOT\n")
    assert isinstance(run, kinds.Run)
    (document,) = run.command.heredocs
    assert document.text == "  set -ex\n# kept \\\n\nEOT \n"
    assert run.command.args == ("<<EOT bash",)
    assert run.lines == Lines(2, 7)


def test_several_heredocs_stand_one_after_the_other() -> None:
    run = one("RUN <<FILE1 cat > file1 && 3<<-'FILE2' cat\nI am\nfirst\nFILE1\n\tI am $x\n\tFILE2\n")
    assert isinstance(run, kinds.Run)
    first, second = run.command.heredocs
    assert (first.name, first.text, first.expand) == ("FILE1", "I am\nfirst\n", True)
    assert (second.name, second.text, second.expand) == ("FILE2", "I am $x\n", False)


@pytest.mark.parametrize(
    ("mark", "expands"), [("<<E", True), ("<<'E'", False), ('<<"E"', False), ("<<-E", True), (r"<<\E", False)]
)
def test_quotes_around_a_delimiter_keep_variables(mark: str, expands: bool) -> None:
    copy = one(f"COPY {mark} /x\n$y\nE")
    assert isinstance(copy, kinds.Copy)
    assert copy.inline[0].expand is expands
    assert copy.sources == ()


def test_heredocs_are_files_between_others() -> None:
    copy = one("COPY a.txt <<b.txt << c.txt d.txt /to/\none\nb.txt\ntwo\nc.txt\n")
    assert isinstance(copy, kinds.Copy)
    assert copy.sources == ("a.txt", "d.txt")
    assert [(each.name, each.text) for each in copy.inline] == [("b.txt", "one\n"), ("c.txt", "two\n")]


@pytest.mark.parametrize(
    "text",
    [
        "RUN cat <<< word",
        'RUN ["cat", "<<EOF"]',
        "RUN echo $((1 << 3)) $(( a << b ))",
        "RUN cat<<EOF",
        "CMD cat <<EOF",
        "RUN echo 'it <<EOF",
        "ENV A=<<EOF",
    ],
)
def test_what_only_looks_like_a_heredoc_is_none(text: str) -> None:
    assert one(text).lines == Lines(2, 2)


def test_copy_and_add_have_flags() -> None:
    copy = one("COPY --from=0 --chown=1:2 --chmod=u=rwX --link --parents=false --exclude=*.a --exclude=b x y/ /z/")
    assert isinstance(copy, kinds.Copy)
    assert not isinstance(copy, kinds.Add)
    assert (copy.source_stage, copy.chown, copy.chmod) == ("0", "1:2", "u=rwX")
    assert (copy.link, copy.parents, copy.exclude) == (True, False, ("*.a", "b"))
    assert (copy.sources, copy.destination) == (("x", "y/"), "/z/")
    add = one('ADD --checksum=sha256:ab --keep-git-dir=TRUE --unpack=false ["a b", "/c d"]')
    assert isinstance(add, kinds.Add)
    assert (add.checksum, add.keep_git_dir, add.unpack) == ("sha256:ab", True, False)
    assert (add.sources, add.destination) == (("a b",), "/c d")
    plain = one("ADD a b")
    assert isinstance(plain, kinds.Add)
    assert (plain.keep_git_dir, plain.unpack) == (None, None)


def test_pairs_keep_their_quotes_for_later() -> None:
    env = one("ENV A=\"x y\" B=Rex\\ Dog 'C D'=1 E=")
    assert isinstance(env, kinds.Env)
    assert [(pair.key, pair.value) for pair in env.pairs] == [
        ("A", '"x y"'),
        ("B", "Rex\\ Dog"),
        ("'C D'", "1"),
        ("E", ""),
    ]
    old = one("ENV ONE TWO= THREE=world")
    assert isinstance(old, kinds.Env)
    assert [(pair.key, pair.value, pair.legacy) for pair in old.pairs] == [("ONE", "TWO= THREE=world", True)]


def test_healthchecks_have_options_in_nanoseconds() -> None:
    check = one("HEALTHCHECK --interval=5m --timeout=1.5s --start-period=0s --retries=2 CMD curl -f x || exit 1")
    assert isinstance(check, kinds.Healthcheck)
    assert (check.interval, check.timeout, check.start_period, check.retries) == (300 * 10**9, 15 * 10**8, 0, 2)
    assert check.command is not None
    assert check.command.args == ("curl -f x || exit 1",)
    none = one("HEALTHCHECK none")
    assert isinstance(none, kinds.Healthcheck)
    assert none.command is None


def test_triggers_are_kept_as_text_and_checked() -> None:
    trigger = one("onbuild  copy --from=build <<E x /y\nhi\nE\n")
    assert isinstance(trigger, kinds.OnBuild)
    assert trigger.expression == "copy --from=build <<E x /y\nhi\nE"
    (again,) = parse_triggers([trigger.expression])
    assert isinstance(again, kinds.Copy)
    assert again.inline == trigger.trigger.inline  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "file with no instructions"),
        ("# nothing\n\n", "file with no instructions"),
        ("ARG A", "dockerfile contains no stages to build"),
        ("RUN x", "no build stage in current context"),
        ("FROM", "FROM requires either one or three arguments"),
        ("FROM a b", "FROM requires either one or three arguments"),
        ("FROM a sa b", r"FROM requires either one or three arguments \(did you mean AS\?\)"),
        ("FROM a AS 1b", 'invalid name for build stage: "1b"'),
        ("FORM a", r"unknown instruction: FORM \(did you mean FROM\?\)"),
        ("FROM a\nRNU x", r"line 2: unknown instruction: RNU \(did you mean RUN\?\)"),
        ("FROM a\nentrypont x", r"unknown instruction: entrypont \(did you mean entrypoint\?\)"),
        ("FROM a\nBANANA x", "unknown instruction: BANANA$"),
        ("FROM a\nCOPY --form=b c d", r"unknown flag: --form \(did you mean from\?\)"),
        ("FROM a\nCOPY --link=maybe c d", "expecting boolean value for flag --link, not: maybe"),
        ("FROM a\nCOPY --chown c d", "missing a value on flag: --chown"),
        ("FROM a\nCOPY --link= c d", "missing a value on flag: --link"),
        ("FROM a\nCOPY --from=b --from=b c d", "duplicate flag specified: --from"),
        ("FROM a\nCOPY --from=$b c d", "'--from' doesn't support variable expansion"),
        ("FROM a\nCOPY x", "COPY requires at least two arguments, but only one was provided"),
        ("FROM a\nADD --parents a b", "unknown flag: --parents"),
        ("FROM a\nCOPY a <<b\nx\nb", "COPY cannot accept a heredoc as a destination"),
        ("FROM a\nCOPY <<E /x\nno end", "line 2: unterminated heredoc"),
        ("FROM a\nCMD --x y", "unknown flag: --x"),
        ("FROM a\nENV", "ENV requires at least one argument"),
        ("FROM a\nENV A", "ENV must have two arguments"),
        ("FROM a\nENV A=1 B", 'can\'t find = in "B". Must be of the form: name=value'),
        ("FROM a\nENV =1", "ENV names can not be blank"),
        ("FROM a\nARG =1", "ARG names can not be blank"),
        ("FROM a\nLABEL", "LABEL requires at least one argument"),
        ("FROM a\nEXPOSE", "EXPOSE requires at least one argument"),
        ("FROM a\nVOLUME", "VOLUME requires at least one argument"),
        ('FROM a\nVOLUME [""]', "VOLUME specified can not be an empty string"),
        ("FROM a\nUSER", "USER requires exactly one argument"),
        ("FROM a\nWORKDIR", "WORKDIR requires exactly one argument"),
        ("FROM a\nSTOPSIGNAL", "STOPSIGNAL requires exactly one argument"),
        ("FROM a\nMAINTAINER", "MAINTAINER requires exactly one argument"),
        ("FROM a\nSHELL bash -c", "SHELL requires the arguments to be in JSON form"),
        ("FROM a\nSHELL []", "SHELL requires at least one argument"),
        ("FROM a\nRUN []", "RUN requires at least one argument"),
        ('FROM a\nCMD ["a", 1]', "arrays must be comprised of strings only"),
        ("FROM a\nHEALTHCHECK", "HEALTHCHECK requires at least one argument"),
        ("FROM a\nHEALTHCHECK CMD", "Missing command after HEALTHCHECK CMD"),
        ("FROM a\nHEALTHCHECK NONE x", "HEALTHCHECK NONE takes no arguments"),
        ("FROM a\nHEALTHCHECK curl", r'Unknown type "CURL" in HEALTHCHECK \(try CMD\)'),
        ("FROM a\nHEALTHCHECK --interval=5 CMD x", 'time: missing unit in duration "5"'),
        ("FROM a\nHEALTHCHECK --interval=1us CMD x", 'Interval "interval" cannot be less than 1ms'),
        ("FROM a\nHEALTHCHECK --retries=-1 CMD x", r"--retries cannot be negative \(-1\)"),
        ("FROM a\nHEALTHCHECK --retries=x CMD x", "invalid syntax"),
        ("FROM a\nONBUILD", "ONBUILD requires at least one argument"),
        ("FROM a\nONBUILD ONBUILD RUN x", "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed"),
        ("FROM a\nONBUILD FROM x", "FROM isn't allowed as an ONBUILD trigger"),
        ("FROM a\nONBUILD maintainer x", "MAINTAINER isn't allowed as an ONBUILD trigger"),
        ("FROM a\nONBUILD RNU x", "unknown instruction: RNU"),
        ("FROM a\nRUN --network=nnoe x", r'invalid network mode: "nnoe" \(did you mean none\?\)'),
        ("FROM a\nRUN --security=root x", 'invalid security mode: "root"'),
        ("FROM a\nRUN --mount=type=cahe,target=/x y", r'unsupported mount type "cahe" \(did you mean cache\?\)'),
        ("FROM a\nRUN --mount=tagret=/x y", r"unexpected key 'tagret' in 'tagret=/x' \(did you mean target\?\)"),
        ("FROM a\nRUN --mount=/x y", "invalid field '/x' must be a key=value pair"),
        ("FROM a\nRUN --mount=target=/x,from=$y z", "'from' doesn't support variable expansion"),
        ("FROM a\nRUN --mount=type=cache,id=x y", "invalid cache mount: target is required"),
        ("FROM a\nRUN --mount=type=secret y", "invalid secret mount. one of source, target required"),
        (
            "FROM a\nRUN --mount=type=tmpfs,target=/x,sharing=shared y",
            "unexpected key 'sharing' for mount type 'tmpfs'",
        ),
        ("FROM a\nRUN --mount=type=cache,target=/x,sharing=lokced y", r"did you mean locked\?"),
        ("FROM a\nRUN --mount=type=cache,target=/x,mode=9 y", "invalid value 9 for mode"),
        ("FROM a\nRUN --mount=type=tmpfs,target=/x,size=big y", "invalid value for size: big"),
        ('FROM a\nRUN --mount=type=bind,"x y', "invalid field 'x y'"),
    ],
)
def test_what_is_wrong_is_told(text: str, why: str) -> None:
    with pytest.raises(DockerfileError, match=why) as refused:
        parse(text)
    assert str(refused.value).startswith("dockerfile parse error on line ")


def test_a_report_shows_the_place() -> None:
    error = refusal("FROM scratch\n\nCOPY --chown=1 \\\n\t--form=x a b\nCMD x\nUSER y\n")
    assert error.report == (
        "dockerfile parse error on line 3: unknown flag: --form (did you mean from?)\n"
        "Dockerfile.dev:3\n"
        "--------------------\n"
        "   1 |     FROM scratch\n"
        "   2 |     \n"
        "   3 | >>> COPY --chown=1 \\\n"
        "   4 | >>> \t--form=x a b\n"
        "     |     \t^^^^^^\n"
        "   5 |     CMD x\n"
        "   6 |     USER y\n"
        "--------------------"
    )


def test_instructions_can_stand_alone() -> None:
    assert [each.NAME for each in parse_instructions("CMD x\nENV a=b")] == ["CMD", "ENV"]


WORDS = [*NAMES, "--from=a", "--mount=type=cache,target=/x", "<<EOF", "EOF", '["a"]', "a=b", "$x", "${", "\\", "'", '"']
PIECES = st.sampled_from([*WORDS, " ", " ", "\n", "\n", "#", "# escape=`", "`", "\t", "\r\n", "x", ",", "=", "\0", "é"])


@given(st.lists(PIECES, max_size=40).map("".join) | st.text(max_size=60) | st.binary(max_size=60))
@settings(max_examples=300)
def test_whatever_the_bytes_are_they_are_read_or_refused(data: str | bytes) -> None:
    for text in (data, b"FROM x\n" + (data.encode() if isinstance(data, str) else data)):
        report: object
        try:
            found = parse(text)
        except DockerfileError as error:
            report = error.report
        else:
            report = found.stages
        assert report


def test_a_file_of_ten_thousand_lines_is_read() -> None:
    text = "FROM scratch\n" + "RUN true \\\n && true\n" * 5000
    assert len(parse(text).stages[0].instructions) == 5000

"""Which variables an instruction sees, and what a RUN's environment and cache key are made of."""

from collections.abc import Mapping

import pytest

from scow.build import instructions as kinds
from scow.build.arguments import Globals, Scope, global_scope, unused_build_args
from scow.build.dockerfile import parse
from scow.build.errors import DockerfileError
from scow.build.instructions import Arg, Env
from scow.build.mounts import Mount
from scow.oci.platform import Platform

AMD = Platform(os="linux", architecture="amd64")
ARM = Platform(os="linux", architecture="arm", variant="v7")


def globals_of(text: str, **build_args: str) -> Globals:
    return global_scope(parse(text + "\nFROM scratch"), build_args, AMD, ARM)


def scope_after(text: str, *, above: str = "", env: Mapping[str, str] | None = None, **build_args: str) -> Scope:
    """The scope below the ARG and ENV instructions of `text`."""
    scope = Scope(globals=globals_of(above, **build_args), env=env or {})
    for one in parse("FROM scratch\n" + text).stages[0].instructions:
        if isinstance(one, Arg):
            scope = scope.declared(one)
        elif isinstance(one, Env):
            scope = scope.with_env(
                [*(f"{name}={value}" for name, value in scope.env.items()), *(f"{p.key}={p.value}" for p in one.pairs)]
            )
    return scope


def test_arguments_before_from_have_defaults_that_build_arguments_beat() -> None:
    above = "ARG A=1 B=$A-x\nARG C\nARG D=$none"
    assert globals_of(above).expand("$A $B ${C:-no} $D") == "1 1-x no "
    assert globals_of(above, A="2", C="3").expand("$A $B $C") == "2 2-x 3"


def test_platforms_are_known_before_from_only() -> None:
    text = "$BUILDPLATFORM $BUILDARCH $TARGETPLATFORM $TARGETOS $TARGETARCH $TARGETVARIANT"
    assert globals_of("").expand(text) == "linux/amd64 amd64 linux/arm/v7 linux arm v7"
    assert scope_after("").expand("x$TARGETARCH") == "x"
    assert scope_after("ARG TARGETARCH").expand("x$TARGETARCH") == "xarm"


def test_a_stage_sees_global_arguments_that_it_asks_for() -> None:
    assert scope_after("", above="ARG V=1").expand("[$V]") == "[]"
    assert scope_after("ARG V", above="ARG V=1").expand("[$V]") == "[1]"
    assert scope_after("ARG V=2", above="ARG V=1").expand("[$V]") == "[2]"
    assert scope_after("ARG V=2", above="ARG V=1", V="3").expand("[$V]") == "[3]"


def test_build_arguments_that_nobody_declares_are_not_seen() -> None:
    assert scope_after("ARG A", A="1", B="2").variables == {"A": "1"}
    file = parse("ARG A\nFROM x\nARG B")
    assert unused_build_args(file, ["B", "A", "z", "HTTP_PROXY", "SOURCE_DATE_EPOCH", "TARGETARCH", "y"]) == ["y", "z"]


def test_env_beats_arg_whichever_comes_first() -> None:
    for text in ("ARG V=1\nENV V=e", "ENV V=e\nARG V=1"):
        scope = scope_after(text, V="given")
        assert scope.expand("$V") == "e"
        assert scope.effective_arguments == {}
        assert scope.env == {"V": "e"}


def test_arguments_of_one_instruction_see_those_before_them() -> None:
    assert scope_after("ARG A=1 B=${A}2 C=$B$none").variables == {"A": "1", "B": "12", "C": "12"}


def test_an_argument_without_value_is_declared_but_unset() -> None:
    scope = scope_after("ARG A")
    assert scope.arguments == {"A": None}
    assert scope.variables == {}
    assert scope.history_arguments == []


def test_a_run_sees_its_arguments_and_its_key_knows_them() -> None:
    scope = scope_after("ARG A=1\nARG B\nARG C=3", env={"PATH": "/bin", "C": "e"})
    assert scope.variables == {"PATH": "/bin", "C": "e", "A": "1"}
    assert scope.effective_arguments == {"A": "1"}
    assert scope.history_arguments == ["|1", "A=1"]


def test_proxies_are_seen_by_run_and_by_nothing_else() -> None:
    scope = scope_after("ARG no_proxy", HTTP_PROXY="http://user:secret@p", no_proxy="x", other="y")
    assert scope.proxies == {"HTTP_PROXY": "http://user:secret@p"}
    assert scope.effective_arguments == {"no_proxy": "x"}
    assert "HTTP_PROXY" not in scope.variables
    assert scope_after("ENV HTTP_PROXY=mine", HTTP_PROXY="given").proxies == {}


def copy_of(text: str, scope: Scope) -> kinds.Copy:
    (one,) = parse("FROM scratch\n" + text).stages[0].instructions
    assert isinstance(one, kinds.Copy)
    return scope.expanded(one)


def test_copies_are_expanded_with_flags_and_heredocs() -> None:
    scope = Scope(globals=globals_of(""), env={"x": "1", "d": "/to/"})
    copy = copy_of(
        "COPY --chown=$x:$x --chmod=0$x --exclude=*.$x a$x '$x' <<F <<'G' $d\n\t\"$x\" \\$x\nF\n$x\nG", scope
    )
    assert (copy.sources, copy.destination) == (("a1", "$x"), "/to/")
    assert (copy.chown, copy.chmod, copy.exclude) == ("1:1", "01", ("*.1",))
    assert [document.text for document in copy.inline] == ['\t"1" $x\n', "$x\n"]
    add = copy_of("ADD --checksum=sha256:$x http://a/$x /", scope)
    assert isinstance(add, kinds.Add)
    assert (add.checksum, add.sources) == ("sha256:1", ("http://a/1",))


def test_tabs_are_stripped_before_variables_come_in() -> None:
    scope = Scope(globals=globals_of(""), env={"x": "\ty"})
    assert copy_of("COPY <<-F /\n\t\ta\n$x\n\tF", scope).inline[0].text == "a\n\ty\n"


def mounts(flags: str, **env: str) -> tuple[Mount, ...]:
    (run,) = parse(f"FROM scratch\nRUN {flags} true").stages[0].instructions
    assert isinstance(run, kinds.Run)
    return Scope(globals=globals_of(""), env=env).mounts_of(run)


def test_mounts_have_defaults() -> None:
    bind, cache, tmpfs, secret, ssh = mounts(
        "--mount=target=/a --mount=type=cache,dst=/b --mount=type=tmpfs,target=/c,size=1.5k "
        "--mount=type=secret,target=/d/token,uid=1,mode=0440,required --mount=type=ssh"
    )
    assert bind == Mount(type="bind", target="/a", readonly=True)
    assert cache == Mount(type="cache", target="/b", id="/b")
    assert tmpfs == Mount(type="tmpfs", target="/c", size=1536)
    assert secret == Mount(type="secret", target="/d/token", id="token", uid=1, mode=0o440, required=True)
    assert ssh == Mount(type="ssh", id="default")


def test_mounts_are_writable_or_not_as_the_last_option_says() -> None:
    found = mounts(
        "--mount=target=/a,rw --mount=target=/a,readwrite=false --mount=type=cache,target=/a,ro "
        "--mount=target=/a,ro,rw=true --mount=target=/a,readonly=0"
    )
    assert [mount.readonly for mount in found] == [False, True, True, False, False]


def test_mounts_take_variables() -> None:
    (mount,) = mounts('--mount=type=$t,target=$d/x,id="$i",sharing=locked', t="cache", d="/c", i="me")
    assert mount == Mount(type="cache", target="/c/x", id="me", sharing="locked")
    with pytest.raises(DockerfileError, match="unsupported sharing value"):
        mounts("--mount=type=cache,target=/x,sharing=x$none")


def test_a_bad_substitution_is_told_with_its_line() -> None:
    with pytest.raises(DockerfileError, match=r'line 2: failed to process "\$\{x": syntax error') as refused:
        copy_of("COPY a ${x", Scope(globals=globals_of("")))
    assert refused.value.token == "${x"


def test_the_history_shows_defaults_with_their_variables() -> None:
    (one,) = parse("FROM scratch\nARG A=a B=${A}$E C").stages[0].instructions
    assert isinstance(one, Arg)
    scope = Scope(globals=globals_of("", A="given"), env={"E": "-e"})
    assert scope.shown(one) == "ARG A=a B=given-e C"

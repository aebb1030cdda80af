"""Which paths an ignore file keeps out of a context: the cases are those that docker's own matcher is known by."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scow.build.ignore import BadPattern, Ignore, ignore_files, read_patterns, with_build_files


def excluded(path: str, *patterns: str) -> bool:
    return Ignore(list(patterns)).excludes(path)


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("**", "file"),
        ("**/", "file"),
        ("**", "dir/file"),
        ("**/**", "dir/file"),
        ("dir/**", "dir/file"),
        ("dir/**", "dir/dir2/file"),
        ("**/dir", "dir"),
        ("**/dir", "dir/file"),
        ("**/dir2/*", "dir/dir2/file"),
        ("**/dir2/**", "dir/dir2/dir3/file"),
        ("**file", "file"),
        ("**file", "dir/file"),
        ("**file", "dir/myfile"),
        ("**/file", "dir/dir/file"),
        ("**/file*", "dir/dir/file.txt"),
        ("**/file*txt", "dir/dir/file.txt"),
        ("**/file*.txt*", "dir/dir/file.txt"),
        ("**/**/*.txt", "dir/dir/file.txt"),
        ("**/*.txt", "file.txt"),
        ("a**/*.txt", "a/dir/dir/file.txt"),
        ("a/*.txt", "a/file.txt"),
        ("a/*.txt**", "a/file.txt"),
        ("a[b-d]e", "ace"),
        ("a[^b-d]e", "aze"),
        (".*", ".foo"),
        ("abc?def", "abcZdef"),
        ("**/foo/bar", "dir/dir2/foo/bar"),
        ("abc/**", "abc/def/ghi"),
        ("**/.foo", ".foo"),
        ("a(b)c/def", "a(b)c/def"),
        ("a.|)$(}+{bc", "a.|)$(}+{bc"),
        ("a\\*b", "a*b"),
        ("a\\\\", "a\\"),
        ("a*b*c*d*e*/f", "axbxcxdxexxx/f"),
        ("a*b?c*x", "abxbbxdbxebxczzx"),
        ("ab[b-d]", "abc"),
        ("a[^a]b", "a☺b"),
        ("[a-\u03b6]*", "\u03b1"),
        ("[\\]a]", "]"),
        ("[x\\-]", "-"),
        ("*c", "abc/deep/below"),
        ("docs", "docs/a/b/c"),
        ("./docs/../docs/", "docs/a"),
        ("x/**/a/**/b", "x/1/2/a/3/b"),
        ("x/**/a/**/b", "x/a/b"),
    ],
)
def test_a_pattern_keeps_a_path_out(pattern: str, path: str) -> None:
    assert excluded(path, pattern)


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("**/**/*.txt2", "dir/dir/file.txt"),
        ("a/*.txt", "a/dir/file.txt"),
        ("a[b-d]e", "ae"),
        ("a[b-d]e", "aae"),
        (".*", "foo"),
        ("abc.def", "abcZdef"),
        ("abc?def", "abcdef"),
        ("abc/**", "abc"),
        ("**/.foo", "bar.foo"),
        ("a*/b", "a/c/b"),
        ("a*b*c*d*e*/f", "axbxcxdxe/xxx/f"),
        ("a*b?c*x", "abxbbxdbxebxczzy"),
        ("a?b", "a/b"),
        ("a*b", "a/b"),
        ("a???b", "a☺b"),
        ("*[a-\u03b6]", "A"),
        ("x/**/a/**/b", "x/1/a2/b"),
        ("docs", "docs2"),
    ],
)
def test_a_pattern_leaves_a_path(pattern: str, path: str) -> None:
    assert not excluded(path, pattern)


@pytest.mark.parametrize(
    ("patterns", "path", "out"),
    [
        (["!fileutils.go", "*.go"], "fileutils.go", True),
        (["*.go", "!fileutils.go"], "fileutils.go", False),
        (["docs", "!docs/README.md"], "docs/README.md", False),
        (["docs/", "!docs/README.md"], "docs/README.md", False),
        (["docs/*", "!docs/README.md"], "docs/README.md", False),
        (["**", "!util/docker/web"], "util/docker/web/foo", False),
        (["**", "!util/docker/web", "util/docker/web/foo"], "util/docker/web/foo", True),
        (["**", "!dist/*.whl"], "dist/a+b.whl", False),
        (["*.md", "!README*.md", "README-secret.md"], "README-secret.md", True),
        (["*", "!src", "src/*.o"], "src/a.o", True),
        (["*", "!src", "src/*.o"], "src/a.c", False),
    ],
)
def test_the_last_pattern_that_matches_decides(patterns: list[str], path: str, out: bool) -> None:
    assert excluded(path, *patterns) is out


@pytest.mark.parametrize("pattern", ["[", "[^", "[^bc", "a[", "[]a]", "[-]", "[x-]", "[-x]", "[a-b-c]", "\\", "!"])
def test_a_malformed_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(BadPattern):
        Ignore([pattern])


def test_an_ignore_file_is_read_line_by_line() -> None:
    text = "\ufeff# a comment\n\n /node_modules/ \r\n! keep/me\n#no\n  #not a comment\n!\n."
    assert read_patterns(text) == ["node_modules", "!keep/me", "#not a comment", "!", "."]


def test_the_root_is_never_kept_out() -> None:
    assert not excluded(".", "*", ".", "**")


def test_a_directory_is_looked_into_only_if_something_in_it_may_come_back() -> None:
    ignore = Ignore(["node_modules", "docs", "build", "!docs/api/*.md", "!*.txt"])
    assert not ignore.prunes("docs")
    assert not ignore.prunes("src")
    assert Ignore(["node_modules", "docs", "!docs/api"]).prunes("node_modules")
    assert not Ignore(["docs", "!docs/api"]).prunes("docs")
    assert not Ignore(["build", "!**/keep"]).prunes("build")


def test_build_files_get_through() -> None:
    patterns = with_build_files(["*", "!src"], "Dockerfile", ".dockerignore")
    assert patterns == ["*", "!src", "!Dockerfile", "!.dockerignore"]
    assert with_build_files(["*.o"], "Dockerfile") == ["*.o"]


def test_a_dockerfile_has_its_own_ignore_file() -> None:
    assert ignore_files("build/Dockerfile.prod") == ("build/Dockerfile.prod.dockerignore", ".dockerignore")


def test_a_hostile_pattern_takes_no_time() -> None:
    assert not excluded("a" * 250 + "/" + "a" * 250, "*a" * 60 + "b")
    assert not excluded("a/" * 1000 + "a", "**/a/" * 20 + "b")


NAMES = st.text("ab", min_size=1, max_size=2)
PATHS = st.lists(NAMES, min_size=1, max_size=4).map("/".join)
PATTERNS = st.lists(st.text("ab*!/?", min_size=1, max_size=6), max_size=5)


@given(PATTERNS, PATHS)
def test_what_is_pruned_holds_nothing_that_is_kept(patterns: list[str], path: str) -> None:
    try:
        ignore = Ignore(patterns)
    except BadPattern:
        return
    names = path.split("/")
    if any(ignore.prunes("/".join(names[:depth])) for depth in range(1, len(names))):
        assert ignore.excludes(path)

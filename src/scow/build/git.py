"""Git repositories as sources: what a URL asks for, and checking that out without trusting the repository or the URL.

git runs with nothing of the engine's user: no configuration, hooks, filters, keys or prompts; only protocols that reach
other machines; and nothing of a URL reaches its command line where it could be read as an option.
"""

import asyncio
import base64
import contextlib
import os
import re
import shlex
import shutil
import signal
import urllib.parse
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from scow.errors import InvalidArgument, NotSupported, Unavailable

_SCP: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*@(?:[A-Za-z0-9][A-Za-z0-9.-]*|\[[0-9a-fA-F:]+\]):")
_GIT: Final = re.compile(r"(?:git|ssh)://|github\.com/|https?://[^?#]*\.git(?:[?#].*)?$")
_REFERENCE: Final = re.compile(r"[^\x00-\x20\x7f~^:?*\[\\+-][^\x00-\x20\x7f~^:?*\[\\]*")
_COMMIT: Final = re.compile(r"[0-9a-f]{7,64}")
_QUERIES: Final = ("ref", "branch", "tag", "commit", "checksum", "subdir", "submodules", "keep-git-dir")
_TRUE: Final = frozenset(["", "1", "t", "true"])
_FALSE: Final = frozenset(["0", "f", "false"])
_CONFIG: Final = (
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.symlinks=true",
    "protocol.ext.allow=never",
    "protocol.file.allow=never",
    "filter.lfs.smudge=",
    "filter.lfs.process=",
    "filter.lfs.required=false",
    "http.lowSpeedLimit=1000",
    "http.lowSpeedTime=60",
    "advice.detachedHead=false",
    "gc.auto=0",
)
_INHERITED: Final = ("PATH", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")


class GitSource(msgspec.Struct, frozen=True, kw_only=True):
    """A place in a repository. Dockerfile reference, "Adding files from a Git repository"."""

    address: str
    reference: str = ""
    """A branch, tag, full reference or commit; empty: what the server's HEAD is."""
    folder: str = ""
    checksum: str = ""
    """What the commit's ID has to begin with."""
    submodules: bool = True
    keep_git_dir: bool = False

    @property
    def shown(self) -> str:
        """The address without a password."""
        return re.sub(r"(?<=://)[^/@]*@", "", self.address)


class GitAccess(msgspec.Struct, frozen=True, kw_only=True):
    """What a build's client lets git use."""

    agent: Path | None = None  # socket of an SSH agent
    known_hosts: str = ""  # lines of known_hosts; empty: any host's key is taken
    secrets: Mapping[str, bytes] = {}
    """GIT_AUTH_TOKEN and GIT_AUTH_HEADER, for one host if `.HOST` follows."""


def is_git(source: str) -> bool:
    """Whether a source is a git repository."""
    return _GIT.match(source) is not None or _SCP.match(source) is not None


def parse_git(source: str) -> GitSource:
    """Read `URL[#REFERENCE[:FOLDER]]` or `URL?branch=B&subdir=D`. Raises InvalidArgument."""
    address, _, fragment = source.partition("#")
    reference, _, folder = fragment.partition(":")
    given: dict[str, str] = {}
    if _SCP.match(address) is None:
        if address.startswith("github.com/"):
            address = f"https://{address}"
        address, _, query = address.partition("?")
        for name, value in urllib.parse.parse_qsl(query, keep_blank_values=True):
            if name not in _QUERIES:
                raise InvalidArgument(f"unexpected query {name!r} in git URL: one of {', '.join(_QUERIES)}")
            if name in given:
                raise InvalidArgument(f"query {name!r} has several values in git URL")
            given[name] = value
    _check_address(source, address)
    wanted = {reference, given.get("ref", "")}
    wanted |= {f"refs/{kind}/{given[name]}" for name, kind in (("branch", "heads"), ("tag", "tags")) if name in given}
    wanted.discard("")
    if len(wanted) > 1:
        raise InvalidArgument(f"conflicting references in git URL: {', '.join(sorted(wanted))}")
    folders = {folder, given.get("subdir", "")} - {""}
    if len(folders) > 1:
        raise InvalidArgument("conflicting subdirs in git URL")
    chosen = next(iter(wanted), "")
    if chosen and (_REFERENCE.fullmatch(chosen) is None or ".." in chosen or "@{" in chosen):
        raise InvalidArgument(f"invalid git reference {chosen!r}")
    checksum = given.get("checksum", "") or given.get("commit", "")
    if checksum:
        check_checksum(checksum)
    return GitSource(
        address=address,
        reference=chosen or checksum,
        folder=next(iter(folders), ""),
        checksum=checksum,
        submodules=_switch(given, "submodules", default=True),
        keep_git_dir=_switch(given, "keep-git-dir", default=False),
    )


def check_checksum(text: str) -> None:
    """Raise InvalidArgument for what is no commit's ID or the beginning of one."""
    if _COMMIT.fullmatch(text) is None:
        raise InvalidArgument(f"invalid checksum {text!r}: expected a git commit's ID")


def _switch(given: Mapping[str, str], name: str, *, default: bool) -> bool:
    text = given.get(name)
    if text is None:
        return default
    if text.lower() not in _TRUE | _FALSE:
        raise InvalidArgument(f"invalid {name} value {text!r} in git URL: must be boolean")
    return text.lower() in _TRUE


def _check_address(source: str, address: str) -> None:
    """Refuse what git or ssh could take for something else than a host and a path."""
    if _SCP.match(address):
        host, path = "host", address.partition(":")[2]
    else:
        try:
            parts = urllib.parse.urlsplit(address)
            host, path = parts.netloc, parts.path.lstrip("/")
        except ValueError as error:
            raise InvalidArgument(f"invalid git URL {source!r}: {error}") from error
    odd = any(ord(letter) <= 0x20 or ord(letter) == 0x7F for letter in urllib.parse.unquote(address))
    bare = urllib.parse.unquote(host)
    if odd or not host or not path or path.startswith("-") or bare.startswith("-") or "@-" in bare:
        raise InvalidArgument(f"invalid git URL {source!r}")


async def check_out(source: GitSource, target: Path, access: GitAccess) -> str:
    """Check a source out into an empty folder; files get the time of the commit. Returns the commit's ID.

    Raises NotSupported without git, Unavailable, InvalidArgument for a reference that isn't there.
    """
    return await _Checkout(source, target, access).run()


class _Checkout:
    def __init__(self, source: GitSource, target: Path, access: GitAccess) -> None:
        self._source = source
        self._target = target
        self._hosts = target.with_name(target.name + ".hosts")
        self._environment = self._made_environment(access)
        self._known_hosts = access.known_hosts

    async def run(self) -> str:
        if self._known_hosts:
            await asyncio.to_thread(self._hosts.write_text, self._known_hosts)
        try:
            return await self._run()
        finally:
            await asyncio.to_thread(self._hosts.unlink, missing_ok=True)

    async def _run(self) -> str:
        source = self._source
        await self._git("init", "-q", "--template=")
        await self._git("remote", "add", "--", "origin", source.address)
        commit = await self._fetched()
        await self._check(commit)
        await self._git("checkout", "-q", "--detach", commit)
        if source.submodules:
            await self._git("submodule", "-q", "update", "--init", "--recursive", "--depth=1")
        seconds = int(await self._git("log", "-1", "--format=%ct"))
        await asyncio.to_thread(_finish, self._target, seconds, source.keep_git_dir)
        return commit

    async def _fetched(self) -> str:
        """Fetch as little as the server allows; the commit that is meant."""
        wanted = self._source.reference
        try:
            await self._git("fetch", "-q", "--no-tags", "--depth=1", "--", "origin", wanted or "HEAD")
            return await self._git("rev-parse", "--verify", "FETCH_HEAD^{commit}")
        except Unavailable as error:
            if not wanted:
                raise
            first = error
        # A short ID, or a server that doesn't hand out a commit by itself: look in all that it has.
        try:
            await self._git("fetch", "-q", "--tags", "--", "origin", "+refs/heads/*:refs/remotes/origin/*")
        except Unavailable:
            raise first from None
        for name in (
            f"refs/remotes/origin/{wanted}",
            f"refs/tags/{wanted}",
            wanted if _COMMIT.fullmatch(wanted) else "",
        ):
            if name:
                with contextlib.suppress(Unavailable):
                    return await self._git("rev-parse", "--verify", "-q", f"{name}^{{commit}}")
        raise InvalidArgument(f"repository {self._source.shown} does not contain ref {wanted}")

    async def _check(self, commit: str) -> None:
        expected = self._source.checksum
        if not expected or commit.startswith(expected):
            return
        with contextlib.suppress(Unavailable):  # of an annotated tag, its own ID will do as well
            if (await self._git("rev-parse", "--verify", "FETCH_HEAD")).startswith(expected):
                return
        raise InvalidArgument(f"expected checksum to match {expected}, got {commit}")

    async def _git(self, *args: str) -> str:
        settings = [word for each in _CONFIG for word in ("-c", each)]
        try:
            process = await asyncio.create_subprocess_exec(
                *("git", "-C", str(self._target), *settings, *args),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=self._environment,
                start_new_session=True,
                umask=0o022,
            )
        except FileNotFoundError as error:
            raise NotSupported("building from git needs git to be installed beside the engine") from error
        try:
            output, errors = await process.communicate()
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # with the helpers that speak HTTP or SSH
            await process.wait()
            raise
        if process.returncode:
            said = errors.decode(errors="replace").strip().replace(self._source.address, self._source.shown)
            raise Unavailable(f"failed to load git source {self._source.shown}: git {args[0]}: {said}")
        return output.decode(errors="replace").strip()

    def _made_environment(self, access: GitAccess) -> dict[str, str]:
        known = f'"{self._hosts}"' if access.known_hosts else "/dev/null"
        options = {
            "BatchMode": "yes",
            "ConnectTimeout": "30",
            "GlobalKnownHostsFile": "/dev/null",
            "IdentityFile": "none",
            "StrictHostKeyChecking": "yes" if access.known_hosts else "no",
            "UserKnownHostsFile": known,
        }
        ssh = ["ssh", "-F", "/dev/null"]
        for name, value in options.items():
            ssh += ["-o", f"{name}={value}"]
        environment = {name: os.environ[name] for name in _INHERITED if name in os.environ} | {
            "HOME": "/nonexistent",
            "LC_ALL": "C",
            "GIT_ALLOW_PROTOCOL": "http:https:git:ssh",
            "GIT_ASKPASS": "true",
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_SSH_COMMAND": shlex.join(ssh),
            "GIT_TERMINAL_PROMPT": "0",
        }
        if access.agent is not None:
            environment["SSH_AUTH_SOCK"] = str(access.agent)
        if header := _authorization(self._source, access.secrets):
            # Not on the command line, which everybody on the machine can read.
            parts = urllib.parse.urlsplit(self._source.address)
            host = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
            environment |= {
                "GIT_CONFIG_COUNT": "1",
                "GIT_CONFIG_KEY_0": f"http.{host}/.extraheader",
                "GIT_CONFIG_VALUE_0": f"Authorization: {header}",
            }
        return environment


def _authorization(source: GitSource, secrets: Mapping[str, bytes]) -> str:
    parts = urllib.parse.urlsplit(source.address)
    if parts.scheme not in ("http", "https"):
        return ""
    for suffix in (f".{parts.hostname}", ""):
        if header := secrets.get(f"GIT_AUTH_HEADER{suffix}"):
            return header.decode("utf-8", "replace").strip()
        if token := secrets.get(f"GIT_AUTH_TOKEN{suffix}"):
            return "basic " + base64.b64encode(b"x-access-token:" + token.strip()).decode()
    return ""


def _finish(top: Path, seconds: int, keep_git_dir: bool) -> None:
    if not keep_git_dir:
        shutil.rmtree(top / ".git", ignore_errors=True)
    for folder, folders, files in os.walk(top, topdown=False):
        if not keep_git_dir and ".git" in (*folders, *files):  # a submodule's
            inner = Path(folder, ".git")
            if inner.is_dir() and not inner.is_symlink():
                shutil.rmtree(inner, ignore_errors=True)
            else:
                inner.unlink(missing_ok=True)
        for name in files:
            with contextlib.suppress(FileNotFoundError):
                os.utime(os.path.join(folder, name), (seconds, seconds), follow_symlinks=False)
        for name in folders:
            with contextlib.suppress(FileNotFoundError):
                os.utime(os.path.join(folder, name), (seconds, seconds), follow_symlinks=False)
    os.utime(top, (seconds, seconds))

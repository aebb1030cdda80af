"""What goes along with a build: secrets and agents, named contexts, caches; and caches that come back."""

from __future__ import annotations

import os
import re

from scow.cli.contexts import pack_tree
from scow.cli.errors import CliError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from scow.cli.flags import Options
    from scow.cli.key_agents import KeyAgents
    from scow.cli.session import Session

GIT = re.compile(
    r"(?:git|ssh)://|github\.com/|https?://[^?#]*\.git(?:[?#].*)?$"
    r"|[A-Za-z0-9_][A-Za-z0-9._-]*@(?:[A-Za-z0-9][A-Za-z0-9.-]*|\[[0-9a-fA-F:]+\]):"
)
KNOWN_HOSTS = ("~/.ssh/known_hosts", "~/.ssh/known_hosts2", "/etc/ssh/ssh_known_hosts")


# --- secrets and agents


def open_session(session: Session, options: Options, keys: KeyAgents) -> str:
    """Hand secrets and agents to the engine, apart from the context; what names them for the build."""
    forwarded = options.texts("ssh")
    if not forwarded and _by_ssh(options.args[0]) and session.environment.get("SSH_AUTH_SOCK"):
        forwarded = ["default"]
    if not options.texts("secret") and not forwarded and not _by_ssh(options.args[0]):
        return ""
    from base64 import b64encode

    secrets: dict[str, str] = {}
    for text in options.texts("secret"):
        fields = fields_of(text)
        name = fields.get("id") or ""
        if not name:
            raise CliError(f"invalid secret {text!r}: it needs an id")
        if variable := fields.get("env") or ("" if fields.get("src") or fields.get("source") else name):
            value = session.environment.get(variable)
            data = None if value is None else value.encode("utf-8", "surrogateescape")
        else:
            data = None
        if data is None:
            data = _read(fields.get("src") or fields.get("source") or name)
        secrets[name] = b64encode(data).decode()
    agents: dict[str, str] = {}
    for text in forwarded:
        name, _, given = text.partition("=")
        paths = [path for path in given.split(",") if path] or [session.environment.get("SSH_AUTH_SOCK", "")]
        if not paths[0]:
            raise CliError(f"invalid empty ssh agent socket for {name}: make sure SSH_AUTH_SOCK is set")
        agents[name] = _agent(name, paths, keys)
    body = {"Secrets": secrets, "Agents": agents, "KnownHosts": _known_hosts()}
    return str(session.engine.post("/scow/build/sessions", body=body)["ID"])


def _agent(name: str, paths: list[str], keys: KeyAgents) -> str:
    """The socket of an agent, or of one that has the keys in these files."""
    import stat

    try:
        sockets = [stat.S_ISSOCK(os.stat(path).st_mode) for path in paths]
    except OSError as error:
        raise CliError(f"ssh agent or key for {name}: {error.filename}: {(error.strerror or '').lower()}") from None
    if not any(sockets):
        return keys.start(paths)
    if len(paths) > 1:
        raise CliError(f"only one socket is allowed for {name}, and no keys beside it")
    return os.path.abspath(paths[0])


def _by_ssh(place: str) -> bool:
    """Whether a context is a repository that is reached by SSH."""
    return GIT.match(place) is not None and not place.startswith(("git://", "github.com/", "http://", "https://"))


def _known_hosts() -> str:
    """The SSH host keys that the user trusts."""
    found = []
    for path in KNOWN_HOSTS:
        try:
            with open(os.path.expanduser(path), encoding="utf-8", errors="replace") as file:
                found.append(file.read())
        except OSError:
            continue
    return "\n".join(found)


def fields_of(text: str) -> dict[str, str]:
    """The `key=value` pairs of a flag's value."""
    return dict(field.strip().partition("=")[::2] for field in text.split(","))


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise CliError(f"could not read {path}: {(error.strerror or str(error)).lower()}") from None


# --- named contexts


def send_contexts(session: Session, texts: list[str]) -> dict[str, str]:
    """Send the folders and images among named contexts; what the engine is told of all of them. Raises CliError."""
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not name or not equals or not value:
            raise CliError(f"invalid context value: {text}, expected key=value")
        if value.startswith("oci-layout://"):
            from scow.cli.oci_layouts import send_image

            value = send_image(session, value)
        elif not (value.startswith(("docker-image://", "http://", "https://")) or GIT.match(value)):
            value = f"upload://{_send(session, pack_tree(value, obey_ignore_file=True))}"
        found[name] = value
    return found


def _send(session: Session, pieces: Iterator[bytes]) -> str:
    import json

    response = session.engine.open(
        "POST", "/scow/build/uploads", headers={"Content-Type": "application/x-tar"}, data=pieces
    )
    id = str(json.loads(b"".join(response.pieces()))["ID"])
    session.engine.done(response)
    return id


# --- caches


def send_caches(session: Session, texts: list[str]) -> list[str]:
    """Send the caches that are folders; what the engine is to be told of all of them. Raises CliError."""
    found: list[str] = []
    for text in texts:
        if "=" not in text:
            found += [name for name in text.split(",") if name]
            continue
        fields = fields_of(text)
        if fields.get("type") == "local":
            folder = fields.get("src") or ""
            if not folder:
                raise CliError("local cache importer requires src")
            if not os.path.exists(os.path.join(folder, "index.json")):
                continue  # the first build of all: there is none yet
            text = f"type=upload,id={_send(session, pack_tree(folder, obey_ignore_file=False))}"
        found.append(text)
    return found


class CacheTarget:
    """One `--cache-to`: what the engine is told, and what is fetched when the build is done."""

    def __init__(self, text: str) -> None:
        """Raises CliError."""
        self.spec = text
        self._folder = ""
        self._id = ""
        fields = fields_of(text)
        if fields.get("type") == "local":
            self._folder = fields.get("dest") or ""
            if not self._folder:
                raise CliError("local cache exporter requires dest")
            self._id = os.urandom(16).hex()
            self.spec = f"type=download,id={self._id},mode={fields.get('mode') or 'min'}"

    def fetch(self, session: Session) -> None:
        """Bring the cache into its folder, if that is where it goes. Raises CliError."""
        if not self._id:
            return
        from scow.cli.archives import Pieces, unpack

        os.makedirs(self._folder, exist_ok=True)
        response = session.engine.open("GET", f"/scow/build/caches/{self._id}")
        unpack(Pieces(response.pieces()), self._folder, "", "")
        session.engine.done(response)

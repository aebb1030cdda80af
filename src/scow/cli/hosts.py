"""Which engine to talk to: `--host`, environment, contexts, and the TLS files that go with them."""

from __future__ import annotations

import os

from scow.cli.errors import CliError
from scow.cli.jsontext import loads
from scow.cli.streams import SocketStream, TlsStream, dial_command, dial_tcp, dial_tls, dial_unix

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from scow.cli.config import Config
    from scow.cli.flags import Options

DEFAULT_HOST = "unix:///run/scow/scow.sock"


class Tls:
    """Files of a TLS connection; without `verify` any server is believed."""

    def __init__(self, ca: str, cert: str, key: str, verify: bool) -> None:
        self.ca = ca
        self.cert = cert
        self.key = key
        self.verify = verify


class Host:
    """Where an engine listens. `text` is what messages show, `context` the name of the context in use."""

    def __init__(self, text: str, context: str = "default", tls: Tls | None = None) -> None:
        self.text = text
        self.context = context
        self.tls = tls
        scheme, mark, rest = text.partition("://")
        if not mark:
            scheme, rest = "tcp", text
        self.scheme = scheme
        self.address = rest
        if scheme not in ("unix", "tcp", "http", "https", "ssh", "fd"):
            raise CliError(
                f"Failed to initialize: unable to resolve docker endpoint: invalid bind address format: {text}"
            )

    @property
    def header(self) -> str:
        """The Host header: an engine on a Unix socket has no name of its own."""
        return self.address.split("/", 1)[0] if self.scheme in ("tcp", "http", "https") else "api.moby.localhost"

    def dial(self) -> SocketStream | TlsStream:
        """Connect. Raises OSError."""
        if self.scheme == "unix":
            return dial_unix(self.address)
        if self.scheme == "ssh":
            return dial_command(ssh_command(self.address))
        name, port = split_port(self.address.split("/", 1)[0], 2376 if self.tls else 2375)
        if self.tls is not None or self.scheme == "https":
            return dial_tls(name, port, tls_context(self.tls))
        return dial_tcp(name, port)


def split_port(address: str, default: int) -> tuple[str, int]:
    """Split HOST:PORT or [V6]:PORT."""
    name, colon, port = address.rpartition(":")
    if not colon or not port.isdigit():
        name, port = address, str(default)
    return name.strip("[]") or "127.0.0.1", int(port)


def ssh_command(address: str) -> list[str]:
    """The command that relays to the engine at ssh://[USER@]HOST[:PORT][/SOCKET]."""
    where, slash, socket_path = address.partition("/")
    user, _, machine = where.rpartition("@")
    name, port = split_port(machine, 0)
    command = [
        "ssh",
        *(["-l", user] if user else []),
        *(["-p", str(port)] if port else []),
        "-o",
        "ConnectTimeout=30",
        "-T",
    ]
    relay = "scow system dial-stdio || docker system dial-stdio"
    if slash and socket_path:
        relay = f"docker --host unix:///{socket_path} system dial-stdio"
    return [*command, "--", name, f"sh -c '{relay}'"]


def tls_context(tls: Tls | None) -> ssl.SSLContext:  # type: ignore[name-defined]  # ssl is imported only where TLS is used  # noqa: F821
    import ssl

    context = ssl.create_default_context()
    if tls is None:
        return context
    try:
        if tls.ca and os.path.exists(tls.ca):
            context = ssl.create_default_context(cafile=tls.ca)
            context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # Python 3.13 sets it; docker is content with less
        elif tls.verify:
            raise CliError(
                f"Failed to initialize: unable to resolve docker endpoint: open {tls.ca}: no such file or directory"
            )
        if os.path.exists(tls.cert) and os.path.exists(tls.key):
            context.load_cert_chain(tls.cert, tls.key)
    except (OSError, ssl.SSLError) as error:
        raise CliError(f"Failed to initialize: unable to resolve docker endpoint: {error}") from None
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def resolve_host(options: Options, environment: Mapping[str, str], config: Config) -> Host:
    """Find the engine: --host, --context, SCOW_HOST, DOCKER_HOST, DOCKER_CONTEXT, config's context, the default."""
    hosts = options.texts("host")
    context = options.text("context")
    if len(hosts) > 1:
        raise CliError("Specify only one -H")
    if hosts and context:
        raise CliError("conflicting options: cannot specify both --host and --context")
    if hosts:
        return Host(hosts[0], tls=flag_tls(options, environment, config))
    if not context or context == "default":
        named = environment.get("SCOW_HOST") or environment.get("DOCKER_HOST")
        if named or context:
            return Host(named or DEFAULT_HOST, tls=flag_tls(options, environment, config))
        context = environment.get("DOCKER_CONTEXT") or config.text("currentContext")
    if context and context != "default":
        return context_host(context, config.folder)
    return Host(DEFAULT_HOST, tls=flag_tls(options, environment, config))


def flag_tls(options: Options, environment: Mapping[str, str], config: Config) -> Tls | None:
    """The TLS settings of flags and environment, None for a plain connection."""
    verify = options.flag("tlsverify") if options.changed("tlsverify") else bool(environment.get("DOCKER_TLS_VERIFY"))
    if not (verify or options.flag("tls") or environment.get("DOCKER_TLS")):
        return None
    folder = environment.get("DOCKER_CERT_PATH") or config.folder

    def file(flag: str, name: str) -> str:
        return options.text(flag) or os.path.join(folder, name)

    return Tls(file("tlscacert", "ca.pem"), file("tlscert", "cert.pem"), file("tlskey", "key.pem"), verify)


def context_folder(config_folder: str, kind: str, name: str) -> str:
    """Where docker keeps a context's `kind` ("meta" or "tls")."""
    from hashlib import sha256

    return os.path.join(config_folder, "contexts", kind, sha256(name.encode()).hexdigest())


def context_host(name: str, config_folder: str) -> Host:
    """The engine that a context names. Raises CliError if there is no such context."""
    path = os.path.join(context_folder(config_folder, "meta", name), "meta.json")
    try:
        with open(path, "rb") as file:
            endpoint = loads(file.read())["Endpoints"]["docker"]
    except FileNotFoundError:
        raise CliError(
            f'Failed to initialize: unable to resolve docker endpoint: context "{name}": context not found: '
            f"open {path}: no such file or directory"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CliError(f'Failed to initialize: unable to resolve docker endpoint: context "{name}": {error}') from None
    tls = None
    folder = os.path.join(context_folder(config_folder, "tls", name), "docker")
    if os.path.isdir(folder):
        files = [os.path.join(folder, file) for file in ("ca.pem", "cert.pem", "key.pem")]
        tls = Tls(files[0], files[1], files[2], verify=not endpoint.get("SkipTLSVerify"))
    return Host(endpoint.get("Host") or DEFAULT_HOST, context=name, tls=tls)

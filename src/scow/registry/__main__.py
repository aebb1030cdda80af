"""`python -m scow.registry COMMAND`, which `scow registry COMMAND` runs."""

import argparse
import asyncio
import getpass
import logging
import os
import signal
import sys
from pathlib import Path

import msgspec

from scow.errors import ScowError
from scow.registry.access import hash_password
from scow.registry.server import Registry, Server
from scow.registry.settings import Settings, SettingsInvalid, Tls, read_settings
from scow.registry.sqlite import SqliteMetadata


def main(arguments: list[str] | None = None) -> int:
    """Run one command; its exit code."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        settings = _settings(options)
        return int(asyncio.run(options.run(settings, options)))
    except (ScowError, OSError) as error:
        print(f"scow registry: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scow registry", description="A registry for container images.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--config", metavar="FILE", type=Path, help="TOML file with all settings")
    common.add_argument("--storage", metavar="DIR", help="folder of blobs and names")

    serve = commands.add_parser("serve", parents=[common], help="serve the registry")
    serve.add_argument("--listen", metavar="HOST:PORT", help="address, port 0 takes a free one (127.0.0.1:5000)")
    serve.add_argument("--htpasswd", metavar="FILE", help="users with bcrypt hashes")
    serve.add_argument("--tls-cert", metavar="FILE", help="certificate chain, PEM")
    serve.add_argument("--tls-key", metavar="FILE", help="key of the certificate, PEM")
    serve.add_argument("--access-log", action="store_true", help="log every request")
    serve.add_argument("--ready-file", metavar="FILE", type=Path, help="write the URL here once it listens")
    serve.add_argument("--pidfile", metavar="FILE", type=Path, help="write the process ID here")
    serve.set_defaults(run=_serve)

    collect = commands.add_parser("gc", parents=[common], help="remove now what is due to be removed")
    collect.set_defaults(run=_collect)

    check = commands.add_parser("check", parents=[common], help="read every blob and verify its digest")
    check.set_defaults(run=_check)

    user = commands.add_parser("user", help="manage users").add_subparsers(required=True, metavar="COMMAND")
    add = user.add_parser("add", parents=[common], help="add a user or change the password")
    add.add_argument("name")
    add.add_argument("--password-stdin", action="store_true", help="read the password from standard input")
    add.set_defaults(run=_add_user)
    return parser


def _settings(options: argparse.Namespace) -> Settings:
    settings = read_settings(options.config) if options.config else Settings()
    given = vars(options)
    if given.get("storage"):
        settings = msgspec.structs.replace(settings, storage=given["storage"])
    if given.get("listen"):
        settings = msgspec.structs.replace(settings, listen=given["listen"])
    if given.get("access_log"):
        settings = msgspec.structs.replace(settings, access_log=True)
    if given.get("htpasswd"):
        auth = msgspec.structs.replace(settings.auth, htpasswd=given["htpasswd"])
        settings = msgspec.structs.replace(settings, auth=auth)
    if given.get("tls_cert") or given.get("tls_key"):
        if not (given["tls_cert"] and given["tls_key"]):
            raise SettingsInvalid("command line", "--tls-cert and --tls-key belong together")
        settings = msgspec.structs.replace(settings, tls=Tls(given["tls_cert"], given["tls_key"]))
    if not settings.storage:
        raise SettingsInvalid("command line", "--storage DIR is needed, or storage in the --config file")
    return settings


async def _serve(settings: Settings, options: argparse.Namespace) -> int:
    registry = Registry.open(settings)
    server = Server(registry, settings)
    ending = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ending.set)
    try:
        url = await server.start()
        if options.pidfile:
            _write_file(options.pidfile, f"{os.getpid()}\n")
        print(f"listening on {url}", flush=True)
        if options.ready_file:
            _write_file(options.ready_file, f"{url}\n")
        await ending.wait()
    finally:
        await server.aclose()
        await registry.aclose()
        for path in (options.pidfile, options.ready_file):
            if path is not None:
                path.unlink(missing_ok=True)
    return 0


async def _collect(settings: Settings, options: argparse.Namespace) -> int:
    registry = Registry.open(settings)
    try:
        done = await registry.collector.collect()
    finally:
        await registry.aclose()
    print(f"reviewed {done.reviews}, removed {done.blobs} blobs and {done.uploads} uploads")
    return 0


async def _check(settings: Settings, options: argparse.Namespace) -> int:
    registry = Registry.open(settings)
    damaged = 0
    try:
        async for digest in registry.collector.damaged():
            print(f"damaged or missing: {digest}")
            damaged += 1
    finally:
        await registry.aclose()
    print(f"{damaged} damaged blobs" if damaged else "all blobs are sound")
    return 1 if damaged else 0


async def _add_user(settings: Settings, options: argparse.Namespace) -> int:
    if not options.name or ":" in options.name or not options.name.isprintable():
        raise SettingsInvalid(options.name, "a user's name has no colon and no control characters")
    password = sys.stdin.readline().rstrip("\r\n") if options.password_stdin else getpass.getpass()
    hashed = hash_password(password)
    metadata = SqliteMetadata(Path(settings.storage) / "registry.db", settings.gc.grace_s)
    try:
        await metadata.put_user(options.name, hashed)
    finally:
        await metadata.aclose()
    print(f"user {options.name} can log in; reading needs a password too unless auth.anonymous_pull is set")
    return 0


def _write_file(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text)
    temporary.replace(path)


if __name__ == "__main__":
    sys.exit(main())

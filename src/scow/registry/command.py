"""The registry's commands: arguments, and what each of them does."""

import argparse
import asyncio
import getpass
import logging
import os
import sqlite3
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import msgspec

from scow.errors import ScowError
from scow.registry.accounts import Account, SqlAccounts
from scow.registry.audit import note_by_hand
from scow.registry.checks import advise, check_files
from scow.registry.collector import Plan, counts
from scow.registry.configuration import read_settings
from scow.registry.connections import raise_descriptor_limit
from scow.registry.heaps import share_heaps
from scow.registry.imports.arguments import add_arguments
from scow.registry.os_errors import sentence
from scow.registry.passwords import hash_password, make_secret
from scow.registry.readiness import ready as is_ready
from scow.registry.registry import Registry
from scow.registry.rules import ROBOT
from scow.registry.server import access_log
from scow.registry.service import Lone, work
from scow.registry.settings import Settings, SettingsInvalid, Tls, Workers
from scow.registry.sqlite import copy_database
from scow.registry.storage import check_is_there, database_path, open_database
from scow.registry.supervisor import Post, Supervisor

DAYS_LIMIT: Final = 36_500
"""Of a robot's time: a century."""
HOLDERS_SHOWN: Final = 5
"""Repositories that are named for one damaged blob."""


def main(arguments: list[str] | None = None) -> int:
    """Run one command; its exit code."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        settings = _settings(options)
        done = options.run(settings, options)
        return int(asyncio.run(done) if asyncio.iscoroutine(done) else done)
    except (ScowError, OSError) as error:
        print(f"scow registry: {sentence(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scow registry",
        description="A registry for container images.",
        epilog="`scow registry COMMAND --help` tells more of each.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--config", metavar="FILE", type=Path, help="TOML file with all settings")
    common.add_argument("--storage", metavar="DIR", help="folder of blobs and names")

    serve = _add(
        commands,
        "serve",
        common,
        "serve the registry",
        "SIGTERM ends it when requests in flight are answered, SIGHUP has it read FILE anew. Each setting can come\n"
        "from the environment too: gc.grace_s from SCOW_REGISTRY_GC_GRACE_S.",
        "serve --listen 127.0.0.1:5000 --storage /srv/registry",
        "serve --config /etc/scow/registry.toml",
    )
    serve.add_argument("--listen", metavar="HOST:PORT", help="address, port 0 takes a free one (127.0.0.1:5000)")
    serve.add_argument("--htpasswd", metavar="FILE", help="users with bcrypt hashes")
    serve.add_argument("--tls-cert", metavar="FILE", help="certificate chain, PEM")
    serve.add_argument("--tls-key", metavar="FILE", help="key of the certificate, PEM")
    serve.add_argument("--tls-client-ca", metavar="FILE", help="clients must show a certificate signed by these, PEM")
    serve.add_argument("--workers", metavar="N", type=_workers, help="processes that serve; 0 is one for each core (0)")
    serve.add_argument("--access-log", action="store_true", help="log every request")
    serve.add_argument("--no-web", action="store_true", help="no pages for browsers")
    serve.add_argument("--ready-file", metavar="FILE", type=Path, help="write the URL here once it listens")
    serve.add_argument("--pidfile", metavar="FILE", type=Path, help="write the process ID here")
    serve.set_defaults(run=_serve)

    asks = _add(commands, "ready", common, "ask the registry of these settings on this machine whether it is ready")
    asks.add_argument("--listen", metavar="HOST:PORT", help="where it listens (127.0.0.1:5000)")
    asks.set_defaults(run=_ask)

    collect = _add(
        commands,
        "gc",
        common,
        "remove now what is due to be removed",
        "The server may run meanwhile, and does the same by itself.",
        "gc --dry-run --config /etc/scow/registry.toml",
    )
    collect.add_argument(
        "--dry-run", action="store_true", help="say what would be removed, tags by retention too, and remove nothing"
    )
    collect.set_defaults(run=_collect)

    check = _add(
        commands,
        "check",
        common,
        "read every blob and manifest and verify its digest",
        "What is damaged or missing is named, and the exit code is 1. The server may run meanwhile.",
        "check --config /etc/scow/registry.toml",
    )
    check.add_argument(
        "--repair",
        action="store_true",
        help="take damaged blobs away from their repositories, so that pushes bring them",
    )
    check.set_defaults(run=_check)

    history = _add(
        commands,
        "history",
        common,
        "show what a tag stands for, and what it stood for before",
        "It goes back by a push of the same manifest: scow pull REPOSITORY@DIGEST, tag and push.",
        "history team/app:latest --storage /srv/registry",
    )
    history.add_argument("tag", metavar="REPOSITORY:TAG")
    history.set_defaults(run=_show_history)

    backup = _add(
        commands,
        "backup",
        common,
        "copy the SQLite file as it is at this moment",
        "The server may run meanwhile. Copy the folder's blobs afterwards: they never change.",
        "backup /backup/registry.db --storage /srv/registry",
    )
    backup.add_argument("file", metavar="FILE", type=Path, help="where the copy goes")
    backup.set_defaults(run=_back_up)

    sync = _add(
        commands,
        "sync",
        common,
        "copy now what the rules say of other registries",
        "If a tag or a rule fails the others go on, and the exit code is 1.",
        "sync --dry-run --config /etc/scow/registry.toml base-images",
    )
    sync.add_argument("rules", metavar="RULE", nargs="*", help="names of rules (all)")
    sync.add_argument("--dry-run", action="store_true", help="say which tags would be copied and deleted")
    sync.add_argument("--quiet", "-q", action="store_true", help="say nothing but the sums")
    sync.set_defaults(run=_sync)

    imports = _add(
        commands,
        "import",
        common,
        "take over a folder of docker's registry, an OCI layout or a running registry",
        "What is here is left, so it can be repeated; the server may run meanwhile. What can't be taken over is\n"
        "named, and the exit code is 1.",
        "import /var/lib/docker-registry --storage /srv/registry",
        "import https://old.example.com --only 'team/**' --storage /srv/registry",
    )
    add_arguments(imports)
    imports.set_defaults(run=_import)

    user = commands.add_parser("user", help="manage users").add_subparsers(required=True, metavar="COMMAND")
    add = _add(
        user,
        "add",
        common,
        "add a user or change the password",
        "The server may run meanwhile, and knows it at once.",
        "user add ann --password-stdin --storage /srv/registry < FILE",
    )
    add.add_argument("name")
    add.add_argument("--password-stdin", action="store_true", help="read the password from standard input")
    add.set_defaults(run=_add_user)
    remove = _add(user, "rm", common, "remove a user and the tokens to log in again")
    remove.add_argument("name")
    remove.set_defaults(run=_remove_account, prefix="")
    ls = _add(user, "ls", common, "list users and robots", aliases=["list"])
    ls.set_defaults(run=_list_accounts)

    robot = commands.add_parser("robot", help="manage accounts of machines").add_subparsers(
        required=True, metavar="COMMAND"
    )
    add = _add(
        robot,
        "add",
        common,
        "add a robot or change its secret, which is printed once",
        "It logs in as robot+NAME.",
        "robot add ci --expires 90 --storage /srv/registry",
    )
    add.add_argument("name")
    add.add_argument("--expires", metavar="DAYS", type=_days, help="let it end after so many days")
    add.set_defaults(run=_add_robot)
    remove = _add(robot, "rm", common, "remove a robot")
    remove.add_argument("name")
    remove.set_defaults(run=_remove_account, prefix=ROBOT)
    return parser


def _add(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    common: argparse.ArgumentParser,
    said: str,
    more: str = "",
    *examples: str,
    aliases: Sequence[str] = (),
) -> argparse.ArgumentParser:
    """A command; `more` and `examples`, and what exit codes mean, stand at the end of its help."""
    codes = "Exit codes: 0 done, 1 not done or something is wrong, 2 the arguments are wrong."
    shown = "\n".join(("Examples:", *(f"  scow registry {each}" for each in examples))) if examples else ""
    return commands.add_parser(
        name,
        aliases=aliases,
        parents=[common],
        help=said,
        description=f"{said[0].upper()}{said[1:]}.",
        epilog="\n\n".join(filter(None, (more, shown, codes))),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _workers(text: str) -> int:
    try:
        return msgspec.convert(int(text), Workers)
    except (ValueError, msgspec.ValidationError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 0 to 256") from error


def _settings(options: argparse.Namespace) -> Settings:
    settings = read_settings(options.config, os.environ)
    given = vars(options)
    if given.get("storage"):
        settings = msgspec.structs.replace(settings, storage=given["storage"])
    if given.get("listen"):
        settings = msgspec.structs.replace(settings, listen=given["listen"])
    if given.get("workers") is not None:
        settings = msgspec.structs.replace(settings, workers=given["workers"])
    if given.get("no_web"):
        settings = msgspec.structs.replace(settings, web=False)
    if given.get("access_log"):
        settings = msgspec.structs.replace(settings, access_log=True)
    if given.get("htpasswd"):
        auth = msgspec.structs.replace(settings.auth, htpasswd=given["htpasswd"])
        settings = msgspec.structs.replace(settings, auth=auth)
    if given.get("tls_cert") or given.get("tls_key"):
        if not (given["tls_cert"] and given["tls_key"]):
            raise SettingsInvalid("command line", "--tls-cert and --tls-key belong together")
        settings = msgspec.structs.replace(settings, tls=Tls(cert=given["tls_cert"], key=given["tls_key"]))
    if given.get("tls_client_ca"):
        if settings.tls is None:
            raise SettingsInvalid("command line", "--tls-client-ca needs --tls-cert and --tls-key")
        tls = msgspec.structs.replace(settings.tls, client_ca=given["tls_client_ca"])
        settings = msgspec.structs.replace(settings, tls=tls)
    if not settings.storage and options.run is not _ask:
        raise SettingsInvalid("command line", "--storage DIR is needed, or storage in the --config file")
    return settings


def _serve(settings: Settings, options: argparse.Namespace) -> int:
    share_heaps()
    raise_descriptor_limit()
    # Each line is an object, and nothing before it, for whatever reads logs; it has its own time.
    lines = logging.StreamHandler()
    lines.setFormatter(logging.Formatter("%(message)s"))
    access_log.addHandler(lines)
    access_log.propagate = False

    def ready(url: str) -> None:
        if options.pidfile:
            _write_file(options.pidfile, f"{os.getpid()}\n")
        print(f"listening on {url}", flush=True)
        if options.ready_file:
            _write_file(options.ready_file, f"{url}\n")

    def reread() -> Settings:
        settings = _settings(options)
        check_files(settings)
        return settings

    check_files(settings)
    for advice in advise(settings):
        logging.getLogger("scow.registry").warning("%s", advice)
    try:
        if settings.worker_count() > 1:
            return Supervisor(settings, _work, reread, ready).run()
        return asyncio.run(Lone(settings, reread).run(ready))
    finally:
        for path in (options.pidfile, options.ready_file):
            if path is not None:
                path.unlink(missing_ok=True)


def _work(post: Post) -> int:
    """Be one of several workers."""
    try:
        return asyncio.run(work(post))
    except (ScowError, OSError) as error:
        print(f"scow registry: {sentence(error)}", file=sys.stderr, flush=True)
        return 1


def _ask(settings: Settings, options: argparse.Namespace) -> int:
    if is_ready(settings):
        return 0
    print(f"scow registry: nothing that takes requests is at {settings.listen}", file=sys.stderr)
    return 1


async def _collect(settings: Settings, options: argparse.Namespace) -> int:
    check_is_there(settings)
    registry = Registry.open(settings)
    try:
        if options.dry_run:
            _print_plan(await registry.collector.plan())
            return 0
        done = await registry.collector.collect()
    finally:
        await registry.aclose()
    removed = ", ".join(f"{count} {kind}" for kind, count in counts(done).items())
    print(f"reviewed {done.reviews}, removed {removed}")
    return 0


def _print_plan(plan: Plan) -> None:
    for repository, tag in plan.tags:
        print(f"tag\t{repository}:{tag}")
    for repository, digest in plan.manifests:
        print(f"manifest\t{repository}@{digest}")
    for digest, size in plan.blobs:
        print(f"blob\t{digest}\t{size}")
    for upload_id in plan.uploads:
        print(f"upload\t{upload_id}")
    freed = sum(size for _, size in plan.blobs)
    print(
        f"would remove {len(plan.tags)} tags, {len(plan.manifests)} manifests, {len(plan.uploads)} uploads, "
        f"{len(plan.blobs)} blobs: {freed} bytes"
    )


async def _sync(settings: Settings, options: argparse.Namespace) -> int:
    registry = Registry.open(settings)
    failed = False
    try:
        rules = registry.syncs.named(options.rules)
        if not rules:
            raise SettingsInvalid("sync", "no rules are configured: [[sync]] in the --config file")
        for rule in rules:
            say = (lambda _: None) if options.quiet else _say
            counts = await registry.syncs.run(rule, say, dry_run=options.dry_run)
            for problem in counts.problems:
                print(f"problem: {problem}", file=sys.stderr)
            failed |= bool(counts.problems)
            print(f"{rule.settings.name}: {'would be ' if options.dry_run else ''}{counts}")
    finally:
        await registry.aclose()
    return 1 if failed else 0


def _say(line: str) -> None:
    print(line, flush=True)


async def _import(settings: Settings, options: argparse.Namespace) -> int:
    from scow.registry.imports.command import run_import  # here, for a server does without

    registry = Registry.open(settings)
    try:
        return await run_import(registry, options)
    finally:
        await registry.aclose()


async def _check(settings: Settings, options: argparse.Namespace) -> int:
    check_is_there(settings)
    registry = Registry.open(settings)
    damaged = 0
    try:
        if problems := await registry.metadata.problems():
            print(*(f"damaged database: {problem}" for problem in problems), sep="\n")
            return 1  # it can't be asked for the rest
        async for manifest in registry.collector.damaged_manifests():
            print(f"damaged manifest: {manifest.repository}@{manifest.digest}")
            damaged += 1
        async for digest in registry.collector.damaged():
            holders = await registry.metadata.holders(digest, HOLDERS_SHOWN + 1)
            print(f"damaged or missing: {digest}{_where(holders)}")
            damaged += 1
            if options.repair:
                await registry.metadata.let_go(digest)
    finally:
        await registry.aclose()
    if not damaged:
        print("all blobs and manifests are sound")
        return 0
    print(f"{damaged} damaged: each is whole again when it is pushed again")
    if not options.repair:
        print("clients push no blob that they find here: let --repair take the damaged ones away before")
    return 1


def _where(repositories: list[str]) -> str:
    """Which repositories have a blob."""
    shown = ", ".join(repositories[:HOLDERS_SHOWN])
    more = " and others" if len(repositories) > HOLDERS_SHOWN else ""
    return f" (in {shown}{more})" if shown else " (in no repository)"


async def _show_history(settings: Settings, options: argparse.Namespace) -> int:
    check_is_there(settings)
    repository, _, tag = options.tag.rpartition(":")
    if not repository:
        raise SettingsInvalid(options.tag, "which tag? REPOSITORY:TAG is needed")
    registry = Registry.open(settings)
    try:
        now = await registry.metadata.find_manifest(repository, tag, is_digest=False)
        past = await registry.metadata.tag_history(repository, tag) if now is not None else []
    finally:
        await registry.aclose()
    if now is None:
        print(f"scow registry: there is no tag {options.tag}", file=sys.stderr)
        return 1
    print(f"{now.digest}\tnow")
    for each in past:
        until = time.strftime("%F %T", time.localtime(each.until))
        print(f"{each.digest}\tuntil {until}{'' if each.is_here else ', is gone'}")
    return 0


def _back_up(settings: Settings, options: argparse.Namespace) -> int:
    check_is_there(settings)
    if settings.database.url:
        raise SettingsInvalid("database.url", "names are in PostgreSQL, which has pg_dump for this")
    try:
        copy_database(database_path(settings), options.file)
    except sqlite3.Error as error:
        raise SettingsInvalid(str(options.file), f"the copy could not be made: {error}") from error
    except FileExistsError as error:
        raise SettingsInvalid(str(options.file), "is there already") from error
    except OSError as error:  # which names the file that the copy is made in
        raise SettingsInvalid(str(options.file), error.strerror or str(error)) from error
    print(f"{options.file}: {options.file.stat().st_size} bytes; now copy {Path(settings.storage) / 'blobs'}")
    return 0


@asynccontextmanager
async def _accounts(settings: Settings) -> AsyncIterator[SqlAccounts]:
    database = open_database(settings)
    try:
        yield SqlAccounts(database)
    finally:
        await database.aclose()


def _audit(settings: Settings, action: str, account: str) -> None:
    """Write into the audit log what was changed here, rather than by a request."""
    path = settings.auth.audit_log
    if not path:
        return
    try:
        note_by_hand(Path(path), action, account)
    except OSError as error:
        print(f"scow registry: the audit log does not tell of this: {sentence(error)}", file=sys.stderr)


def _days(text: str) -> float:
    if not 0 < (days := float(text)) <= DAYS_LIMIT:  # nor is it no number at all, which would never end
        raise argparse.ArgumentTypeError(f"{text} is not more than 0 and up to {DAYS_LIMIT} days")
    return days


def _check_name(name: str) -> None:
    if not name or ":" in name or "*" in name or not name.isprintable():
        raise SettingsInvalid(name, "an account's name has no colon, no asterisk and no control characters")


async def _add_user(settings: Settings, options: argparse.Namespace) -> int:
    _check_name(options.name)
    if options.name.startswith(ROBOT):
        raise SettingsInvalid(options.name, f"names of robots begin with {ROBOT}: use `scow registry robot add`")
    password = sys.stdin.readline().rstrip("\r\n") if options.password_stdin else getpass.getpass()
    hashed = hash_password(password)
    async with _accounts(settings) as accounts:
        await accounts.put(options.name, Account(hashed))
    _audit(settings, "user add", options.name)
    print(f"user {options.name} can log in; reading needs a password too unless auth.anonymous_pull is set")
    return 0


async def _add_robot(settings: Settings, options: argparse.Namespace) -> int:
    own = options.name.removeprefix(ROBOT)
    _check_name(own)
    name = ROBOT + own
    secret, kept = make_secret()
    expires_at = time.time() + options.expires * 86400 if options.expires is not None else None
    async with _accounts(settings) as accounts:
        await accounts.put(name, Account(kept, expires_at))
    _audit(settings, "robot add", name)
    print(f"{name}\n{secret}")
    return 0


async def _remove_account(settings: Settings, options: argparse.Namespace) -> int:
    check_is_there(settings)
    name = options.prefix + options.name.removeprefix(options.prefix)
    async with _accounts(settings) as accounts:
        gone = await accounts.remove(name)
    if gone:
        _audit(settings, "account rm", name)
    print(f"{name} is removed" if gone else f"there is no {name}")
    return 0 if gone else 1


async def _list_accounts(settings: Settings, options: argparse.Namespace) -> int:
    check_is_there(settings)
    async with _accounts(settings) as accounts:
        for name, account in sorted((await accounts.all()).items()):
            ends = (
                ""
                if account.expires_at is None
                else f"\tuntil {time.strftime('%F %T', time.localtime(account.expires_at))}"
            )
            print(f"{name}{ends}")
    return 0


def _write_file(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text)
    temporary.replace(path)

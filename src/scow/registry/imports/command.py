"""`scow registry import`: from a folder, a layout or a running registry, by what the source looks like."""

import argparse
import asyncio
import sys
from collections.abc import Callable
from pathlib import Path

from scow.registry.imports.distribution import DistributionImporter
from scow.registry.imports.files import Imported, Say
from scow.registry.imports.layout import LayoutImporter, is_layout
from scow.registry.patterns import matches_any
from scow.registry.registry import Registry
from scow.registry.settings import SettingsInvalid, Sync
from scow.registry.upstream.sync import Rule


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("source", metavar="DIR|URL", help="folder of docker's registry, OCI layout, registry's URL")
    parser.add_argument(
        "--only",
        metavar="REPOSITORY",
        action="append",
        default=[],
        help="only these, may be repeated; * stands within a component, ** across",
    )
    parser.add_argument("--namespace", metavar="NAME", default="", help="put this before the repositories' names")
    parser.add_argument("--repository", metavar="NAME", default="", help="where images of an OCI layout go")
    parser.add_argument("--no-verify", action="store_true", help="don't check the digest of every blob of a folder")
    parser.add_argument("--platform", metavar="OS/ARCH", action="append", default=[], help="of a registry's indexes")
    parser.add_argument("--username", metavar="NAME", default="", help="log in at the registry")
    parser.add_argument("--password-stdin", action="store_true", help="read the password from standard input")
    parser.add_argument("--insecure", action="store_true", help="take any certificate of the registry")
    parser.add_argument("--quiet", "-q", action="store_true", help="print the sums only")


async def run_import(registry: Registry, options: argparse.Namespace) -> int:
    """Import; the exit code. Raises what the source may raise."""
    say: Say = (lambda _: None) if options.quiet else (lambda line: print(line, flush=True))
    if "://" in options.source:
        counts = await registry.syncs.run(await _rule(options), say)
        return _sum_up(f"imported {counts}", counts.problems)
    done = await _from_files(registry, options, say)
    return _sum_up(f"imported {done}", done.problems)


def _sum_up(text: str, problems: list[str]) -> int:
    for problem in problems:
        print(f"left out: {problem}", file=sys.stderr)
    print(text)
    return 1 if problems else 0


async def _from_files(registry: Registry, options: argparse.Namespace, say: Say) -> Imported:
    source, objects, metadata = Path(options.source), registry.objects, registry.metadata
    verify, namespace = not options.no_verify, options.namespace
    if is_layout(source):
        layout = LayoutImporter(
            source, objects, metadata, say, verify=verify, namespace=namespace, repository=options.repository
        )
        return await layout.run(_wanted(options.only))
    if options.repository:
        raise SettingsInvalid("command line", "--repository is for OCI layouts")
    distribution = DistributionImporter(source, objects, metadata, say, verify=verify, namespace=namespace)
    return await distribution.run(_wanted(options.only))


def _wanted(patterns: list[str]) -> Callable[[str], bool]:
    return lambda name: not patterns or matches_any(name, patterns)


async def _rule(options: argparse.Namespace) -> Rule:
    password = await asyncio.to_thread(sys.stdin.readline) if options.password_stdin else ""
    if options.repository:
        raise SettingsInvalid("command line", "--repository is for OCI layouts")
    return Rule(
        Sync(
            name="import",
            upstream=options.source.rstrip("/"),
            repositories=options.only or ["**"],
            namespace=options.namespace,
            platforms=options.platform,
            username=options.username,
            password=password.rstrip("\r\n"),
            verify=not options.insecure,
        )
    )

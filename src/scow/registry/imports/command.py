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

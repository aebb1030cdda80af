"""Measure: starts engines and registries, runs the cases in turn, prints tables. `script/bench` calls it.

Ends by itself in time, and when it is told to end early (SIGTERM, SIGINT) it prints what it has.
"""

import argparse
import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from bench import cases, engines, images, registries, registry_memory
from bench.cases import Case
from bench.engines import Engine, Failed
from bench.figures import Result, figure, ratio, table
from bench.http import ApiError
from bench.registries import RegistryCase

TIME_S = 270.0
"""A run of all cases ends within five minutes, what it takes to end included."""
REGISTRY_CASES = (*registry_memory.CASES, *registries.CASES)
_IMAGES = {"pull-big": "big", "pull-small": "small", "pull-tiny": "tiny", "save": "small"}


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="script/bench", description=__doc__)
    parser.add_argument("--only", metavar="CASES", help="comma-separated names of cases; see --list")
    parser.add_argument("--engines", metavar="NAMES", help="comma-separated: scow, dockerd, podman")
    parser.add_argument("--rounds", type=int, help="samples of each case")
    parser.add_argument("--full", action="store_true", help="more rounds and more bytes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples to FILE")
    parser.add_argument("--time", type=float, metavar="S", help=f"begin no sample after so long ({TIME_S:.0f})")
    parser.add_argument("--list", action="store_true", help="list the cases")
    flags = parser.parse_args()
    every: Sequence[type[Case] | type[RegistryCase]] = (*cases.ALL, *REGISTRY_CASES)
    if flags.list:
        for kind in every:
            print(f"{kind.name:24}{kind.title}{' (--full)' if kind.full_only else ''}")
        return 0
    size = cases.FULL if flags.full else cases.QUICK
    try:
        names = _chosen(flags.only, flags.full, every)
        subjects = _engines(flags.engines)
    except Failed as error:
        parser.error(str(error))
    chosen = [kind(size) for kind in cases.ALL if kind.name in names]
    big = registries.FULL if flags.full else registries.QUICK
    asked = [kind(big) for kind in REGISTRY_CASES if kind.name in names]
    run = _Run(flags.full, flags.rounds, flags.time or (None if flags.full else TIME_S))
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    interrupted = False
    try:
        # Registries first: they take a minute, and what is left of the time is for the engines.
        if asked:
            with _registries() as serving:
                run.tables.append(([], [each.name for each in serving]))
                run.measure(asked, serving)
        if chosen:
            with _running(chosen, subjects) as running:
                run.tables.append(([], [engine.name for engine in running]))
                run.measure(chosen, running)
    except KeyboardInterrupt:
        interrupted = True
    results = [result for measured, _ in run.tables for result in measured]
    print("\n\n".join(table(measured, columns) for measured, columns in run.tables if measured), flush=True)
    if flags.json:
        flags.json.write_text(json.dumps([_described(result) for result in results], indent=1) + "\n")
    if run.left_out:
        _say(f"left out, the time was up: {', '.join(run.left_out)}")
    return 130 if interrupted else 0


class _Run:
    """The results so far, each set with its columns, and the time that is left."""

    def __init__(self, full: bool, rounds: int | None, time_s: float | None) -> None:
        self._full = full
        self._rounds = rounds
        self._end = time.monotonic() + time_s if time_s is not None else float("inf")
        self.tables: list[tuple[list[Result], list[str]]] = []
        self.left_out: list[str] = []

    def measure(self, chosen: Sequence[Any], subjects: Sequence[Any]) -> None:
        """Take all samples into the last table; what was sampled when it is interrupted stays."""
        for case in chosen:
            if time.monotonic() > self._end:
                self.left_out.append(case.name)
                continue
            _measure(case, subjects, self._rounds or case.rounds[self._full], self._end, self.tables[-1][0].append)


def _chosen(only: str | None, full: bool, every: Sequence[Any]) -> list[str]:
    if only is None:
        return [kind.name for kind in every if full or not kind.full_only]
    names = only.split(",")
    known = [kind.name for kind in every]
    unknown = sorted(set(names) - {*known, "registry"})
    if unknown:
        raise Failed(f"no such case: {', '.join(unknown)}; see --list")
    return [name for name in known if name in names or ("registry" in names and name.startswith("registry"))]


@contextlib.contextmanager
def _registries() -> Iterator[list[registries.Registry]]:
    """All registries that are installed, up and empty; gone afterwards."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with tempfile.TemporaryDirectory(prefix="scow-b-", dir="/var/tmp", ignore_cleanup_errors=True) as name:
        serving: list[registries.Registry] = []
        try:
            for kind in registries.ALL:
                if missing := kind.missing():
                    _say(f"{kind.name} is left out: {missing} is not installed")
                    continue
                registry = kind(Path(name))
                serving.append(registry)
                registry.start()
            yield serving
        finally:
            for registry in serving:
                registry.stop()


def _engines(names: str | None) -> list[type[Engine]]:
    asked = names.split(",") if names else [kind.name for kind in engines.ALL]
    unknown = sorted(set(asked) - {kind.name for kind in engines.ALL})
    if unknown:
        raise Failed(f"no such engine: {', '.join(unknown)}")
    found = []
    for kind in engines.ALL:
        if kind.name in asked:
            missing = kind.missing()
            if missing:
                _say(f"{kind.name} is left out: {missing} not installed")
            else:
                found.append(kind)
    return found


@contextlib.contextmanager
def _running(chosen: Sequence[Case], kinds: Sequence[type[Engine]]) -> Iterator[list[Engine]]:
    """Registry and engines, up, with the images that the cases need; all gone afterwards."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with tempfile.TemporaryDirectory(prefix="scow-b-", dir="/var/tmp", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        running: list[Engine] = []
        registry = engines.Registry(folder)
        try:
            needed = dict.fromkeys(["busybox", *(_IMAGES[case.name] for case in chosen if case.name in _IMAGES)])
            for image in needed:
                _say(f"making the image {image}")
                images.push(registry.address, image)
            for number, kind in enumerate(kinds, 1):
                engine = kind(folder, registry.address, number)
                try:
                    engine.start()
                    engine.pull("busybox")
                except (Failed, ApiError, OSError) as error:
                    _say(f"{kind.name} is left out: {error}")
                    engine.stop()
                else:
                    running.append(engine)
            yield running
        finally:
            for engine in running:
                _clean(engine)
            registry.stop()
            engines.end_all()
            _remove_groups(folder.name)
            _unmount(folder)


def _measure(case: Any, running: Sequence[Any], rounds: int, end: float, done: Callable[[Result], None]) -> None:
    """Take the samples, one engine after the other in every round; an engine that fails once is out.

    No round begins after `end` (monotonic), but the first. `done` gets the result, also if this is interrupted.
    """
    _say(f"{case.title} ({rounds} rounds)")
    samples: dict[str, list[float]] = {}
    states: dict[str, Any] = {}
    able = [engine for engine in running if case.can(engine)]
    for engine in list(able):
        try:
            states[engine.name] = case.prepare(engine)
        except (Failed, ApiError, OSError) as error:
            _give_up(engine, able, case, error)
    try:
        for number in range(rounds):
            if number and time.monotonic() > end:
                break
            for engine in list(able):
                try:
                    samples.setdefault(engine.name, []).append(case.sample(engine, states[engine.name]))
                except (Failed, ApiError, OSError) as error:
                    samples.pop(engine.name, None)
                    _give_up(engine, able, case, error)
            able.append(able.pop(0)) if able else None
        for engine in running:
            with contextlib.suppress(Failed, ApiError, OSError):
                case.tidy(engine, states.get(engine.name))
    finally:
        figures = {name: figure(each, case.unit) for name, each in samples.items() if each}
        if figures:
            done(Result(case.name, case.title, case.unit, figures))


def _give_up(engine: Any, able: list[Any], case: Any, error: Exception) -> None:
    _say(f"  {engine.name} can't: {error}")
    if isinstance(engine, Engine):
        engine.api.close()
    able.remove(engine)


def _clean(engine: Engine) -> None:
    with contextlib.suppress(Failed, ApiError, OSError):
        engine.clean()
    with contextlib.suppress(OSError):
        engine.stop()


def _remove_groups(name: str) -> None:
    """Control groups are the one thing that no namespace takes away."""
    for top in Path("/sys/fs/cgroup").rglob(f"bench-{name}"):
        for group in sorted((top, *top.rglob("*")), key=lambda path: -len(path.parts)):
            if group.is_dir():
                with contextlib.suppress(OSError):
                    group.rmdir()


def _unmount(folder: Path) -> None:
    targets = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for target in reversed([each for each in targets if each.startswith(f"{folder}/")]):
        subprocess.run(["umount", "-l", target], check=False, capture_output=True)


def _described(result: Result) -> dict[str, Any]:
    return {
        "case": result.case,
        "title": result.title,
        "unit": result.unit,
        "ratio": ratio(result),
        "engines": {name: each._asdict() for name, each in result.figures.items()},
    }


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

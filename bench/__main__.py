"""Measure: makes images, starts the engines, runs the cases in turn, prints a table. `script/bench` calls it."""

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench import cases, engines, images
from bench.cases import Case
from bench.engines import Engine, Failed
from bench.figures import Result, figure, ratio, table
from bench.http import ApiError

_IMAGES = {"pull-big": "big", "pull-small": "small", "pull-tiny": "tiny"}


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="script/bench", description=__doc__)
    parser.add_argument("--only", metavar="CASES", help="comma-separated names of cases; see --list")
    parser.add_argument("--engines", metavar="NAMES", help="comma-separated: scow, dockerd, podman")
    parser.add_argument("--rounds", type=int, help="samples of each case")
    parser.add_argument("--full", action="store_true", help="more rounds and more bytes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples to FILE")
    parser.add_argument("--list", action="store_true", help="list the cases")
    flags = parser.parse_args()
    if flags.list:
        for kind in cases.ALL:
            print(f"{kind.name:16}{kind.title}{' (--full)' if kind.full_only else ''}")
        return 0
    size = cases.FULL if flags.full else cases.QUICK
    try:
        chosen = [kind(size) for kind in _chosen(flags.only, flags.full)]
        subjects = _engines(flags.engines)
    except Failed as error:
        parser.error(str(error))
    with contextlib.suppress(KeyboardInterrupt):
        with _running(chosen, subjects) as running:
            results = [_measure(case, running, flags.rounds or case.rounds[flags.full]) for case in chosen]
        print(table(results, [engine.name for engine in running]))
        if flags.json:
            flags.json.write_text(json.dumps([_described(result) for result in results], indent=1) + "\n")
        return 0
    return 130


def _chosen(only: str | None, full: bool) -> list[type[Case]]:
    if only is None:
        return [kind for kind in cases.ALL if full or not kind.full_only]
    names = only.split(",")
    unknown = sorted(set(names) - {kind.name for kind in cases.ALL})
    if unknown:
        raise Failed(f"no such case: {', '.join(unknown)}; see --list")
    return [kind for kind in cases.ALL if kind.name in names]


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


def _measure(case: Case, running: Sequence[Engine], rounds: int) -> Result:
    """Take the samples, one engine after the other in every round; an engine that fails once is out."""
    _say(f"{case.title} ({rounds} rounds)")
    samples: dict[str, list[float]] = {}
    states: dict[str, Any] = {}
    able = [engine for engine in running if case.can(engine)]
    for engine in list(able):
        try:
            states[engine.name] = case.prepare(engine)
        except (Failed, ApiError, OSError) as error:
            _give_up(engine, able, case, error)
    for _ in range(rounds):
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
    return Result(case.name, case.title, case.unit, {name: figure(each, case.unit) for name, each in samples.items()})


def _give_up(engine: Engine, able: list[Engine], case: Case, error: Exception) -> None:
    _say(f"  {engine.name} can't: {error}")
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

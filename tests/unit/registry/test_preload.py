"""A server imports what its settings make use of, before its workers are forked, and nothing else."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from scow.registry.preload import modules_of
from scow.registry.settings import Auth, Names, Oidc, Proxy, Settings, Sync, Token, Traces

PROBE = """
import asyncio, sys
from scow.registry import __main__  # noqa: F401
from scow.registry import command  # noqa: F401
from scow.registry.preload import preload
from scow.registry.registry import Registry
from scow.registry.server import Server
from scow.registry.settings import Settings

async def serve(settings):
    registry = Registry.open(settings)
    Server(registry, settings)
    await registry.aclose()

settings = Settings(storage=sys.argv[1])
preload(settings)
asyncio.run(serve(settings))
print(*sys.modules)
"""
SELDOM = {
    "aiohttp.web", "asyncpg", "bcrypt", "cryptography", "joserfc", "obstore", "opentelemetry", "requests",
    "scow.registry.imports.command", "scow.registry.signatures", "scow.registry.upstream.cache",
    "scow.registry.upstream.sync", "scow.transfer.client",
}  # fmt: skip


def test_a_server_of_a_folder_imports_nothing_that_it_does_not_need(tmp_path: Path) -> None:
    out = subprocess.run([sys.executable, "-c", PROBE, str(tmp_path)], check=True, capture_output=True, text=True)
    loaded = set(out.stdout.split())
    assert "scow.registry.web.pages" in loaded
    assert loaded & SELDOM == set()


@pytest.mark.parametrize(
    ("settings", "modules"),
    [
        (Settings(), set()),
        (Settings(auth=Auth(htpasswd="users")), {"bcrypt"}),
        (Settings(auth=Auth(token=Token()), web=False), {"scow.registry.signatures"}),
        (Settings(auth=Auth(oidc=[Oidc(name="x", issuer="x", client_id="x")])), {"scow.registry.signatures"}),
        (Settings(proxy=[Proxy(upstream="docker.io")]), {"scow.registry.upstream.requests"}),
        (Settings(sync=[Sync(upstream="docker.io", name="x", repositories=[])]), {"scow.registry.upstream.sync"}),
        (Settings(storage="s3://bucket"), {"scow.registry.bucket_objects", "scow.registry.stores"}),
        (Settings(database=Names(url="postgresql://x")), {"scow.registry.postgres"}),
        (
            Settings(traces=Traces(endpoint="http://x")),
            {"opentelemetry.exporter.otlp.proto.http.trace_exporter"},
        ),
    ],
)
def test_workers_share_what_the_settings_need(settings: Settings, modules: set[str]) -> None:
    assert set(modules_of(settings)) == modules


@pytest.mark.parametrize("name", sorted(SELDOM - {"asyncpg", "obstore", "opentelemetry", "requests"}))
def test_what_is_left_out_is_there(name: str) -> None:
    assert find_spec(name) is not None

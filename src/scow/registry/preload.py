"""What the settings make use of, imported before workers are forked: its memory is theirs together then.

The rest of what the registry can do is imported nowhere, until somebody asks for it.
"""

from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module

from scow.registry.settings import Settings
from scow.registry.storage import has_bucket


def preload(settings: Settings) -> None:
    """Import what workers will need. What is missing here they will miss too, and say so."""
    for name in modules_of(settings):
        with suppress(ImportError):
            import_module(name)


def modules_of(settings: Settings) -> Iterator[str]:
    """Modules beyond those that every server has, for what is configured."""
    auth = settings.auth
    if auth.htpasswd is not None:
        yield "bcrypt"
    if auth.token is not None or auth.oidc:  # where only browsers' sessions are signed, few workers ever do that
        yield "scow.registry.signatures"
    if settings.proxy:
        yield "scow.registry.upstream.requests"
    if settings.sync:
        yield "scow.registry.upstream.sync"
    if has_bucket(settings):
        yield "scow.registry.bucket_objects"
        yield "scow.registry.stores"
    if settings.database.url:
        yield "scow.registry.postgres"
    if settings.traces.endpoint:
        yield "opentelemetry.exporter.otlp.proto.http.trace_exporter"

"""A span for each request, sent by OpenTelemetry's protocol over HTTP. Only where an endpoint is configured.

The libraries are an extra (`pip install 'scow[otel]'`) and imported only then. Spans are sent by a thread of theirs, in
batches; what a collector does not take in time is dropped, and no request waits for it.
"""

import asyncio
import time
from collections.abc import Mapping
from typing import Any, Final

from scow import __version__
from scow.registry.settings import SettingsInvalid
from scow.registry.settings import Traces as TracesSettings

EXPORT_TIMEOUT_S: Final = 3
"""A collector that does not answer holds up the end of the server for so long."""


class Traces:
    """Makes spans. `aclose` sends what is left."""

    def __init__(self, settings: TracesSettings) -> None:
        """Raises SettingsInvalid where the libraries are missing."""
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
            from opentelemetry.trace import SpanKind, Status, StatusCode
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        except ImportError as error:
            raise SettingsInvalid(
                "traces.endpoint", f"pip install 'scow[otel]' brings what it needs: {error}"
            ) from error
        exporter = OTLPSpanExporter(
            endpoint=f"{settings.endpoint.rstrip('/')}/v1/traces", headers=settings.headers, timeout=EXPORT_TIMEOUT_S
        )
        resource = Resource.create({"service.name": settings.service, "service.version": __version__})
        self._provider = TracerProvider(
            sampler=ParentBasedTraceIdRatio(settings.sample), resource=resource, shutdown_on_exit=False
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("scow.registry", __version__)
        self._context = TraceContextTextMapPropagator()
        self._kind = SpanKind.SERVER
        self._failed = Status(StatusCode.ERROR)

    def note(
        self, name: str, took_s: float, status: int | None, headers: Mapping[str, str], attributes: dict[str, Any]
    ) -> None:
        """A request that has ended, `took_s` after its begin; of a client that has gone, `status` is None.

        `headers` are the request's, in which the caller's span may be named.
        """
        ended = time.time_ns()
        parent = self._context.extract({key.lower(): value for key, value in headers.items()})
        span = self._tracer.start_span(
            name,
            context=parent,
            kind=self._kind,
            attributes={key: value for key, value in attributes.items() if value is not None},
            start_time=ended - int(took_s * 1e9),
        )
        if status is not None:
            span.set_attribute("http.response.status_code", status)
        if status is None or status >= 500:
            span.set_status(self._failed)
        span.end(ended)

    async def aclose(self) -> None:
        """Send what is left, within a few seconds."""
        await asyncio.to_thread(self._provider.shutdown)

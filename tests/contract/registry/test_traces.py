"""OpenTelemetry: what a collector is told of requests."""

import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from scow.registry.settings import Settings, Traces

from .conftest import Client, Running

trace_service = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")


class Collector:
    """Takes OTLP over HTTP."""

    def __init__(self) -> None:
        self.spans: dict[str, Any] = {}  # by name
        self.headers: dict[str, str] = {}
        self.service = ""

    async def start(self) -> str:
        app = web.Application()
        app.router.add_post("/v1/traces", self._take)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        await self._runner.cleanup()

    async def _take(self, request: web.Request) -> web.Response:
        message = trace_service.ExportTraceServiceRequest.FromString(await request.read())
        self.headers = dict(request.headers)
        for resource in message.resource_spans:
            self.service = attributes_of(resource.resource)["service.name"]
            self.spans |= {span.name: span for scope in resource.scope_spans for span in scope.spans}
        return web.Response(content_type="application/x-protobuf")


def attributes_of(thing: Any) -> dict[str, Any]:
    return {item.key: item.value.string_value or item.value.int_value for item in thing.attributes}


async def test_each_request_is_a_span_of_its_callers_trace(
    serve: Callable[..., Any], settings: Settings, session: aiohttp.ClientSession
) -> None:
    collector = Collector()
    endpoint = await collector.start()
    running: Running = await serve(settings, traces=Traces(endpoint=endpoint, headers={"x-key": "secret"}))
    client = Client(session, running.url)
    begun = time.time_ns()
    await client.push_image("v1")
    trace, caller = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    named = {"traceparent": f"00-{trace}-{caller}-01", "X_Request_Id": "abc"}
    await client("GET", "/v2/test/repo/manifests/v1", **named)
    await client("GET", "/healthz")
    await running.server.aclose()  # what is left is sent
    await collector.stop()
    assert collector.service == "scow-registry"
    assert collector.headers["x-key"] == "secret"
    assert collector.spans.keys() == {"POST uploads", "PUT upload", "PUT manifest", "GET manifest"}
    span = collector.spans["GET manifest"]
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (trace, caller)
    assert begun < span.start_time_unix_nano < span.end_time_unix_nano <= time.time_ns()
    told = attributes_of(span)
    assert told["http.response.status_code"] == 200
    assert (told["scow.repository"], told["scow.reference"], told["scow.request_id"]) == ("test/repo", "v1", "abc")


async def test_without_a_collector_requests_are_answered_and_the_end_is_near(
    serve: Callable[..., Any], settings: Settings, session: aiohttp.ClientSession
) -> None:
    running: Running = await serve(settings, traces=Traces(endpoint="http://127.0.0.1:1"))
    assert (await Client(session, running.url)("GET", "/v2/")).status == 200
    begun = time.monotonic()
    await running.server.aclose()
    assert time.monotonic() - begun < 10


async def test_a_caller_who_does_not_sample_is_heeded(
    serve: Callable[..., Any], settings: Settings, session: aiohttp.ClientSession
) -> None:
    collector = Collector()
    running: Running = await serve(settings, traces=Traces(endpoint=await collector.start()))
    named = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"}
    await Client(session, running.url)("GET", "/v2/", **named)
    await running.server.aclose()
    await collector.stop()
    assert not collector.spans


def test_a_registry_without_traces_does_not_load_the_libraries() -> None:
    probe = "import sys, scow.registry.server; print('opentelemetry' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", probe], check=True, capture_output=True, text=True)
    assert out.stdout.strip() == "False"

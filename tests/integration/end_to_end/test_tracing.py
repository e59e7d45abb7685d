"""Traces of the running service, received by a collector."""

import gzip
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, Final
from urllib.parse import urlsplit

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from support.frontend import AUTH_SETTINGS, as_user
from support.service import Sandbox, new_sandbox
from todo_adapters.postgres.url import DatabaseUrl
from todo_api.tracing import ENDPOINTS, telemetry

UNREACHABLE: Final = "postgresql://ada@127.0.0.1:1/todo"
TRACE: Final = "0af7651916cd43dd8448eb211c80319c"
USER_DATA: Final = ("ada@example.com", "gift", "Buy milk")

Spans = dict[str, Any]


@contextmanager
def collector() -> Iterator[tuple[str, list[bytes]]]:
    """A collector: its URL and the request bodies that it received."""
    received: list[bytes] = []

    class Receive(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            is_compressed = self.headers["Content-Encoding"] == "gzip"
            received.append(gzip.decompress(body) if is_compressed else body)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Suppress the log."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Receive) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", received
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
async def exported(server_url: str, branch: Callable[[str], Awaitable[DatabaseUrl]]) -> list[bytes]:
    """What the service exports for four requests of a user."""
    await branch("traced")
    database_url = urlsplit(server_url)._replace(path="/traced").geturl()
    with collector() as (address, received), new_sandbox() as sandbox:
        traced = {"OTEL_EXPORTER_OTLP_ENDPOINT": address}
        with (
            sandbox.serving(
                "serve", DATABASE_URL=database_url, **AUTH_SETTINGS, **traced
            ) as service,
            service.client() as ada,
        ):
            ada.headers.update(as_user("ada@example.com"))
            ada.headers["traceparent"] = f"00-{TRACE}-b7ad6b7169203331-01"
            created = ada.post("/api/tasks", json={"title": "Buy milk"})
            ada.get(created.headers["Location"])
            ada.get("/api/ada@example.com/tasks?q=gift")
            ada.get("/api/tasks/nothing")
    return received


@pytest.fixture(scope="module")
def spans(exported: list[bytes]) -> Spans:
    """The spans by name."""
    messages = [ExportTraceServiceRequest.FromString(body) for body in exported]
    return {
        span.name: span
        for message in messages
        for resource in message.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    }


def attributes(span: Any) -> dict[str, object]:  # noqa: ANN401 - protobuf creates the class at run time
    return {pair.key: pair.value.string_value or pair.value.int_value for pair in span.attributes}


def test_a_span_is_named_after_its_route(spans: Spans) -> None:
    assert {"POST /api/tasks", "GET /api/tasks", "GET /api/tasks/{task_id}"} <= set(spans)


def test_a_span_belongs_to_the_clients_trace(spans: Spans) -> None:
    requests = [span for name, span in spans.items() if "/api/" in name]
    assert {span.trace_id.hex() for span in requests} == {TRACE}


def test_a_span_has_the_status(spans: Spans) -> None:
    assert attributes(spans["POST /api/tasks"])["http.response.status_code"] == 201
    assert attributes(spans["GET /api/tasks/{task_id}"])["http.response.status_code"] == 404


@pytest.mark.parametrize("text", USER_DATA)
def test_no_span_contains_user_data(exported: list[bytes], text: str) -> None:
    assert exported
    assert not any(text.encode() in body for body in exported)


def test_a_collector_that_does_not_respond_does_not_delay_the_end(sandbox: Sandbox) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        variables = {"DATABASE_URL": UNREACHABLE, "OTEL_EXPORTER_OTLP_ENDPOINT": address}
        with sandbox.serving("serve", **variables, **AUTH_SETTINGS) as service:
            service.send(signal.SIGTERM)
            assert service.exit_code() == 0
            assert "Killing worker" not in service.stdout


def test_nothing_is_traced_without_a_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ENDPOINTS:
        monkeypatch.delenv(name, raising=False)
    config = telemetry()
    assert (config["tracing"], config["tracer_provider"]) == (False, None)

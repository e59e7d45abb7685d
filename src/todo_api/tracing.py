"""OpenTelemetry traces with FastAPI's own support.

Tracing is on if ``OTEL_EXPORTER_OTLP_ENDPOINT`` names a collector and the extra ``tracing`` is
installed. If only the extra is missing, FastAPI logs a warning. If tracing is off, it costs
nothing.
"""

import asyncio
import os
from threading import Thread
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:  # FastAPI imports OpenTelemetry, which reads its variables
    from fastapi.telemetry import TelemetryConfig

ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
# A URL can contain a search text, or an e-mail address as user id.
REDACTED_ATTRIBUTES: Final = ("url.path", "url.query")
EXPORT_TIMEOUT: Final = 2.0  # seconds to send the remaining spans when the service stops


def telemetry() -> "TelemetryConfig":
    """FastAPI's ``telemetry`` argument."""
    is_on = any(os.environ.get(name) for name in ENDPOINTS)
    return {
        "tracing": is_on,
        "tracer_provider": _provider() if is_on else None,
        "auto_configure": is_on,
        "metrics": False,
        "logs": False,
    }


async def stop_tracing(config: "TelemetryConfig") -> None:
    """Send the remaining spans, but do not wait long for a collector that does not respond.

    FastAPI sends them too, but waits 10 s or more for each batch.
    """
    provider: Any = config["tracer_provider"]
    if provider:
        shutdown = Thread(target=provider.shutdown, daemon=True)  # the process can end before it
        shutdown.start()
        await asyncio.to_thread(shutdown.join, EXPORT_TIMEOUT)


def _provider() -> Any:  # noqa: ANN401 - the package is optional
    try:
        from opentelemetry.sdk.trace import Span, SpanProcessor, TracerProvider  # noqa: PLC0415
    except ImportError:
        return None

    class UrlRedactor(SpanProcessor):
        """Removes the URL from spans; the route template remains."""

        def on_start(self, span: Span, parent_context: object = None) -> None:
            del parent_context
            span.set_attributes(dict.fromkeys(REDACTED_ATTRIBUTES, "redacted"))

    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(UrlRedactor())
    return provider

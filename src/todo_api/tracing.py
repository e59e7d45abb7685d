"""Traces with FastAPI's own OpenTelemetry support, where they are wanted; else at no cost.

They are where ``OTEL_EXPORTER_OTLP_ENDPOINT`` names a collector and the extra ``tracing`` is
installed. Should only the latter be missing, FastAPI says so in the log.
"""

import os
from typing import Any, Final

from fastapi.telemetry import TelemetryConfig

ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
# An address may hold what a user searches for, or an e-mail address as a user's id.
PERSONAL: Final = ("url.path", "url.query")


def telemetry() -> TelemetryConfig:
    """The app's setting of that name."""
    is_on = any(os.environ.get(name) for name in ENDPOINTS)
    return {
        "tracing": is_on,
        "tracer_provider": _provider() if is_on else None,
        "auto_configure": is_on,
        "metrics": False,
        "logs": False,
    }


def _provider() -> Any:  # noqa: ANN401 - its package may be absent
    try:
        from opentelemetry.sdk.trace import Span, SpanProcessor, TracerProvider  # noqa: PLC0415
    except ImportError:
        return None

    class WithoutAddress(SpanProcessor):
        """Leaves the route's template as the only word on where a request went."""

        def on_start(self, span: Span, parent_context: object = None) -> None:
            del parent_context
            span.set_attributes(dict.fromkeys(PERSONAL, "withheld"))

    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(WithoutAddress())
    return provider

"""Limits the influence of variables that libraries read when they are imported."""

import os
from typing import Final

from todo_api.server.settings import ConfigurationError
from todo_api.tracing import ENDPOINTS

# Of prometheus-client. ``serve`` sets the first one itself if there are several workers.
_MULTIPROCESS: Final = ("PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir")
_TELEMETRY: Final = "OTEL_"


def prepare_environment() -> None:
    """Call it before FastAPI and prometheus-client are imported.

    Removes variables that must have no influence: those of prometheus-client, and without a
    collector those of OpenTelemetry. Raises ConfigurationError if OpenTelemetry rejects a variable.
    """
    for name in _MULTIPROCESS:
        os.environ.pop(name, None)
    names = [name for name in os.environ if name.startswith(_TELEMETRY)]
    if any(os.environ.get(name) for name in ENDPOINTS):
        _import_telemetry(names)
        return
    for name in names:
        del os.environ[name]


def _import_telemetry(names: list[str]) -> None:
    try:
        import opentelemetry.propagate  # noqa: PLC0415 - only if there is a collector
        import opentelemetry.sdk.trace  # noqa: F401, PLC0415
    except ImportError:
        return  # the extra is not installed, which is logged later
    except ValueError as error:
        raise ConfigurationError(
            f"OpenTelemetry rejects a value ({str(error).rstrip('.')}): correct one of "
            f"{', '.join(sorted(names))}"
        ) from None

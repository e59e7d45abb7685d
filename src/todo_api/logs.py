"""Structured logging: one JSON object per line, or coloured lines for people on a terminal."""

import logging.config
import sys
from traceback import format_tb
from types import TracebackType
from typing import Any, Final, Literal

import orjson
import structlog

Format = Literal["json", "console"]


def _places(exc_info: tuple[type[BaseException], BaseException, TracebackType | None]) -> str:
    """Where it happened, through all causes; without their texts, which may hold a user's."""
    told: list[str] = []
    exception: BaseException | None = exc_info[1]
    while exception is not None:
        places = "".join(format_tb(exception.__traceback__))
        name = type(exception).__qualname__
        told.insert(0, f"Traceback (most recent call last):\n{places}{name}")
        hidden = exception.__suppress_context__
        exception = exception.__cause__ or (None if hidden else exception.__context__)
    return "\n\n".join(told)


_SHARED: Final[list[Any]] = [
    structlog.contextvars.merge_contextvars,
    structlog.processors.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
    structlog.processors.ExceptionRenderer(_places),
]


def configure_logs(level: str, log_format: Format | None) -> None:
    """Log to standard output: as asked, or for people if that is a terminal, else as JSON."""
    is_json = _is_json(log_format)
    structlog.configure(
        processors=[*_SHARED, _json_bytes() if is_json else structlog.dev.ConsoleRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.BytesLoggerFactory()
        if is_json
        else structlog.PrintLoggerFactory(),
        cache_logger_on_first_use=True,
    )
    logging.config.dictConfig(library_logs(log_format))


def silence_logs() -> None:
    """Log nothing of ours: for commands, which say what is wrong in sentences."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("critical"))


def library_logs(log_format: Format | None) -> dict[str, Any]:
    """``logging.config`` for what libraries say: the same form, from warnings on."""
    renderer = (
        structlog.processors.JSONRenderer()
        if _is_json(log_format)
        else structlog.dev.ConsoleRenderer()
    )
    formatter = {
        "()": structlog.stdlib.ProcessorFormatter,
        "foreign_pre_chain": [*_SHARED, structlog.stdlib.add_logger_name],
        "processors": [structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
    }
    handler = {
        "class": "logging.StreamHandler",
        "stream": "ext://sys.stdout",
        "formatter": "structlog",
    }
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"structlog": formatter},
        "handlers": {"out": handler},
        "loggers": {},
        "root": {"level": "WARNING", "handlers": ["out"]},
    }


def _is_json(log_format: Format | None) -> bool:
    return log_format == "json" or (log_format is None and not sys.stdout.isatty())


def _json_bytes() -> structlog.processors.JSONRenderer:
    return structlog.processors.JSONRenderer(serializer=_to_json)


def _to_json(event: Any, **_: Any) -> bytes:  # noqa: ANN401 - structlog's signature
    return orjson.dumps(event, default=repr)

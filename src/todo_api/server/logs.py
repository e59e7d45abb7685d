"""Structured logging: one JSON object per line, or coloured lines for people on a terminal."""

import asyncio
import logging.config
import sys
from datetime import UTC, datetime
from select import PIPE_BUF
from traceback import format_tb
from types import TracebackType
from typing import Any, Final, Literal

import orjson
import structlog
from structlog.typing import EventDict

from todo_api.log_context import merge_context

Format = Literal["json", "console"]


def _format_traceback(
    exc_info: tuple[type[BaseException], BaseException, TracebackType | None],
) -> str:
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


_render_exception: Final = structlog.processors.ExceptionRenderer(_format_traceback)
_SHARED: Final[list[Any]] = [
    merge_context,
    structlog.processors.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
    _render_exception,
]


def configure_logs(level: str, log_format: Format | None) -> None:
    """Log to standard output: as asked, or for people if that is a terminal, else as JSON."""
    output = BufferedStdout()
    is_json = _is_json(log_format)
    structlog.configure(
        processors=[merge_context, _json_line]
        if is_json
        else [*_SHARED, structlog.dev.ConsoleRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=(lambda *_: output) if is_json else structlog.PrintLoggerFactory(),
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


class BufferedStdout:
    """Standard output for a structlog logger: what one turn of the event loop says, at its end.

    That is one system call, unless it is more than a pipe takes as a whole (POSIX, PIPE_BUF): so
    lines that are no longer than that do not run into those of other workers. Errors, and lines
    where no loop runs, are written at once.
    """

    def __init__(self) -> None:
        self._lines: list[bytes] = []
        self._size = 0
        self._loop: asyncio.AbstractEventLoop | None = None  # which will write them

    def info(self, line: bytes) -> None:
        """Write the line before the loop waits for anything."""
        if self._size + len(line) > PIPE_BUF:
            self._write()
        self._lines.append(line)
        self._size += len(line)
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self._write()
            return
        if loop is not self._loop:
            self._loop = loop
            loop.call_soon(self._end_turn)

    debug = warning = info

    def error(self, line: bytes) -> None:
        """Write the line now, after those that came before it."""
        self.info(line)
        self._write()

    critical = error

    def _end_turn(self) -> None:
        self._loop = None
        self._write()

    def _write(self) -> None:
        if self._lines:
            lines, self._lines, self._size = self._lines, [], 0
            sys.stdout.buffer.write(b"".join(lines))
            sys.stdout.buffer.flush()


def _json_line(logger: object, level: str, event: EventDict) -> bytes:
    """A processor: the rest of ``_SHARED``, and JSON, in one step that takes half as long.

    A time with no fraction of a second is written without one.
    """
    if "exc_info" in event:
        event = _render_exception(logger, level, event)
    event["level"] = level
    event["time"] = datetime.now(UTC)
    return orjson.dumps(event, repr, orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE)


def _is_json(log_format: Format | None) -> bool:
    return log_format == "json" or (log_format is None and not sys.stdout.isatty())

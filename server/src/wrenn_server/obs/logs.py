"""Logs: one JSON object a line on stderr, with `action=` as the stable word for machines."""

import logging
import sys
from typing import TextIO, cast

import structlog


class Lines:
    """A text stream for loggers that never fails: a full disk or a reader that has gone away would end what is told about.

    What cannot be written is lost; a line that was broken off is ended by the next one that can."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._torn = False

    def write(self, text: str) -> int:
        try:
            self._file.write(f"\n{text}" if self._torn else text)
            self._file.flush()
        except OSError:
            self._torn = True
        else:
            self._torn = False
        return len(text)

    def flush(self) -> None:
        """Nothing waits."""


def set_up(program: str, *, level: str = "info") -> None:
    """Configures structlog and the standard library's loggers for one program. Called once, by its `main`."""
    lines = Lines(sys.stderr)
    minimum = logging.getLevelNamesMapping().get(level.upper(), logging.INFO)
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.dict_tracebacks,
    ]
    structlog.configure(
        processors=[*shared, structlog.processors.JSONRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(minimum),
        logger_factory=structlog.WriteLoggerFactory(cast("TextIO", lines)),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(program=program)
    handler = logging.StreamHandler(lines)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(minimum, logging.WARNING))

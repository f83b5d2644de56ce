"""Structured logs on stderr: lines for people on a terminal, JSON for machines elsewhere."""

import logging
import sys

import structlog

# Without local variables: they hold what callers sent.
TRACEBACKS = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)


def configure(level: str, form: str) -> None:
    """Args:
    level: debug, info, warning or error.
    form: auto, console or json.
    """
    if form == "auto":
        form = "console" if sys.stderr.isatty() else "json"
    renderers: list[structlog.typing.Processor] = [structlog.processors.JSONRenderer()]
    if form == "console":
        renderers = [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
    else:
        renderers.insert(0, structlog.processors.ExceptionRenderer(TRACEBACKS))
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *renderers,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )

"""Logs: one line an event, safe to show on a terminal, without secrets."""

from __future__ import annotations

import logging
import re
import sys
import time

import msgspec

_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")
# Libraries that tell at level info what is of interest to nobody but their authors.
_TALKERS = ("alembic",)
_SECRET = re.compile(
    r"(?i)(bearer\s+|x-api-key['\"]?\s*[:=]\s*['\"]?|x-geniehive-node-key['\"]?\s*[:=]\s*['\"]?)([^\s'\",;]+)"
)


def escape(text: str) -> str:
    """The text on one line: control characters, ANSI and line ends become visible escapes."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def redact(text: str) -> str:
    """The text with what follows a credential's name blotted out."""
    return _SECRET.sub(r"\1***", text)


class LineFormatter(logging.Formatter):
    """`time level component logger: message`, in UTC; an exception becomes part of the line."""

    converter = staticmethod(time.gmtime)

    def __init__(self, component: str) -> None:
        super().__init__()
        self._component = component

    def format(self, record: logging.LogRecord) -> str:
        """See logging.Formatter."""
        stamp = f"{self.formatTime(record, '%Y-%m-%dT%H:%M:%S')}.{int(record.msecs):03d}Z"
        return f"{stamp} {record.levelname.lower():7} {self._component} {record.name}: {self.text(record)}"

    def text(self, record: logging.LogRecord) -> str:
        """The message, and the trace where there is one."""
        message = record.getMessage()
        if record.exc_info:
            message = f"{message} | {self.formatException(record.exc_info)}"
        return redact(escape(message))


class JsonFormatter(LineFormatter):
    """One JSON object a line: time, level, component, logger, message."""

    def format(self, record: logging.LogRecord) -> str:
        """See logging.Formatter."""
        line = {
            "time": f"{self.formatTime(record, '%Y-%m-%dT%H:%M:%S')}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "component": self._component,
            "logger": record.name,
            "message": self.text(record),
        }
        return msgspec.json.encode(line).decode()


def configure_logging(component: str, level: str = "info", *, json: bool = False) -> None:
    """Send every log of this process to standard error, one safe line each.

    ValueError if the level is not one of debug, info, warning, error.
    """
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise ValueError(f"log level {level!r}: choose debug, info, warning or error")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(component) if json else LineFormatter(component))
    logging.basicConfig(level=number, handlers=[handler], force=True)
    for talker in _TALKERS:
        logging.getLogger(talker).setLevel(number if number <= logging.DEBUG else max(number, logging.WARNING))

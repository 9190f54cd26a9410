"""This module writes the log, as lines for people or as JSON objects for what collects logs."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime

FIELDS = ("node", "vm", "policy")
"""What a message may be about: an attribute of a log record, given by ``extra=``, and a field of the JSON object."""


class JSONFormatter(logging.Formatter):
    """A JSONFormatter writes each record as one JSON object in one line.

    Its fields are time (RFC 3339, UTC), level, logger and message; node, vm and policy where the message is about one;
    exception, the traceback, where there is one.
    """

    def __init__(self, node: str | None = None) -> None:
        """Give ``node`` as the node of each message that names none."""
        super().__init__()
        self._node = node

    def format(self, record: logging.LogRecord) -> str:
        """Return a record's line."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        about = {"node": self._node} | {name: getattr(record, name) for name in FIELDS if hasattr(record, name)}
        line |= {name: str(value) for name, value in about.items() if value is not None}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def set_up(level: str, style: str, node: str | None = None) -> None:
    """Write messages of ``level`` and above to stderr.

    Args:
        level: the name of a level of logging.
        style: ``text`` or ``json``.
        node: the node that all messages are about, unless a message says otherwise; None if there is none.
    """
    handler = logging.StreamHandler()
    text = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler.setFormatter(JSONFormatter(node) if style == "json" else text)
    logging.basicConfig(level=level, handlers=[handler])
    if level != "DEBUG":
        logging.getLogger("kopf").setLevel(logging.WARNING)

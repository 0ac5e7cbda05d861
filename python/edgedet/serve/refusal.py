"""A request that is not run, and what its client is told."""

from __future__ import annotations

import json


class RefusedError(Exception):
    """Ends a request with an HTTP status and a message.

    Attributes:
        status: Of HTTP.
        reason: One word, for the metrics.
        message: Expected, got, remedy.
    """

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status, self.reason, self.message = status, reason, message

    @property
    def body(self) -> bytes:
        """What the client gets: JSON in the form that KServe's protocol asks for."""
        return error_body(self.message)


def error_body(message: str) -> bytes:
    """The one form of an error."""
    return json.dumps({"error": message}).encode()

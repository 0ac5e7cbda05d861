"""What is wrong, or may be, and what helps."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Finding:
    """One finding.

    Attributes:
        name: Short, for JSON.
        text: What was found.
        remedy: What helps.
        sources: Links to where it was reported.
    """

    name: str
    text: str
    remedy: str
    sources: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "sources": list(self.sources)}

"""What a sweep has measured so far, one entry per engine: interrupted, it goes on where it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgedet.files import write_atomically


@dataclass(frozen=True)
class Journal:
    """A folder with one JSON file per measurement, named after a digest of everything that it depends on."""

    folder: Path

    def read(self, key: Mapping[str, Any]) -> dict[str, Any] | None:
        """What was measured under a key; None if nothing was, or the file is damaged."""
        try:
            document = json.loads(self.path(key, "json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        valid = isinstance(document, dict) and document.get("key") == key and isinstance(document.get("value"), dict)
        return document["value"] if valid else None

    def write(self, key: Mapping[str, Any], value: Mapping[str, Any]) -> None:
        """Keeps a measurement."""
        self.folder.mkdir(parents=True, exist_ok=True)
        content = json.dumps({"key": key, "value": value}, indent=1) + "\n"
        write_atomically(self.path(key, "json"), content.encode())

    def path(self, key: Mapping[str, Any], ending: str) -> Path:
        """A file of this key."""
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        return self.folder / f"{digest[:20]}.{ending}"

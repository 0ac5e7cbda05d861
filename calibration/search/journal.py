"""What a search has measured so far, in one JSON file: it can be interrupted, read, and its answer built again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from calibration.collect import CollectOptions
from calibration.observers import METHODS, Method
from calibration.placement import PlacementOptions
from calibration.quantize import QuantizeOptions
from edgedet import InvalidInputError
from edgedet.files import write_atomically
from edgedet.verdict import CANDIDATES, Half

FORMAT = "edgedet.search"
VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Everything that sets one candidate apart from another.

    Attributes:
        precision: "int8", or a half type that the engine runs the float model in; nothing else matters then.
        observer: see `QuantizeOptions`.
        percentile: likewise.
        alpha: likewise.
        keep_float: names of the layers left in float among those that the rules allow in int8.
    """

    precision: Literal["int8", Half] = "int8"
    observer: Method = "percentile"
    percentile: float = 99.99
    alpha: float = 0.5
    keep_float: tuple[str, ...] = ()

    def options(self, collect: CollectOptions) -> QuantizeOptions:
        """The same as options of `quantize`."""
        return QuantizeOptions(
            observer=self.observer,
            percentile=self.percentile,
            alpha=self.alpha,
            keep_float=self.keep_float,
            placement=PlacementOptions(scope="all"),
            collect=collect,
        )

    def without(self, layers: frozenset[str]) -> Choice:
        """The same with these layers left in float too."""
        return replace(self, keep_float=tuple(sorted({*self.keep_float, *layers})))

    def adding(self, layers: frozenset[str]) -> Choice:
        """The same with these layers in int8 after all."""
        return replace(self, keep_float=tuple(sorted(set(self.keep_float) - layers)))


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One choice and what was measured of it; None where it was not.

    Attributes:
        choice: what was tried.
        why: what the search wanted to know.
        layers: number of layers in int8.
        divergence: of the detections on the probe images, in [0, 1].
        ratio: time against the float engine, from frame to detections.
        ms: median time.
        ap: on the images of the search.
        drop: of AP.
        drop_se: standard error of `drop`.
    """

    choice: Choice
    why: str = ""
    layers: int = 0
    divergence: float | None = None
    ratio: float | None = None
    ms: float | None = None
    ap: float | None = None
    drop: float | None = None
    drop_se: float | None = None


def value_of(value: float | None) -> float:
    """A figure of a candidate that has been measured."""
    assert value is not None
    return value


@dataclass
class Journal:
    """The file.

    Attributes:
        path: where it is.
        about: what the measurements depend on; JSON values.
        candidates: by choice, in the order they were first tried.
        answer: set when the search has finished.
        layer_losses: time that each layer loses in int8 by the engine's counters, as a share of the time of all layers
            in float, by node; below 0 it gains. None where it was not measured.
    """

    path: Path
    about: dict[str, Any]
    candidates: dict[Choice, Candidate] = field(default_factory=dict)
    answer: dict[str, Any] | None = None
    layer_losses: dict[str, float] | None = None

    @staticmethod
    def open(path: Path, about: dict[str, Any]) -> Journal:
        """Continue a search, or begin one.

        Raises:
            InvalidInputError: the file is another search's.
        """
        if not path.exists():
            return Journal(path, about)
        document = read_search(path)
        changed = sorted(key for key in about if document["about"].get(key) != about[key])
        if changed:
            raise InvalidInputError(
                f"{path}: expected a search of the same {', '.join(changed)}, got one of another; "
                "choose another --out, or delete it to begin again"
            )
        candidates = [_candidate(path, entry) for entry in document["candidates"]]
        known = {entry.choice: entry for entry in candidates}
        return Journal(path, about, known, document.get("answer"), _layer_losses(path, document.get("layer_losses")))

    def note(self, candidate: Candidate) -> None:
        """Keep what is known of a candidate, on the disk too."""
        self.candidates[candidate.choice] = candidate
        self.save()

    def note_layers(self, losses: dict[str, float]) -> None:
        """Keep what the engine's counters said of the layers, on the disk too."""
        self.layer_losses = losses
        self.save()

    def document(self) -> dict[str, Any]:
        """Everything, as JSON values."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "about": self.about,
            "answer": self.answer,
            "layer_losses": self.layer_losses,
            "candidates": [asdict(candidate) for candidate in self.candidates.values()],
        }

    def save(self) -> None:
        """Write the file."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path, (json.dumps(self.document(), indent=1) + "\n").encode())


def read_search(path: Path) -> dict[str, Any]:
    """The document of a search.

    Raises:
        InvalidInputError: the file is not one of this version.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as cause:
        raise InvalidInputError(f"{path}: expected the search.json of a search, got: {cause}") from cause
    if not isinstance(document, dict) or document.get("format") != FORMAT or document.get("version") != VERSION:
        raise InvalidInputError(f"{path}: expected {FORMAT} version {VERSION}, got something else; search again")
    if not isinstance(document.get("about"), dict) or not isinstance(document.get("candidates"), list):
        raise InvalidInputError(f"{path}: damaged; search again")
    return document


def read_choice(path: Path) -> Choice:
    """The choice that a finished search answered with.

    Raises:
        InvalidInputError: the file is no finished search, or its answer is the float model.
    """
    answer = read_search(path).get("answer")
    if not isinstance(answer, dict):
        raise InvalidInputError(f"{path}: expected a finished search, got one without an answer; run it again")
    if answer.get("precision") != "int8":
        raise InvalidInputError(f"{path}: the answer is {answer.get('precision')}, so there is nothing to quantise")
    return _choice(path, answer.get("choice"))


def _candidate(path: Path, entry: object) -> Candidate:
    if not isinstance(entry, Mapping) or set(entry) - {part.name for part in fields(Candidate)}:
        raise InvalidInputError(f"{path}: damaged candidate; delete the file to begin again")
    numbers = {key: entry.get(key) for key in ("divergence", "ratio", "ms", "ap", "drop", "drop_se")}
    if not all(value is None or isinstance(value, (int, float)) for value in numbers.values()):
        raise InvalidInputError(f"{path}: damaged candidate; delete the file to begin again")
    return Candidate(
        choice=_choice(path, entry.get("choice")),
        why=str(entry.get("why", "")),
        layers=int(entry.get("layers", 0)),
        **numbers,
    )


def _layer_losses(path: Path, entry: object) -> dict[str, float] | None:
    if entry is None:
        return None
    if not isinstance(entry, Mapping) or not all(isinstance(value, (int, float)) for value in entry.values()):
        raise InvalidInputError(f"{path}: damaged layer times; delete the file to begin again")
    return {str(node): float(value) for node, value in entry.items()}


def _choice(path: Path, entry: object) -> Choice:
    try:
        if not isinstance(entry, Mapping) or entry["observer"] not in METHODS:
            raise TypeError("no choice")
        if entry.get("precision", "int8") not in CANDIDATES:
            raise TypeError(f"precision '{entry['precision']}'")
        return Choice(
            precision=entry.get("precision", "int8"),
            observer=entry["observer"],
            percentile=float(entry["percentile"]),
            alpha=float(entry["alpha"]),
            keep_float=tuple(str(name) for name in entry["keep_float"]),
        )
    except (KeyError, TypeError, ValueError) as cause:
        raise InvalidInputError(f"{path}: damaged choice ({cause}); search again") from cause

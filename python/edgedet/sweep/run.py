"""`edgedet sweep`: measures every contender and writes what came out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgedet import __version__, coco_eval
from edgedet._core import Error, InvalidInputError
from edgedet.bundle import load_model_json
from edgedet.coco_compare import compare, match_run
from edgedet.files import write_atomically
from edgedet.sweep.contenders import Contender, choose_backend, contenders
from edgedet.sweep.journal import Journal
from edgedet.sweep.measure import Alone, Measurements
from edgedet.sweep.plot import plot
from edgedet.sweep.report import as_csv, as_json, as_markdown
from edgedet.sweep.rows import Row, advice, timed

if TYPE_CHECKING:
    from edgedet.sweep.measure import Progress


@dataclass(frozen=True)
class SweepOptions:
    """What is compared, and how long that may take.

    Attributes:
        backend: Name of a backend, or "auto".
        threads: CPU threads of all engines, 0 for the backend's choice.
        limit: First images of the annotation file only, 0 for all.
        turns: Frames that every engine is timed on, by turns.
        max_drop: Loss of AP that the recommendation accepts, as of `python -m calibration verify`.
        also: Further bundles of the same network, whose INT8 models are compared too.
    """

    backend: str = "auto"
    threads: int = 0
    limit: int = 0
    turns: int = 200
    max_drop: float = 0.01
    also: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        if self.threads < 0 or self.limit < 0 or self.turns < 20:
            raise InvalidInputError(f"expected threads >= 0, limit >= 0 and turns >= 20, got {self}")
        if not 0.0 <= self.max_drop <= 1.0:
            raise InvalidInputError(f"expected max_drop in [0, 1], got {self.max_drop}")


@dataclass(frozen=True)
class Sweep:
    """What a sweep found, and a note on what could not be written."""

    rows: Sequence[Row]
    advice: str
    note: str


def sweep(
    bundle: Path,
    *,
    images: Path,
    annotations: Path,
    out: Path,
    options: SweepOptions,
    progress: Progress = lambda stage, done, total: None,
) -> Sweep:
    """Measures accuracy, time and memory of everything that a bundle can run in, and writes `out`/sweep.*.

    Raises:
        InvalidInputError: The images do not fit the annotations.
        BackendError: The backend is not available.
        Error: The float model does not run.
    """
    coco_eval.require_pycocotools()
    backend = choose_backend(options.backend)
    spec = load_model_json(bundle)
    dataset = coco_eval.load_annotations(annotations)
    chosen = dataset.images[: options.limit or None]
    paths = [images / image.file_name for image in chosen]
    if absent := [path for path in paths if not path.is_file()]:
        raise InvalidInputError(f"{absent[0]}: not there; expected the images of {dataset.source} in {images}")
    categories = coco_eval.match_categories(dataset, spec["classes"], spec["category_ids"])
    everyone = contenders(bundle, backend, options.also)
    measurements = Measurements(
        backend, paths, threads=options.threads, journal=Journal(out / "journal"), progress=progress
    )
    alone = {entry: _alone(measurements, entry) for entry in everyone if not entry.same_as}
    running = [entry for entry, result in alone.items() if not result.reason]
    if everyone[0] not in running:
        raise Error(f"the float model does not run, so there is nothing to compare: {alone[everyone[0]].reason}")
    taken = measurements.together(running, turns=options.turns)
    matched = {entry: match_run(alone[entry].detections, dataset, chosen, categories) for entry in running}
    rows = {}
    for entry, result in alone.items():
        if result.reason:
            rows[entry.name] = Row(contender=entry, reason=result.reason)
            continue
        subsets, figures = matched[entry]
        accuracy = compare({"fp32": matched[running[0]][0], "candidate": subsets}, dataset.categories)
        rows[entry.name] = Row(
            contender=entry,
            ap=figures,
            drop=accuracy.drop,
            drop_se=accuracy.drop_se,
            facts=result.facts,
            **timed(taken[running.index(entry)], taken[0]),
        )
    table = [rows[entry.name] if not entry.same_as else _same(entry, rows[entry.same_as]) for entry in everyone]
    first = table[0].facts
    about: dict[str, Any] = {
        "name": spec["name"],
        "bundle": str(bundle),
        "backend": backend["name"],
        "device": first["device"],
        "threads": first["threads"],
        "threads_text": f"{first['threads']} thread{'s' if first['threads'] != 1 else ''}",
        "images": len(chosen),
        "images_in_all": len(dataset.images),
        "turns": options.turns,
        "max_drop": options.max_drop,
        "edgedet": __version__,
    }
    sentence = advice(table, options.max_drop)
    return Sweep(table, sentence, _write(out, table, about, sentence))


def _alone(measurements: Measurements, entry: Contender) -> Alone:
    return Alone({}, [], entry.reason) if entry.reason else measurements.alone(entry)


def _same(entry: Contender, row: Row) -> Row:
    return Row(**{**vars(row), "contender": entry})


def _write(out: Path, rows: Sequence[Row], about: dict[str, Any], sentence: str) -> str:
    write_atomically(out / "sweep.csv", as_csv(rows))
    write_atomically(out / "sweep.md", as_markdown(rows, about, sentence))
    write_atomically(out / "sweep.json", as_json(rows, about, sentence))
    try:
        write_atomically(out / "sweep.png", plot(rows, about, about["max_drop"]))
    except ModuleNotFoundError as error:
        return f"no sweep.png, because {error.name} is not installed; run: pip install matplotlib"
    return ""

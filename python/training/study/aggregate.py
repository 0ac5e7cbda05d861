"""What the runs of a study say together: means, paired differences with intervals, what they cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any, Final

from edgedet import InvalidInputError
from training.study.grid import BASELINE
from training.study.records import FAILED, RESULT, STUDY, read_record, row_name

METRICS: Final = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")
CONFIDENCE: Final = 0.95


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation; the latter is None for one value."""

    mean: float
    std: float | None
    count: int


@dataclass(frozen=True)
class Paired:
    """AP of a method minus AP of the baseline, each pair of runs of one seed.

    low, high: Student's t interval of the mean at CONFIDENCE, with count - 1 degrees of freedom; None for one pair.
    by_seed: the differences. missing: planned seeds without a pair.
    """

    mean: float
    low: float | None
    high: float | None
    by_seed: Mapping[int, float]
    missing: tuple[int, ...]


@dataclass(frozen=True)
class Row:
    """A method with a factor of its weights.

    val: metrics on the real validation split, None where that has no such objects. select: AP on the images that
    checkpoints were picked on. recovered: the mean difference as a share of the AP that the best of its teachers is
    ahead of the baseline. seconds_per_step: median of the runs'. cost: the same relative to the baseline.
    peak_memory: the largest, bytes. failed: seeds and why. missing: seeds without result or failure.
    """

    method: str
    weight: float
    options: Mapping[str, Any]
    seeds: tuple[int, ...]
    val: Mapping[str, Spread | None]
    select: Spread | None
    difference: Paired | None
    teacher: str | None
    recovered: float | None
    seconds_per_step: float | None
    cost: float | None
    peak_memory: int | None
    failed: Mapping[int, str]
    missing: tuple[int, ...]

    @property
    def name(self) -> str:
        """As the folder is called."""
        return row_name(self.method, self.weight)


@dataclass(frozen=True)
class Summary:
    """A study so far. teachers: their metrics on the real validation split. notes: what a reader has to know."""

    rows: tuple[Row, ...]
    teachers: Mapping[str, Mapping[str, float]]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """In json's types."""
        rows = [{"name": row.name, **asdict(row)} for row in self.rows]
        return {"rows": rows, "teachers": dict(self.teachers), "notes": list(self.notes), "confidence": CONFIDENCE}


def summarise(out: Path) -> Summary:
    """Reads a study, finished or not. Raises InvalidInputError where there is none, or a record is broken."""
    study = read_record(out / STUDY)
    if study is None:
        raise InvalidInputError(f"{out}: expected the folder of a study, got none; make it with ablate")
    teachers = {}
    for name in study["teachers"]:
        record = read_record(out / f"teacher-{name}.json") or {}
        if record.get("val"):
            teachers[name] = record["val"]
    planned: dict[tuple[str, float], list[Mapping[str, Any]]] = {}
    for run in study["runs"]:
        planned.setdefault((run["method"], run["weight"]), []).append(run)
    results = {run["folder"]: read_record(out / run["folder"] / RESULT) for run in study["runs"]}
    baseline = [result for run in planned[BASELINE, 1.0] if (result := results[run["folder"]])]
    rows = [_row(out, key, runs, results, baseline, teachers) for key, runs in planned.items()]
    return Summary(tuple(rows), teachers, tuple(_notes(out, rows, results)))


def spread(values: Sequence[float]) -> Spread | None:
    """Of values that are there; None for none."""
    if not values:
        return None
    return Spread(fmean(values), stdev(values) if len(values) > 1 else None, len(values))


def paired(values: Mapping[int, float], baseline: Mapping[int, float], seeds: Sequence[int]) -> Paired | None:
    """Differences of the values of each seed; None where no seed has both."""
    by_seed = {seed: values[seed] - baseline[seed] for seed in seeds if seed in values and seed in baseline}
    if not by_seed:
        return None
    missing = tuple(seed for seed in seeds if seed not in by_seed)
    differences = list(by_seed.values())
    mean, count = fmean(differences), len(differences)
    if count == 1:
        return Paired(mean, None, None, by_seed, missing)
    from scipy.stats import t

    half = float(t.ppf((1 + CONFIDENCE) / 2, count - 1)) * stdev(differences) / math.sqrt(count)
    return Paired(mean, mean - half, mean + half, by_seed, missing)


def recovered_share(difference: float, baseline: float, teacher: float) -> float | None:
    """A mean difference as a share of the teacher's lead; None where the teacher does not lead."""
    return difference / (teacher - baseline) if teacher > baseline else None


def _row(
    out: Path,
    key: tuple[str, float],
    runs: Sequence[Mapping[str, Any]],
    results: Mapping[str, dict[str, Any] | None],
    baseline: Sequence[Mapping[str, Any]],
    teachers: Mapping[str, Mapping[str, float]],
) -> Row:
    method, weight = key
    done = {run["seed"]: result for run in runs if (result := results[run["folder"]])}
    seeds = tuple(run["seed"] for run in runs)
    failures = {run["seed"]: read_record(out / run["folder"] / FAILED) for run in runs if run["seed"] not in done}
    failed = {seed: str(failure["why"]) for seed, failure in failures.items() if failure}
    own, base = ({each["seed"]: each["val"]["AP"] for each in every} for every in (done.values(), baseline))
    difference = None if method == BASELINE else paired(own, base, seeds)
    followed = {name: teachers[name]["AP"] for each in done.values() for name in each["teachers"] if name in teachers}
    teacher = max(followed, key=lambda name: followed[name], default=None)
    recovered = None
    if difference and teacher:
        mean = fmean(base[seed] for seed in difference.by_seed)
        recovered = recovered_share(difference.mean, mean, followed[teacher])
    seconds, base_seconds = (
        median([each["seconds_per_step"] for each in every]) if every else None for every in (done.values(), baseline)
    )
    return Row(
        method=method,
        weight=weight,
        options=next((each["options"] for each in done.values()), {}),
        seeds=tuple(done),
        # Evaluation says -1 where there are no objects of a size.
        val={m: spread([v for each in done.values() if (v := each["val"][m]) >= 0]) for m in METRICS},
        select=spread([each["select"]["AP"] for each in done.values()]),
        difference=difference,
        teacher=teacher,
        recovered=recovered,
        seconds_per_step=seconds,
        cost=seconds / base_seconds if seconds and base_seconds else None,
        peak_memory=max((each["peak_memory"] for each in done.values() if each["peak_memory"]), default=None),
        failed=failed,
        missing=tuple(seed for seed in failures if seed not in failed),
    )


def _notes(out: Path, rows: Sequence[Row], results: Mapping[str, dict[str, Any] | None]) -> list[str]:
    """What stands between a reader and trust in the figures."""
    notes = []
    for row in rows:
        notes += [f"{row.name}, seed {seed}: failed ({why})" for seed, why in row.failed.items()]
        if row.missing:
            notes.append(f"{row.name}, seeds {_listed(row.missing)}: not done yet")
        without = [seed for seed in row.seeds if row.difference is None or seed not in row.difference.by_seed]
        if row.method != BASELINE and without:
            notes.append(f"{row.name}, seeds {_listed(without)}: no baseline of that seed to compare with")
        if row.options:
            own = ", ".join(f"{name} {value}" for name, value in row.options.items())
            notes.append(f"{row.name}: differs from the others in options of its own ({own})")
    done = [result for result in results.values() if result]
    for what, of in (("versions", "versions"), ("machines", "machine")):
        if (kinds := {str(sorted(result[of].items(), key=str)) for result in done}) and len(kinds) > 1:
            doubt = "seconds per step do not compare" if of == "machine" else "figures may differ for that reason too"
            notes.append(f"runs are of {len(kinds)} different {what}: {doubt}")
    others = sorted(str(file.parent.relative_to(out)) for file in out.glob(f"*/seed-*/{RESULT}"))
    if left := [folder for folder in others if folder not in results]:
        notes.append(f"results that the grid no longer names, left out here: {', '.join(left)}")
    if len([row for row in rows if row.method != BASELINE]) > 1:
        notes.append(
            f"each interval is for one comparison; of many, some exclude zero by chance ({1 - CONFIDENCE:.0%} of those "
            f"without effect)"
        )
    return notes


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))

"""From a grid to its runs: method x weight x seed, each with its whole configuration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgedet import InvalidInputError
from training.config import TrainConfig
from training.distillation.terms import parse_terms, write_term
from training.recipes import resolve
from training.study.grid import Grid, Method, said_of
from training.study.records import row_name
from training.study.split import split_files
from training.teachers.attach import fingerprint
from training.teachers.model_folder import HUB
from training.teachers.source import Source, parse_sources

# What of a configuration says where and how fast a run goes on, but not to what end.
_NEUTRAL = ("out", "train_json", "val_json", "device", "threads", "workers", "cache_mb", "eval_batch", "vram_budget")
_FILES = ("weights", "backbone_weights")


@dataclass(frozen=True)
class Run:
    """One run of a study.

    method, weight: which row of the results it belongs to. folder: of the run, in the study's folder. config: as the
    grid says it, not yet resolved. options: what the method has of its own. teachers: whom it follows.
    """

    method: str
    weight: float
    seed: int
    folder: Path
    config: TrainConfig
    options: Mapping[str, Any]
    teachers: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """What a study has to do. Runs come seed by seed, so that a study in progress has whole pairs to show."""

    runs: tuple[Run, ...]
    teachers: tuple[Source, ...]


def plan(grid: Grid) -> Plan:
    """The runs of a grid and their teachers.

    Raises InvalidInputError, naming the method, for options and terms that training refuses, and for two methods whose
    folders or teachers would be mixed up.
    """
    shared = _shared_options(grid)
    sources: dict[str, Source] = {}
    rows: list[tuple[str, list[Run]]] = []
    for method in grid.methods:
        with said_of(f"{grid.file}: methods.{method.name}"):
            for source in (own := _sources(method, grid.file)):
                if sources.setdefault(source.name, source) != source:
                    raise InvalidInputError(
                        f"teacher: expected one teacher called {source.name}, got {source.path} and "
                        f"{sources[source.name].path}; name one of them NAME=PATH"
                    )
            for weight in grid.weights if method.distil else (1.0,):
                name = row_name(method.name, weight)
                if name in [other for other, _ in rows]:
                    raise InvalidInputError(f"expected a folder of its own, got {name} twice; rename it")
                rows.append((name, list(_runs(grid, method, weight, grid.out / name, shared, own))))
    by_seed = zip(*(runs for _, runs in rows), strict=True)
    return Plan(tuple(run for runs in by_seed for run in runs), tuple(sources.values()))


def relevant_inputs(run: Run, data: Mapping[str, Any], prints: dict[str, str]) -> dict[str, Any]:
    """All that a run's figures depend on, in json's types: two runs of the same are the same run.

    data: the identity of the study's images. prints: fingerprints of files so far, to which this adds.
    """
    paths = {name: str(getattr(run.config, name)) for name in _FILES if getattr(run.config, name) is not None}
    sources = parse_sources(run.config.teacher)
    paths |= {f"teacher {source.name}": source.path for source in sources}
    for path in paths.values():
        if path not in prints:
            prints[path] = fingerprint(path)
    # As on a machine without a GPU: which machine a run falls to is no reason to do it again.
    resolved = resolve(replace(run.config, device="cpu", precision="fp32")).to_json()
    dropped = {*_NEUTRAL, *_FILES, "teacher", "teacher_cache"}
    return {
        "config": {name: value for name, value in resolved.items() if name not in dropped}
        | {"precision": run.config.precision},
        "teacher_sizes": {source.name: source.size for source in sources},
        "files": {name: prints[path] for name, path in paths.items()},
        "data": dict(data),
    }


def changes(before: Mapping[str, Any], now: Mapping[str, Any], *, path: str = "") -> list[str]:
    """What differs between two mappings in json's types, in words."""
    found = []
    for key in sorted({*before, *now}):
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            found += changes(old, new, path=f"{path}{key}.")
        elif old != new:
            found.append(f"{path}{key} was {_short(old)}, is {_short(new)}")
    return found


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 24 else f"{text[:16]}…"


def _shared_options(grid: Grid) -> dict[str, Any]:
    """The options of all methods. A cache of teachers fixes the views of images, for methods without teacher too."""
    shared = dict(grid.options)
    if "teacher_cache" in shared and "views" not in shared:
        with said_of(f"{grid.file}: options"):
            like = TrainConfig(**shared, data=Path(), teacher=("any",), distil=("logit",))
            shared["views"] = resolve(replace(like, device="cpu", precision="fp32")).views
    return shared


def _sources(method: Method, file: Path) -> list[Source]:
    """The teachers of a method; relative paths start at the folder of the grid."""
    sources: list[Source] = []
    for source in parse_sources(method.teacher):
        if not source.path.startswith(HUB):
            path = (file.resolve().parent / source.path).resolve()
            if not path.exists():
                raise InvalidInputError(f"teacher: expected a file or folder, got none at {path}; check the path")
            source = replace(source, path=str(path))
        sources.append(source)
    return sources


def _written(source: Source) -> str:
    return f"{source.name}={source.path}" + (f"@{source.size}" if source.size else "")


def _runs(
    grid: Grid, method: Method, weight: float, folder: Path, shared: Mapping[str, Any], sources: list[Source]
) -> Iterator[Run]:
    options = {**shared, **method.options}
    if not method.distil:
        options.pop("teacher_cache", None)
    terms = [
        replace(term, common=replace(term.common, weight=term.common.weight * weight))
        for term in parse_terms(method.distil)
    ]
    for name in _FILES:
        if name in options and not options[name].exists():
            raise InvalidInputError(f"{name}: expected weights, got none at {options[name]}; check the path")
    train, select = split_files(grid.out)
    for seed in grid.seeds:
        run = folder / f"seed-{seed}"
        config = TrainConfig(
            **options,
            train_json=train,
            val_json=select,
            out=run,
            seed=seed,
            teacher=tuple(map(_written, sources)),
            distil=tuple(map(write_term, terms)),
        )
        resolve(replace(config, device="cpu", precision="fp32"))
        names = tuple(source.name for source in sources)
        yield Run(method.name, weight, seed, run, config, method.options, names)

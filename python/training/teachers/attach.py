"""From a configuration to its teachers and its distiller."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgedet import __version__
from edgedet.bundle import InputSpec
from training.config import TrainConfig
from training.data.batches import key_count
from training.data.dataset import CocoDataset
from training.distillation.distiller import Distiller
from training.distillation.terms import METHODS, Need, Term, parse_terms
from training.models.detector import Detector
from training.models.outputs import Widths
from training.teachers.cache import CachedTeacher
from training.teachers.detector import record_attention, widths_of
from training.teachers.gate import try_teacher
from training.teachers.source import Source, open_teacher, parse_sources
from training.teachers.teacher import Teacher
from training.teachers.teachers import Teachers

_CHUNK = 1 << 20


def attach(
    config: TrainConfig,
    model: Detector,
    *,
    dataset: CocoDataset,
    validation: CocoDataset,
    spec: InputSpec,
    device: torch.device,
    say: Callable[[str], None],
) -> tuple[Distiller, Teachers]:
    """The distiller of a student, on its device, and its teachers.

    config: resolved, with teachers. dataset: what is trained on. validation: where teachers are tried. spec: of the
    student's input. say: told about the teachers.
    Raises InvalidInputError for teachers or terms that do not fit, ModelError for a teacher that sees nothing.
    """
    classes = dataset.categories.names
    sources = parse_sources(config.teacher)
    terms = parse_terms(config.distil)
    opened: dict[str, Teacher | CachedTeacher] = {}
    needs = frozenset[Need]().union(*(METHODS[term.method].needs for term in terms))

    def opener(source: Source) -> Callable[[], Teacher]:
        def load() -> Teacher:
            teacher = open_teacher(source, classes).to(device)
            if config.teacher_images:
                say(
                    try_teacher(
                        source.name,
                        teacher,
                        validation,
                        spec=spec,
                        images=config.teacher_images,
                        least=config.teacher_ap,
                        device=device,
                    )
                )
            return teacher

        return load

    for source in sources:
        if config.teacher_cache is None:
            opened[source.name] = opener(source)()
            continue
        cached = opened[source.name] = CachedTeacher(
            config.teacher_cache,
            load=opener(source),
            identity=_identity(config, source, dataset, spec),
            keys=key_count(len(dataset), config.views),
            needs=needs,
            bits=config.cache_bits,
        )
        say(f"teacher cache: {cached.folder}")
    teachers = Teachers(opened, spec)
    if "attention" in needs and any(widths.attention for widths in teachers.widths.values()):
        record_attention(model)
    return make_distiller(config, model, teachers.widths, terms).to(device), teachers


def make_distiller(
    config: TrainConfig, model: Detector, teachers: Mapping[str, Widths], terms: Sequence[Term]
) -> Distiller:
    """A distiller for a student, with fresh projections that depend on the run's seed alone."""
    torch.manual_seed(config.seed)
    return Distiller(
        terms,
        student=widths_of(model, classes=model.config.decoder.num_classes),
        teachers=teachers,
        epochs=config.epochs,
        watched=encoder_transformer(model),
    )


def encoder_transformer(model: Detector) -> list[nn.Parameter]:
    """The parameters of the encoder's self-attention, whose share of the gradient GAM keeps; else of the encoder."""
    for name in ("encoder", "encoder_layers"):
        part = getattr(model.encoder, name, None)
        if isinstance(part, nn.ModuleList):
            return list(part.parameters())
    return list(model.encoder.parameters())


def _identity(config: TrainConfig, source: Source, dataset: CocoDataset, spec: InputSpec) -> dict[str, Any]:
    """All that a teacher's outputs for a view depend on."""
    return {
        "edgedet": __version__,
        "teacher": fingerprint(source.path),
        "size": source.size,
        "classes": list(dataset.categories.names),
        "images": _digest(dataset),
        "spec": asdict(spec) | {"mean": list(spec.mean), "std": list(spec.std)},
        "augmentation": asdict(config.augmentation()),
        "seed": config.seed,
        "views": config.views,
        "precision": config.precision,
    }


def _digest(dataset: CocoDataset) -> str:
    """Of the names and sizes of the files, and of the boxes, after which crops are drawn."""
    digest = hashlib.sha256()
    for sample in dataset.samples:
        digest.update(f"{sample.file.name}:{sample.file.stat().st_size}:{sample.width}x{sample.height}".encode())
        digest.update(sample.boxes.tobytes() + sample.labels.tobytes())
    return digest.hexdigest()


def fingerprint(path: str) -> str:
    """A digest of the files that a teacher is made of; of its name, where it is none of this machine's."""
    root = Path(path)
    if (best := root / "best.safetensors").is_file():
        root = best  # of a run folder, the rest of which changes
    files = sorted(file for file in root.iterdir() if file.is_file()) if root.is_dir() else [root]
    digest = hashlib.sha256(b"" if root.exists() else path.encode())
    for file in files:
        if file.is_file() and (root.is_file() or file.suffix in (".safetensors", ".json", ".onnx")):
            digest.update(file.name.encode())
            with file.open("rb") as stream:
                while chunk := stream.read(_CHUNK):
                    digest.update(chunk)
    return digest.hexdigest()

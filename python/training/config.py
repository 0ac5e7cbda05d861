"""The configuration of a training run: one frozen dataclass, from which the command line is made too."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from edgedet import InvalidInputError
from training.data.augment import Augmentation
from training.schedule import Schedule, ScheduleKind

ModelName = Literal["atto", "femto", "pico"]
PrecisionChoice = Literal["auto", "fp32", "bf16", "fp16"]


def _about(text: str, *, choices: tuple[str, ...] = ()) -> dict[str, Any]:
    """What the command line says about a field."""
    return {"help": text, "choices": choices}


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything a run depends on, besides the data itself. Saved as config.json in the run folder.

    Fields that are None by default are filled in by `recipes.resolve`.
    """

    data: Path | None = field(
        default=None, metadata=_about("dataset folder with train/ and val/, each with instances.json and images/")
    )
    train_json: Path | None = field(
        default=None, metadata=_about("COCO json of the training split, instead of DATA/train/instances.json")
    )
    val_json: Path | None = field(
        default=None, metadata=_about("COCO json of the validation split, instead of DATA/val/instances.json")
    )
    out: Path = field(default=Path("runs/train"), metadata=_about("run folder to make"))

    model: ModelName = field(default="atto", metadata=_about("detector to train", choices=get_args(ModelName)))
    weights: Path | None = field(
        default=None, metadata=_about("safetensors file to start from; heads of other classes are made anew")
    )
    size: int | None = field(
        default=None, metadata=_about("side of the square network input in pixels; the model's own if not given")
    )
    denoising: int | None = field(
        default=None, metadata=_about("denoising queries per image; the model's own if not given, 0 for none")
    )

    epochs: int = field(default=50, metadata=_about("passes over the training images"))
    batch: int = field(default=16, metadata=_about("images per step"))
    lr: float | None = field(default=None, metadata=_about("peak learning rate; the recipe's if not given"))
    backbone_lr: float | None = field(
        default=None, metadata=_about("peak learning rate of the backbone; the recipe's share of --lr if not given")
    )
    weight_decay: float = field(default=1e-4, metadata=_about("AdamW's decay of weight matrices"))
    clip: float = field(default=0.1, metadata=_about("largest gradient norm; 0 for no limit"))
    schedule: ScheduleKind = field(
        default="one-cycle", metadata=_about("shape of the learning rate", choices=get_args(ScheduleKind))
    )
    warmup: float = field(default=0.1, metadata=_about("fraction of the run in which the learning rate rises"))
    flat: float = field(default=0.5, metadata=_about("fraction of the run after which a flat-cosine rate falls"))
    final_lr: float = field(default=0.01, metadata=_about("learning rate at the end, as a fraction of the peak"))
    ema_decay: float | None = field(
        default=None, metadata=_about("decay of the weight average; fitted to the length of the run if not given")
    )
    freeze: tuple[str, ...] = field(
        default=(), metadata=_about("beginnings of names of parameters that stay as they are, such as backbone.stem")
    )
    freeze_norm: bool = field(default=False, metadata=_about("keep the running statistics of every batch norm"))

    flip: float = field(default=0.5, metadata=_about("probability of mirroring left-right"))
    vertical_flip: float = field(
        default=0.0, metadata=_about("probability of mirroring top-bottom, for images that have no up")
    )
    photometric: float = field(
        default=0.5, metadata=_about("probability of changing brightness, contrast, saturation, hue")
    )
    crop: float = field(default=0.0, metadata=_about("probability of an IoU crop"))
    zoom_out: float = field(default=0.0, metadata=_about("probability of shrinking the image on a grey canvas"))
    mosaic: float = field(default=0.0, metadata=_about("probability of putting four images in one"))
    min_box: float = field(default=1.0, metadata=_about("boxes smaller than this many network pixels are dropped"))
    gentle_epochs: int = field(default=0, metadata=_about("last epochs with flips only"))

    seed: int = field(default=0, metadata=_about("seed of everything random"))
    device: str = field(default="auto", metadata=_about("cpu, cuda, cuda:1, ...; auto takes a GPU if there is one"))
    precision: PrecisionChoice = field(
        default="auto",
        metadata=_about(
            "of the forward pass; auto is bf16 (or fp16) on a GPU, fp32 on a CPU", choices=get_args(PrecisionChoice)
        ),
    )
    threads: int = field(default=0, metadata=_about("CPU threads of the network; 0 leaves it to PyTorch"))
    workers: int = field(
        default=-1,
        metadata=_about("threads that prepare images ahead; -1 takes the cores that --threads leaves, at most 8"),
    )
    cache_mb: int = field(default=2048, metadata=_about("memory for decoded training images"))
    eval_every: int = field(
        default=1, metadata=_about("epochs between validations; the last epoch is always validated")
    )
    eval_batch: int = field(default=16, metadata=_about("images per validation step"))

    def __post_init__(self) -> None:
        """Raises InvalidInputError for a value outside its range, naming the option."""
        for name in ("model", "schedule", "precision"):
            choices = next(f for f in fields(self) if f.name == name).metadata["choices"]
            if getattr(self, name) not in choices:
                raise InvalidInputError(f"{name}: expected one of {', '.join(choices)}, got {getattr(self, name)!r}")
        if self.size is not None and (self.size % 32 or not 32 <= self.size <= 2048):
            raise InvalidInputError(f"size: expected a multiple of 32 in [32, 2048], got {self.size}")
        least = {
            "epochs": 1, "batch": 1, "eval_every": 1, "eval_batch": 1, "seed": 0, "threads": 0, "workers": -1,
            "cache_mb": 0, "gentle_epochs": 0, "denoising": 0, "clip": 0, "weight_decay": 0,
        }  # fmt: skip
        for name, minimum in least.items():
            value = getattr(self, name)
            if value is not None and not value >= minimum:
                raise InvalidInputError(f"{name}: expected {minimum} or more, got {value}")
        for name in ("lr", "backbone_lr"):
            value = getattr(self, name)
            if value is not None and not 0.0 < value < 1.0:
                raise InvalidInputError(f"{name}: expected a rate in (0, 1), got {value}")
        if self.ema_decay is not None and not 0.0 <= self.ema_decay < 1.0:
            raise InvalidInputError(f"ema_decay: expected a decay in [0, 1), got {self.ema_decay}")
        if self.data is None and (self.train_json is None or self.val_json is None):
            raise InvalidInputError("data: expected a dataset folder, or both --train-json and --val-json; got neither")
        self.schedule_for(1)
        self.augmentation()

    def schedule_for(self, steps: int) -> Schedule:
        """The learning-rate schedule of a run of that many steps."""
        return Schedule(self.schedule, total=steps, warmup=self.warmup, flat=self.flat, final=self.final_lr)

    def augmentation(self) -> Augmentation:
        """The augmentation settings."""
        return Augmentation(**{f.name: getattr(self, f.name) for f in fields(Augmentation)})

    def to_json(self) -> dict[str, Any]:
        """The configuration in json's types."""
        return {f.name: _plain(getattr(self, f.name)) for f in fields(self)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> TrainConfig:
        """The reverse of `to_json`. Raises InvalidInputError for unknown or unreadable entries."""
        known = {f.name for f in fields(cls)}
        if unknown := sorted(set(content) - known):
            raise InvalidInputError(f"run configuration: expected known options, got {', '.join(unknown)}")
        values = dict(content)
        for name in ("data", "train_json", "val_json", "weights", "out"):
            if values.get(name) is not None:
                values[name] = Path(values[name])
        values["freeze"] = tuple(values.get("freeze", ()))
        try:
            return cls(**values)
        except TypeError as error:
            raise InvalidInputError(f"run configuration: {error}; was it edited?") from error


def read_config(run: Path) -> TrainConfig:
    """Reads config.json of a run folder. Raises InvalidInputError if it is missing or broken."""
    file = run / "config.json"
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidInputError(
            f"{run}: expected a run folder with config.json, got none ({error.strerror})"
        ) from error
    except ValueError as error:
        raise InvalidInputError(f"{file}: expected json, got broken text ({error})") from error
    if not isinstance(content, dict):
        raise InvalidInputError(f"{file}: expected an object, got a {type(content).__name__}")
    return TrainConfig.from_json(content)


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value

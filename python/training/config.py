"""The configuration of a training run: one frozen dataclass, from which the command line is made too."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from edgedet import InvalidInputError
from training.data.policy import Augmentation, Policy, multi_scale_sizes
from training.schedule import Schedule, ScheduleKind

RecipeChoice = Literal["fine-tune", "published"]
Undecayed = Literal["vectors", "backbone-norms", "norms", "biases"]
NormScope = Literal["none", "backbone", "all"]
PrecisionChoice = Literal["auto", "fp32", "bf16", "fp16"]


def _about(text: str, *, choices: tuple[str, ...] = ()) -> dict[str, Any]:
    """What the command line says about a field."""
    return {"help": text, "choices": choices}


_OPEN: Any = None  # for `recipes.resolve` to fill in; the annotation says what the field is from then on


# Options by the closed range that their numbers must be in.
_RANGES = {
    "epochs batch eval_every eval_batch save_every max_bad_steps": (1, math.inf),
    "max_rollbacks micro_batch teacher_images views": (0, math.inf),
    "seed threads cache_mb denoising clip weight_decay warmup_steps ema_warmup restart_epochs iou_match_epochs min_box "
    "multi_scale plain_epochs mix_epochs gentle_epochs": (0, math.inf),
    "workers": (-1, math.inf),
    "warmup flat tail final_lr flip vertical_flip photometric channel_shuffle crop zoom_out mosaic mixup copy_blend "
    "teacher_ap": (0, 1),
    "zoom_limit": (1, math.inf),
    "fill": (0, 255),
}


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything a run depends on, besides the data itself. Saved as config.json in the run folder.

    Fields that are None by default are filled in by `recipes.resolve`, most of them from the model's recipe; the
    annotations of those hold from then on.
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

    model: str = field(default="atto", metadata=_about("detector to train, as `python -m training recipes` lists them"))
    recipe: RecipeChoice = field(
        default="fine-tune",
        metadata=_about(
            "where options that are not given come from: a short run from given weights, or the published training",
            choices=get_args(RecipeChoice),
        ),
    )
    weights: Path | None = field(
        default=None, metadata=_about("checkpoint to start from; heads of other classes are made anew")
    )
    backbone_weights: Path | None = field(
        default=None, metadata=_about("ImageNet weights of the backbone to start from, without --weights")
    )
    size: int = field(
        default=_OPEN, metadata=_about("side of the square network input in pixels; the model's own if not given")
    )
    denoising: int = field(
        default=_OPEN, metadata=_about("denoising queries per image; the model's own if not given, 0 for none")
    )

    epochs: int = field(default=_OPEN, metadata=_about("passes over the training images"))
    batch: int = field(default=_OPEN, metadata=_about("images per step, of all processes together"))
    lr: float = field(default=_OPEN, metadata=_about("peak learning rate; a published one is scaled to --batch"))
    backbone_lr: float = field(
        default=_OPEN, metadata=_about("peak learning rate of the backbone; the recipe's share of --lr if not given")
    )
    backbone_norm_lr: float = field(
        default=_OPEN, metadata=_about("peak learning rate of the backbone's norms; likewise")
    )
    weight_decay: float = field(default=_OPEN, metadata=_about("AdamW's decay"))
    no_decay: tuple[Undecayed, ...] = field(
        default=_OPEN,
        metadata=_about(
            "what is not decayed: vectors (all but matrices), backbone-norms, norms or biases (of encoder and decoder)",
            choices=get_args(Undecayed),
        ),
    )
    clip: float = field(default=_OPEN, metadata=_about("largest gradient norm; 0 for no limit"))
    schedule: ScheduleKind = field(
        default=_OPEN, metadata=_about("shape of the learning rate", choices=get_args(ScheduleKind))
    )
    warmup: float = field(default=_OPEN, metadata=_about("fraction of the run in which the learning rate rises"))
    warmup_steps: int = field(
        default=_OPEN, metadata=_about("steps in which it rises, if that is sooner; 0 leaves it to --warmup")
    )
    flat: float = field(default=_OPEN, metadata=_about("fraction of the run after which a flat-cosine rate falls"))
    tail: float = field(
        default=_OPEN, metadata=_about("fraction of the run at the end of which a flat-cosine rate has fallen already")
    )
    final_lr: float = field(default=_OPEN, metadata=_about("learning rate at the end, as a fraction of the peak"))
    milestones: tuple[int, ...] = field(
        default=_OPEN, metadata=_about("epochs after which a step rate is divided by ten")
    )
    ema_decay: float | None = field(
        default=None, metadata=_about("decay of the weight average; fitted to the length of the run if not given")
    )
    ema_warmup: int | None = field(
        default=_OPEN,
        metadata=_about("steps over which the decay of the average rises; at most a twentieth of the run"),
    )
    restart_epochs: int = field(
        default=_OPEN,
        metadata=_about(
            "last epochs: from the best weights so far with --restart-decay, again after an epoch that is no better"
        ),
    )
    restart_decay: float = field(default=_OPEN, metadata=_about("decay of the weight average after the restart"))
    freeze: tuple[str, ...] = field(
        default=_OPEN, metadata=_about("beginnings of names of parameters that stay as they are, such as backbone.stem")
    )
    freeze_norm: NormScope = field(
        default=_OPEN,
        metadata=_about("batch norms that stay as they are, statistics and weights", choices=get_args(NormScope)),
    )
    iou_match_epochs: int = field(
        default=_OPEN, metadata=_about("last epochs in which queries are matched by score and IoU alone (DEIMv2)")
    )
    compile: bool = field(default=False, metadata=_about("compile backbone and encoder with torch.compile"))

    flip: float = field(default=_OPEN, metadata=_about("probability of mirroring left-right"))
    vertical_flip: float = field(
        default=0.0, metadata=_about("probability of mirroring top-bottom, for images that have no up")
    )
    photometric: float = field(
        default=_OPEN, metadata=_about("probability of changing brightness, contrast, saturation, hue")
    )
    channel_shuffle: float = field(default=_OPEN, metadata=_about("probability of swapping colour channels"))
    crop: float = field(default=_OPEN, metadata=_about("probability of an IoU crop"))
    zoom_out: float = field(default=_OPEN, metadata=_about("probability of shrinking the image on a larger canvas"))
    zoom_limit: float = field(default=_OPEN, metadata=_about("largest side of that canvas, in sides of the image"))
    mosaic: float = field(
        default=_OPEN, metadata=_about("probability of putting four images in one, turned and scaled")
    )
    mixup: float = field(
        default=_OPEN, metadata=_about("probability of blending an image with the one before it in the batch")
    )
    copy_blend: float = field(
        default=_OPEN, metadata=_about("probability of blending in objects of the image before it in the batch")
    )
    fill: int = field(default=_OPEN, metadata=_about("grey level outside of images, 0 to 255"))
    min_box: float = field(default=_OPEN, metadata=_about("boxes smaller than this many network pixels are dropped"))
    multi_scale: int = field(
        default=_OPEN,
        metadata=_about(
            "train at sizes from 0.75 to 1.25 of the network's, which itself is in the list this often; 0 for one size"
        ),
    )
    plain_epochs: int = field(default=_OPEN, metadata=_about("first epochs with flips only"))
    mix_epochs: int = field(
        default=_OPEN, metadata=_about("epochs after which mosaic, mixup and copy-blend end; 0 for no end of their own")
    )
    gentle_epochs: int = field(default=_OPEN, metadata=_about("last epochs with flips only and at one size"))

    teacher: tuple[str, ...] = field(
        default=(),
        metadata=_about(
            "whom to learn from, each PATH or NAME=PATH, with @SIZE for another input size: a run folder, a "
            "checkpoint, an ONNX file, a bundle, or the folder or hub id (hub:ID) of a vision foundation model"
        ),
    )
    distil: tuple[str, ...] = field(
        default=(),
        metadata=_about("how, each METHOD or METHOD:option=value,...; `python -m training methods` lists them"),
    )
    teacher_ap: float = field(
        default=0.05, metadata=_about("a detector as teacher with less AP on validation images is refused")
    )
    teacher_images: int = field(
        default=64, metadata=_about("validation images a teacher is tried on first; 0 for no trial")
    )
    teacher_cache: Path | None = field(
        default=None, metadata=_about("folder that keeps what teachers say about each view of each image")
    )
    cache_bits: int = field(default=16, metadata=_about("of a cached number: 16 (float16) or 8 (for maps and queries)"))
    views: int = field(
        default=_OPEN,
        metadata=_about(
            "augmented views of each image that epochs take in turn; 0 for new ones each epoch, the default without "
            "--teacher-cache; with it 8, or one for each epoch if there are fewer"
        ),
    )

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
        metadata=_about(
            "threads that prepare batches ahead; 0: --threads prepare each when it is due; -1: the cores they leave"
        ),
    )
    cache_mb: int = field(default=2048, metadata=_about("memory for decoded training images"))
    eval_every: int = field(
        default=1, metadata=_about("epochs between validations; the last epoch is always validated")
    )
    eval_batch: int = field(default=16, metadata=_about("images per validation step"))

    save_every: int = field(
        default=1000, metadata=_about("steps between saves of the state, besides the one after every epoch")
    )
    max_bad_steps: int = field(
        default=10,
        metadata=_about(
            "so many steps without a finite loss and gradient, in a row or within five times as many, send the run "
            "back to its last state at half the learning rate"
        ),
    )
    max_rollbacks: int = field(default=3, metadata=_about("how often it may go back before it ends with an error"))
    micro_batch: int = field(
        default=0,
        metadata=_about("images of a process per forward pass; 0 for all that memory allows, halved when it runs out"),
    )
    vram_budget: str | None = field(default=None, metadata=_about("most memory to take of a GPU, such as 4GiB"))

    def __post_init__(self) -> None:
        """Raises InvalidInputError for a value outside its range, naming the option."""
        from training.models.zoo import MODELS  # loads torch, which the command line does not need for its help

        if self.model not in MODELS:
            raise InvalidInputError(f"model: expected one of {', '.join(MODELS)}, got {self.model!r}")
        for option in fields(self):
            choices, value = option.metadata["choices"], getattr(self, option.name)
            given = value if isinstance(value, tuple) else () if value is None else (value,)
            if choices and (wrong := [each for each in given if each not in choices]):
                raise InvalidInputError(f"{option.name}: expected one of {', '.join(choices)}, got {wrong[0]!r}")
        if self.size is not None and (self.size % 32 or not 32 <= self.size <= 2048):
            raise InvalidInputError(f"size: expected a multiple of 32 in [32, 2048], got {self.size}")
        for names, (low, high) in _RANGES.items():
            for name in names.split():
                value = getattr(self, name)
                if value is not None and not low <= value <= high:
                    wanted = f"{low} or more" if high == math.inf else f"a value in [{low}, {high}]"
                    raise InvalidInputError(f"{name}: expected {wanted}, got {value}")
        for name in ("lr", "backbone_lr", "backbone_norm_lr"):
            value = getattr(self, name)
            if value is not None and not 0.0 < value < 1.0:
                raise InvalidInputError(f"{name}: expected a rate in (0, 1), got {value}")
        for name in ("ema_decay", "restart_decay"):
            value = getattr(self, name)
            if value is not None and not 0.0 <= value < 1.0:
                raise InvalidInputError(f"{name}: expected a decay in [0, 1), got {value}")
        if self.weights is not None and self.backbone_weights is not None:
            raise InvalidInputError("backbone_weights: expected no --weights beside it, got both; choose one of them")
        if self.data is None and (self.train_json is None or self.val_json is None):
            raise InvalidInputError("data: expected a dataset folder, or both --train-json and --val-json; got neither")

        if bool(self.teacher) != bool(self.distil):
            there, missing = ("teacher", "distil") if self.teacher else ("distil", "teacher")
            raise InvalidInputError(f"{missing}: expected one beside --{there}, got none; distillation needs both")
        if self.teacher_cache is not None and not self.teacher:
            raise InvalidInputError("teacher_cache: expected a --teacher beside it, got none")
        if self.cache_bits not in (8, 16):
            raise InvalidInputError(f"cache_bits: expected 8 or 16, got {self.cache_bits}")
        if self.views and (self.mixup or self.copy_blend or self.multi_scale):
            raise InvalidInputError(
                "views: expected a run without mixup, copy-blend and multi-scale, in which an image looks the same "
                "whatever else is in its batch; set these three to 0, or leave out --teacher-cache and --views"
            )

    def schedule_for(self, steps: int) -> Schedule:
        """The learning-rate schedule of a run of that many steps. Of a resolved configuration only."""
        return Schedule(
            self.schedule,
            total=steps,
            warmup=self.warmup,
            warmup_steps=self.warmup_steps,
            flat=self.flat,
            tail=self.tail,
            final=self.final_lr,
            milestones=tuple(epoch / self.epochs for epoch in self.milestones),
        )

    def augmentation(self) -> Augmentation:
        """The augmentation settings at their strongest. Of a resolved configuration only."""
        return Augmentation(**{f.name: getattr(self, f.name) for f in fields(Augmentation)})

    def policy(self) -> Policy:
        """Which augmentation and sizes an epoch gets. Of a resolved configuration only."""
        stop = max(0, self.epochs - self.gentle_epochs)
        return Policy(
            augmentation=self.augmentation(),
            start=min(self.plain_epochs, stop),
            mix_stop=min(self.mix_epochs, stop) if self.mix_epochs else stop,
            stop=stop,
            sizes=multi_scale_sizes(self.size, self.multi_scale),
        )

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
        for name in ("data", "train_json", "val_json", "weights", "backbone_weights", "out", "teacher_cache"):
            if values.get(name) is not None:
                values[name] = Path(values[name])
        for name in ("freeze", "no_decay", "milestones", "teacher", "distil"):
            if values.get(name) is not None:
                values[name] = tuple(values[name])
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

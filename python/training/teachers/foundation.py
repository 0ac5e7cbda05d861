"""Vision foundation models as teachers: DINOv2, DINOv3 and SigLIP, as Hugging Face transformers computes them.

Which of its files are read, see `model_folder`: no code of a model and no pickle is ever run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgedet import InvalidInputError, ModelError
from edgedet.extras import needs_extra
from training.models.outputs import TeacherOutput, Widths
from training.teachers.model_folder import HUB, download, first_line, read_licence, read_normalisation, read_tensors
from training.teachers.teacher import Size, Teacher
from training.weights.read import read_json

_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_HALF = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
_STUDENT_STRIDE = 32  # of its coarsest map
_LICENCES = {"dinov2": "Apache-2.0", "dinov3": "DINOv3 License", "siglip": "Apache-2.0"}
_FAMILIES = {  # by model_type in config.json
    "dinov2": "dinov2",
    "dinov2_with_registers": "dinov2",
    "dinov3_vit": "dinov3",
    "dinov3_convnext": "dinov3",
    "siglip": "siglip",
    "siglip_vision_model": "siglip",
    "siglip2": "siglip",
    "siglip2_vision_model": "siglip",
}


class FoundationTeacher(Teacher):
    """A vision foundation model. It offers what it sees in each patch, after its last norm."""

    def __init__(
        self,
        model: nn.Module,
        *,
        patch: int,
        size: Size | None,
        mean: Sequence[float],
        std: Sequence[float],
        description: str,
    ) -> None:
        """model: of transformers, its vision part alone. patch: side of a patch in pixels; of ConvNeXt its stride.

        size: of its input, rounded to whole patches; None for as many patches as the student's coarsest map has cells.
        """
        if size is not None:
            size = (patch * _count(size[0], patch), patch * _count(size[1], patch))
        super().__init__(size=size, mean=mean, std=std)
        self.model = model.eval().requires_grad_(False)
        self.patch, self.description = patch, description
        self.kind = str(getattr(model.config, "model_type", ""))
        with torch.no_grad():
            patches = self.observe(torch.zeros(1, 3, 2 * patch, 3 * patch)).patches
        assert patches is not None
        self.widths = Widths(semantic=patches.shape[1])

    def input_size(self, images: Tensor) -> Size:
        """See `Teacher.input_size`."""
        height, width = images.shape[-2:]
        return self.size or (
            self.patch * _count(height, _STUDENT_STRIDE),
            self.patch * _count(width, _STUDENT_STRIDE),
        )

    def observe(self, images: Tensor) -> TeacherOutput:
        """See `Teacher.observe`."""
        height, width = (side // self.patch for side in images.shape[-2:])
        # CLS and register tokens, where a model has them, come before the patches.
        tokens = self._tokens(images, height, width)[:, -height * width :]
        return TeacherOutput(patches=tokens.transpose(1, 2).unflatten(2, (height, width)))

    def _tokens(self, images: Tensor, height: int, width: int) -> Tensor:
        """(B, N, D), patches last, row by row."""
        if self.kind == "siglip2_vision_model":  # takes any grid of patches, each row by row, its colours last
            patches = images.unflatten(3, (width, self.patch)).unflatten(2, (height, self.patch))
            patches = patches.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
            grids = torch.tensor([[height, width]]).expand(len(images), 2)
            output = self.model(patches, pixel_attention_mask=None, spatial_shapes=grids)
        elif self.kind == "siglip_vision_model":
            output = self.model(images, interpolate_pos_encoding=True)
        else:
            output = self.model(images)
        tokens: Tensor = output.last_hidden_state
        return tokens


def load_foundation(source: str, *, size: Size | None) -> FoundationTeacher:
    """A folder with config.json and safetensors, or `hub:ID` for one of the Hugging Face hub.

    Raises InvalidInputError for anything else and for an unknown type of model, ModelError for weights that do not fit
    its config.json or give numbers that are not finite.
    """
    folder = download(source.removeprefix(HUB)) if source.startswith(HUB) else Path(source)
    stored = read_json(folder / "config.json")
    kind = stored.get("model_type")
    if kind not in tuple(_FAMILIES):
        raise InvalidInputError(
            f"{source}: expected a vision foundation model with model_type {', '.join(_FAMILIES)} in config.json, "
            f"got {kind!r}; choose one of these, or a detector"
        )
    if "quantization_config" in stored:
        raise InvalidInputError(f"{source}: expected float weights, got quantised ones; choose the original model")
    family = _FAMILIES[str(kind)]
    model = _load(folder, str(kind), stored)
    mean, std = read_normalisation(folder, *(_HALF if family == "siglip" else _IMAGENET))
    config: Any = model.config
    patch = 4 * 2 ** (len(config.hidden_sizes) - 1) if kind == "dinov3_convnext" else config.patch_size
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    stated = read_licence(folder)
    licence = f"licence {stated}" if stated else f"the family is published under {_LICENCES[family]}"
    described = f"{kind} from {source}, {millions:.1f} M parameters, patches of {patch} pixels, {licence}"
    try:
        teacher = FoundationTeacher(model, patch=patch, size=size, mean=mean, std=std, description=described)
        finite = all(bool(parameter.isfinite().all()) for parameter in model.parameters())
    except Exception as error:  # whatever a layer says about numbers in config.json that do not fit each other
        raise ModelError(
            f"{source}: expected a model that takes RGB images in square patches, got one that fails "
            f"({first_line(error)}); correct its config.json"
        ) from error
    if not finite:
        raise ModelError(f"{source}: expected finite weights, got NaN or infinite ones; get the model again")
    return teacher


def _count(side: int, stride: int) -> int:
    return max(1, round(side / stride))


def _load(folder: Path, kind: str, stored: Mapping[str, Any]) -> nn.Module:
    """The vision part, float32, with every weight from the folder."""
    made = _class(kind)
    tensors = read_tensors(folder)
    available = sum(tensor.numel() for tensor in tensors.values())
    try:
        config = _config(made, stored["vision_config"] if kind in ("siglip", "siglip2") else stored)
        with _quiet():
            with torch.device("meta"):  # a config.json may ask for any size
                needed = sum(parameter.numel() for parameter in made(config).parameters())
            if needed > available:
                raise ValueError(f"{available} numbers for {needed} parameters")
            # Weights and configuration are handed over, so that it looks for no other file: adapters and checkpoints
            # in shards may be pickles, and a configuration may name code.
            model, report = made.from_pretrained(
                None,
                config=config,
                state_dict=tensors,
                dtype=torch.float32,
                output_loading_info=True,
            )
        if report["missing_keys"]:
            raise ValueError(f"no {sorted(report['missing_keys'])[0]}")
    except Exception as error:  # a damaged configuration raises whatever the part that is made first leads to
        raise ModelError(
            f"{folder}: expected the weights of {kind} as its config.json describes it, got others "
            f"({first_line(error)}); get both files from one place"
        ) from error
    assert isinstance(model, nn.Module)
    return model


def _class(kind: str) -> Any:
    with needs_extra("foundation"):
        import transformers
    return {
        "dinov2": transformers.Dinov2Model,
        "dinov2_with_registers": transformers.Dinov2WithRegistersModel,
        "dinov3_vit": transformers.DINOv3ViTModel,
        "dinov3_convnext": transformers.DINOv3ConvNextModel,
        "siglip": transformers.SiglipVisionModel,
        "siglip_vision_model": transformers.SiglipVisionModel,
        "siglip2": transformers.Siglip2VisionModel,
        "siglip2_vision_model": transformers.Siglip2VisionModel,
    }[kind]


def _config(made: Any, stored: Mapping[str, Any]) -> Any:
    """What is said about the architecture, and nothing else: the rest may name files and kernels to load."""
    import transformers

    common = {field.name for field in fields(transformers.PreTrainedConfig)}
    own = {field.name for field in fields(made.config_class)} - common
    values = {name: value for name, value in stored.items() if name in own and not name.startswith("_")}
    if "vision_use_head" in own:
        values["vision_use_head"] = False  # it pools the patches
    return made.config_class(**values)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the progress bars and reports of transformers."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()

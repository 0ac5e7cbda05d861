"""The names that Hugging Face transformers gives the tensors of these detectors.

RTDetr, RTDetrV2, DFine and Deimv2, as `save_pretrained` writes them and as the modules themselves name them: these
differ since transformers 5.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from edgedet import InvalidInputError, ModelError
from training.weights.names import Rules, rename

Family = Literal["rt_detr", "rt_detr_v2", "d_fine", "deimv2"]
"""`model_type` in config.json."""
FAMILIES: tuple[Family, ...] = get_args(Family)

_BACKBONE: Rules = (
    (r"^model\.(backbone|conv_encoder)\.model\.", "backbone."),
    (r"^(backbone\..*)\.convolution\.", r"\1.conv."),
    (r"^(backbone\..*)\.normalization\.", r"\1.norm."),
)
_RESNET: Rules = (
    *((rf"^backbone\.embedder\.embedder\.{i}\.", f"backbone.conv1.conv1_{i + 1}.") for i in range(3)),
    (r"^backbone\.encoder\.stages\.(\d+)\.layers\.", r"backbone.res_layers.\1.blocks."),
    *((rf"^(backbone\..*)\.layer\.{i}\.", rf"\1.branch2{'abc'[i]}.") for i in range(3)),
    (r"^(backbone\..*)\.shortcut\.1\.", r"\1.short.conv."),
    (r"^(backbone\..*)\.shortcut\.", r"\1.short."),
)
_HGNET: Rules = (
    (r"^backbone\.embedder\.", "backbone.stem."),
    (r"^backbone\.encoder\.stages\.", "backbone.stages."),
)
_COMMON: Rules = (
    (r"^model\.(conv_encoder\.)?encoder_input_proj\.(\d+)\.(0|conv)\.", r"encoder.input_proj.\2.conv."),
    (r"^model\.(conv_encoder\.)?encoder_input_proj\.(\d+)\.(1|norm)\.", r"encoder.input_proj.\2.norm."),
    (r"^model\.encoder\.aifi\.", "encoder.encoder."),
    (r"^model\.encoder\.", "encoder."),
    (r"^model\.decoder_input_proj\.(\d+)\.0\.", r"decoder.input_proj.\1.conv."),
    (r"^model\.decoder_input_proj\.(\d+)\.1\.", r"decoder.input_proj.\1.norm."),
    (r"^model\.enc_output\.0\.", "decoder.enc_output.proj."),
    (r"^model\.enc_output\.1\.", "decoder.enc_output.norm."),
    (r"^model\.(enc_\w+|denoising_class_embed)\.", r"decoder.\1."),
    (r"^(model\.decoder\.)?class_embed\.", "decoder.dec_score_head."),
    (r"^(model\.decoder\.)?bbox_embed\.", "decoder.dec_bbox_head."),
    (r"^model\.decoder\.", "decoder."),
    (r"(layers\.\d+)\.self_attn\.o_proj\.", r"\1.self_attn.out_proj."),
    (r"(layers\.\d+)\.(mlp\.)?(fc1|layers\.0)\.", r"\1.linear1."),
    (r"(layers\.\d+)\.(mlp\.)?(fc2|layers\.1)\.", r"\1.linear2."),
    (r"(layers\.\d+)\.self_attn_layer_norm\.", r"\1.norm1."),
    (r"^(encoder\..*layers\.\d+)\.final_layer_norm\.", r"\1.norm2."),
    (r"^(decoder\.layers\.\d+)\.encoder_attn_layer_norm\.", r"\1.norm2."),
    (r"^(decoder\.layers\.\d+)\.final_layer_norm\.", r"\1.norm3."),
    (r"^(decoder\.layers\.\d+)\.encoder_attn\.", r"\1.cross_attn."),
    (r"\.n_points_scale$", ".num_points_scale"),
)
_ELAN: Rules = (
    (r"^(encoder\.downsample_convs\.\d+)\.conv(\d)\.", r"\1.0.cv\2."),
    (r"^(encoder\.(?:fpn|pan)_blocks\.\d+)\.conv1\.", r"\1.cv1."),
    (r"^(encoder\.(?:fpn|pan)_blocks\.\d+)\.csp_rep1\.", r"\1.cv2.0."),
    (r"^(encoder\.(?:fpn|pan)_blocks\.\d+)\.conv2\.", r"\1.cv2.1."),
    (r"^(encoder\.(?:fpn|pan)_blocks\.\d+)\.csp_rep2\.", r"\1.cv3.0."),
    (r"^(encoder\.(?:fpn|pan)_blocks\.\d+)\.conv3\.", r"\1.cv3.1."),
    (r"^(encoder\.(?:fpn|pan)_blocks\.\d+)\.conv4\.", r"\1.cv4."),
)
_DEIMV2: Rules = (
    (r"^encoder\.down_conv(\d)\.", r"encoder.down_sample\1.mix."),
    (r"^encoder\.bi_fusion_conv\.", "encoder.bi_fusion."),
    (r"^(encoder\.downsample_convs\.\d+)\.conv(\d)\.", r"\1.0.cv\2."),
    (r"^(encoder\.(?:fpn|pan)_block(?:s\.\d+)?)\.conv1\.", r"\1.cv1."),
    (r"^(encoder\.(?:fpn|pan)_block(?:s\.\d+)?)\.conv2\.", r"\1.cv4."),
    *(
        rule
        for index in (1, 2)
        for rule in (
            (rf"^(encoder\.(?:fpn|pan)_block(?:s\.\d+)?)\.csp_rep{index}\.conv2\.", rf"\1.cv{index + 1}.1."),
            (rf"^(encoder\.(?:fpn|pan)_block(?:s\.\d+)?)\.csp_rep{index}\.", rf"\1.cv{index + 1}.0."),
        )
    ),
    (r"^(decoder\.layers\.\d+)\.mlp\.down_proj\.", r"\1.swish_ffn.w3."),
    (r"^(decoder\.layers\.\d+\.(?:norm\d|gateway\.norm))\.weight$", r"\1.scale"),
)
_RULES: Mapping[Family, Rules] = {
    "rt_detr": (*_BACKBONE, *_RESNET, *_COMMON),
    "rt_detr_v2": (*_BACKBONE, *_RESNET, *_COMMON),
    "d_fine": (*_BACKBONE, *_HGNET, *_COMMON, *_ELAN),
    "deimv2": (*_BACKBONE, *_HGNET, *_COMMON, *_DEIMV2),
}
# Tensors that are one in ours: their parts, in the order in which they are laid one after another.
_MERGED = (
    (re.compile(r"^(.*\.self_attn)\.([qkv])_proj\.(weight|bias)$"), "qkv", r"\1.in_proj_\3"),
    (re.compile(r"^(.*)\.mlp\.(gate|up)_proj\.(weight|bias)$"), ("gate", "up"), r"\1.swish_ffn.w12.\3"),
)


def map_names(state: Mapping[str, Tensor], family: Family) -> dict[str, Tensor]:
    """A Hugging Face state by our names, with queries, keys and values in one tensor each.

    Raises ModelError for part of a merged tensor without the others, or a name whose copies differ.
    """
    mapped: dict[str, Tensor] = {}
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        ours, order, part = _place(name, family)
        if part:
            parts.setdefault(ours, dict.fromkeys(order, torch.empty(0)))[part] = tensor
            continue
        if ours in mapped and not torch.equal(mapped[ours], tensor):
            raise ModelError(f"expected one value for {ours}, got two that differ; the folder is damaged")
        mapped[ours] = tensor
    for name, merged in parts.items():
        absent = [part for part, tensor in merged.items() if tensor.numel() == 0]
        if absent:
            raise ModelError(
                f"expected {', '.join(merged)} of {name}, got no {', '.join(absent)}; the folder is damaged"
            )
        mapped[name] = torch.cat(list(merged.values()))
    return mapped


def their_state(names: Iterable[str], tensors: Mapping[str, Tensor], family: Family) -> dict[str, Tensor]:
    """The way back: tensors by our names as a Hugging Face state of the given names.

    Raises KeyError for a name that stands for no tensor of ours.
    """
    state = {}
    for name in names:
        ours, order, part = _place(name, family)
        tensor = tensors[ours]
        state[name] = tensor.chunk(len(order))[order.index(part)] if part else tensor
    return state


def _place(name: str, family: Family) -> tuple[str, tuple[str, ...], str]:
    """Our name of a tensor of theirs; where it is part of one: the parts in order, and which it is."""
    ours = rename(name, _RULES[family])
    for pattern, order, target in _MERGED:
        if match := pattern.match(ours):
            return match.expand(target), tuple(order), match[2]
    return ours, (), ""


def class_names(folder: Path, config: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Class names by label from `id2label`; None if there are none. Raises InvalidInputError for gaps in the labels."""
    listed = config.get("id2label")
    if not listed:
        return None
    try:
        names = {int(label): str(name) for label, name in dict(listed).items()}
    except (TypeError, ValueError):
        names = {-1: ""}
    if sorted(names) != list(range(len(names))):
        raise InvalidInputError(
            f"{folder}: expected id2label to name the labels 0, 1, 2 ... in config.json, got {str(listed)[:80]}"
        )
    return tuple(names[label] for label in range(len(names)))

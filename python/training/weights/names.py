"""The names that published checkpoints give their tensors, as rules towards ours.

Ours are those of the official PyTorch code of RT-DETRv2, D-FINE and DEIMv2, less one level of `decoder`, with every
batch norm called `norm`. One list serves all of them: no two repositories use one name for different things.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

Rules = Iterable[tuple[str, str]]

_OFFICIAL: Rules = (
    (r"^decoder\.decoder\.", "decoder."),
    (r"^(backbone\..*)\.bn\.", r"\1.norm."),
    # RT-DETR's first release numbers what the second names.
    (r"^encoder\.input_proj\.(\d+)\.0\.", r"encoder.input_proj.\1.conv."),
    (r"^encoder\.input_proj\.(\d+)\.1\.", r"encoder.input_proj.\1.norm."),
    (r"^decoder\.enc_output\.0\.", "decoder.enc_output.proj."),
    (r"^decoder\.enc_output\.1\.", "decoder.enc_output.norm."),
    # DEIMv2's lite encoder.
    (r"^encoder\.(down_sample\d)\.1\.", r"encoder.\1.mix.conv."),
    (r"^encoder\.(down_sample\d)\.2\.", r"encoder.\1.mix.norm."),
    (r"^encoder\.bi_fusion\.cv\.", "encoder.bi_fusion."),
)

# ResNets as torchvision names them; the RT-DETR-KD study calls the two layers of the stem 0 and 1.
_TORCHVISION: Rules = (
    (r"^backbone\.(conv1|stem\.0)\.(?!conv1_)", "backbone.conv1.conv1_1.conv."),
    (r"^backbone\.(bn1|stem\.1)\.", "backbone.conv1.conv1_1.norm."),
    *((rf"^backbone\.layer{i + 1}\.(\d+)\.", rf"backbone.res_layers.{i}.blocks.\1.") for i in range(4)),
    *((rf"^(backbone\.res_layers\..*)\.conv{i + 1}\.", rf"\1.branch2{'abc'[i]}.conv.") for i in range(3)),
    *((rf"^(backbone\.res_layers\..*)\.bn{i + 1}\.", rf"\1.branch2{'abc'[i]}.norm.") for i in range(3)),
    (r"^(backbone\.res_layers\..*)\.downsample\.0\.", r"\1.short.conv."),
    (r"^(backbone\.res_layers\..*)\.downsample\.1\.", r"\1.short.norm."),
)

# The RT-DETR-KD study's networks.
_EDGE: Rules = (
    *_TORCHVISION,
    (r"^(encoder\..*)\.bn\.", r"\1.norm."),
    (r"(layers\.\d+)\.ff\.0\.", r"\1.linear1."),
    (r"(layers\.\d+)\.ff\.3\.", r"\1.linear2."),
    *((rf"^decoder\.bbox_head\.net\.{2 * i}\.", f"decoder.bbox_head.layers.{i}.") for i in range(3)),
)

# What only training needs: RT-DETRv4's projection to the teacher's features, and the teacher itself.
_TRAINING_ONLY = re.compile(r"^(encoder\.feature_projector|teacher_model|teacher)\.")
_CLASSIFIER = re.compile(r"^(fc|last_conv|head|classifier)\.")
_BACKBONES = re.compile(r"^(res_layers\.\d|stages\.\d|layer[1-4]\.\d)")


def rename(name: str, rules: Rules) -> str:
    """Applies every rule in turn."""
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def official_names(state: Mapping[str, Tensor]) -> tuple[dict[str, tuple[Tensor, ...]], int]:
    """A detector's tensors by our names, and how many that only training needs were left out.

    Several tensors come by one name where a file repeats tied ones.
    """
    rules = _EDGE if any(name.startswith("encoder.fusion_c4.") for name in state) else _OFFICIAL
    renamed: dict[str, tuple[Tensor, ...]] = {}
    dropped = 0
    for name, tensor in state.items():
        if _TRAINING_ONLY.match(name):
            dropped += 1
        else:
            ours = rename(name, rules)
            renamed[ours] = (*renamed.get(ours, ()), tensor)
    return renamed, dropped


def backbone_names(state: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """The tensors of an ImageNet backbone by our names, without its classifier; None if this is no backbone's file."""
    if not any(map(_BACKBONES.match, state)):
        return None
    rules = _TORCHVISION if "bn1.weight" in state else _OFFICIAL
    return {rename(f"backbone.{name}", rules): tensor for name, tensor in state.items() if not _CLASSIFIER.match(name)}

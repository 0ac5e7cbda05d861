"""The names that published checkpoints give their tensors, as rules towards ours.

Ours are those of the official PyTorch code of RT-DETRv2, D-FINE and DEIMv2, less one level of `decoder`, with every batch
norm called `norm`. One list serves all of them: no two repositories use one name for different things.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

Rules = Iterable[tuple[str, str]]

OFFICIAL: Rules = (
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

# What only training needs: RT-DETRv4's projection to the teacher's features, and the teacher itself.
_TRAINING_ONLY = re.compile(r"^(encoder\.feature_projector\.|teacher_model\.|teacher\.)")


def rename(name: str, rules: Rules) -> str:
    """Applies every rule in turn."""
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def official_names(state: Mapping[str, Tensor]) -> tuple[dict[str, list[Tensor]], int]:
    """A checkpoint's tensors by our names, and how many that only training needs were left out.

    Several tensors come by one name where a file repeats tied ones.
    """
    renamed: dict[str, list[Tensor]] = {}
    dropped = 0
    for name, tensor in state.items():
        if _TRAINING_ONLY.match(name):
            dropped += 1
        else:
            renamed.setdefault(rename(name, OFFICIAL), []).append(tensor)
    return renamed, dropped

"""Classification losses on sigmoid scores, each in two parts: what an unmatched entry costs, and a matched one.

Nearly all of the (rows, C) entries are unmatched. So the unmatched cost is taken over all of them in a few dense
operations, and only at the matched entries it is exchanged for the matched cost.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Classification = Literal["mal", "vfl", "focal"]


def unmatched_cost(logits: Tensor, *, kind: Classification, alpha: float | None, gamma: float) -> Tensor:
    """What an entry that should say "no" costs, elementwise: weight x softplus(logit).

    mal and vfl: weight = alpha p^gamma, held constant (DEIM, Huang et al. 2024, eq. 2; VarifocalNet, Zhang et al.
    2021, eq. 2). focal: weight = (1 - alpha) p^gamma (Lin et al. 2017, eq. 5). alpha None: the weight has no factor.
    """
    if kind == "focal":
        weight = logits.sigmoid().pow(gamma)
        scale = 1.0 if alpha is None else 1.0 - alpha
    else:
        with torch.no_grad():
            weight = logits.sigmoid().pow_(gamma)
        scale = 1.0 if alpha is None else alpha
    cost = weight * F.softplus(logits)
    return cost if scale == 1.0 else cost * scale


def matched_cost(logits: Tensor, iou: Tensor, *, kind: Classification, alpha: float | None, gamma: float) -> Tensor:
    """What the entry of an object's own class costs at the query matched to it, (M,).

    mal: cross-entropy with the target IoU^gamma. vfl: with the target IoU, weighted by it. focal: alpha (1 - p)^gamma
    x -log p, whatever the IoU.
    """
    if kind == "mal":
        return F.binary_cross_entropy_with_logits(logits, iou.pow(gamma), reduction="none")
    if kind == "vfl":
        return iou * F.binary_cross_entropy_with_logits(logits, iou, reduction="none")
    cost = (-logits).sigmoid().pow(gamma) * F.softplus(-logits)
    return cost if alpha is None else cost * alpha

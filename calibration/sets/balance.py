"""Choose so that every stratum gets its share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np


@dataclass(frozen=True)
class Pick:
    """A chosen candidate.

    Attributes:
        candidate: its index.
        reasons: for each family, that of its strata which had the fewest images by then; of equals the rarest.
    """

    candidate: int
    reasons: tuple[str, ...]


def balance(families: Sequence[Sequence[Sequence[str]]], count: int) -> list[Pick]:
    """Choose candidates one by one, each time the one whose strata the choice has least of.

    A stratum that has n images gains 1 / (n + 1) by another; the strata of a family share a weight of one. The choice
    thus maximises, greedily, the sum over strata of 1 + 1/2 + ... + 1/n, which is submodular: within 1 - 1/e of the
    best (Nemhauser, Wolsey and Fisher, 1978), and for one stratum a candidate exactly as even as the candidates
    allow. Candidates that gain the same are taken in their order.

    Args:
        families: for each kind of stratum, the strata that each candidate is in, at least one per candidate.
        count: number wanted, at most that of the candidates.

    Returns:
        The choice in its order; a smaller one is its beginning.
    """
    columns: dict[tuple[int, str], int] = {}
    weights: list[float] = []
    for number, family in enumerate(families):
        names = sorted({name for strata in family for name in strata})
        for name in names:
            columns[number, name] = len(weights)
            weights.append(1.0 / len(names))
    members = [
        [columns[number, name] for number, strata in enumerate(candidate) for name in strata]
        for candidate in zip(*families, strict=True)
    ]
    flat = np.array([column for row in members for column in row], np.intp)
    starts = np.array([0, *accumulate(len(row) for row in members[:-1])])
    share = np.array(weights)
    counts, sizes = np.zeros(len(weights)), np.bincount(flat, minlength=len(weights))
    left = np.ones(len(members), bool)
    chosen: list[Pick] = []
    for _ in range(count):
        # Rounded, because the order of a sum must not decide between equals.
        gains = np.round(np.add.reduceat((share / (counts + 1))[flat], starts), 12)
        best = int(np.where(left, gains, -1.0).argmax())
        reasons = tuple(
            min((counts[at := columns[number, name]], sizes[at], name) for name in family[best])[2]
            for number, family in enumerate(families)
        )
        left[best] = False
        counts[members[best]] += 1
        chosen.append(Pick(best, reasons))
    return chosen

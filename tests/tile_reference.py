"""How detections of tiles are merged, in NumPy and as the public header says it: every pair in one matrix."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Found = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int32]]
Tile = tuple[int, int, int, int]


def areas(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    sides = np.maximum(boxes[..., 2:] - boxes[..., :2], np.float32(0))
    return sides[..., 0] * sides[..., 1]


def common(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.concatenate((np.maximum(a[..., :2], b[..., :2]), np.minimum(a[..., 2:], b[..., 2:])), axis=-1)


def merge(tiles: Sequence[Tile], width: int, height: int, found: Sequence[Found], match: float = 0.5) -> Found:
    match32 = np.float32(match)
    at = np.concatenate([np.full(len(scores), tile) for tile, (_, scores, _) in enumerate(found)]).astype(int)
    places = np.concatenate([np.arange(len(scores)) for _, scores, _ in found]).astype(int)
    local, scores, labels = (np.concatenate([entry[part] for entry in found]) for part in range(3))
    order = np.lexsort((places, at, -scores.astype(np.float64)))
    at, local, scores, labels = at[order], local[order].astype(np.float32), scores[order], labels[order]
    corners = np.array(tiles, np.float32).reshape(-1, 4)
    regions = np.concatenate((corners[:, :2], corners[:, :2] + corners[:, 2:]), axis=1)[at]
    boxes = local + np.tile(regions[:, :2], 2)

    sizes = regions[:, 2:] - regions[:, :2]
    margin = np.float32(0.02) * sizes
    low = (regions[:, :2] > 0) & (local[:, :2] <= margin)
    high = (regions[:, 2:] < np.array([width, height])) & (local[:, 2:] >= sizes - margin)
    cut = (low | high).any(axis=1)

    shared = common(regions[:, None], regions[None])
    left, right = common(boxes[:, None], shared), common(boxes[None], shared)
    inter = areas(common(left, right))
    with np.errstate(invalid="ignore"):
        iou = inter / (areas(left) + areas(right) - inter)
    comparable = (areas(left) > 0) & (areas(right) > 0)
    same_tile = at[:, None] == at[None]
    agree = comparable & ~same_tile & (iou >= match32) & (labels[:, None] == labels[None])
    apart = same_tile | (comparable & (iou < match32))

    group = np.arange(len(at))
    for one in range(len(at)):
        for other in sorted(np.flatnonzero(agree[one, :one]), key=lambda other: (-iou[one, other], other)):
            mine, theirs = group == group[one], group == group[other]
            mine[one + 1 :] = theirs[one + 1 :] = False
            if group[one] != group[other] and not apart[np.ix_(mine, theirs)].any():
                group[mine | theirs] = min(group[one], group[other])

    objects = []  # (best member, members, box, the member that saw it whole or None)
    for best in sorted(set(group.tolist())):
        members = np.flatnonzero(group == best)
        trusted = members[scores[members] >= np.float32(0.5) * scores[best]]
        whole = trusted[~cut[trusted]]
        if len(whole):
            objects.append((best, members, boxes[whole[0]], whole[0]))
        else:
            hull = np.concatenate((boxes[trusted, :2].min(axis=0), boxes[trusted, 2:].max(axis=0)))
            objects.append((best, members, hull, None))

    def is_part(best: int, members: NDArray[np.intp], box: NDArray[np.float32], seen_whole: bool) -> bool:
        for other, others, whole_box, whole in objects:
            if (
                whole is not None
                and labels[other] == labels[best]
                and (other < best if seen_whole else scores[other] >= np.float32(0.5) * scores[best])
                and at[whole] != at[best]
                and areas(common(regions[whole], regions[best])) > 0
                and areas(common(box, whole_box)) >= np.float32(0.8) * areas(box)
                and not set(at[members]) & set(at[others])
            ):
                return True
        return False

    kept = [entry for entry in objects if not is_part(*entry[:3], entry[3] is not None)]
    rows = [entry[0] for entry in kept]
    return np.array([entry[2] for entry in kept], np.float32).reshape(-1, 4), scores[rows], labels[rows]

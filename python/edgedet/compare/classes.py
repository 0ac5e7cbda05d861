"""Two lists of classes as one: a class is the same where the name is, but for case, blanks, _ and -."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgedet._core import InvalidInputError
from edgedet.coco_eval import normal_name
from edgedet.detections import Detections
from edgedet.suggest import did_you_mean


@dataclass(frozen=True)
class SharedClasses:
    """The classes that both sides know.

    Attributes:
        names: In the order of A, as A spells them.
        only_a, only_b: Names that the other does not know.
        of_a, of_b: For each class of that side its place in `names`, or -1.
    """

    names: tuple[str, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    of_a: NDArray[np.int32]
    of_b: NDArray[np.int32]


def shared_classes(a: Sequence[str], b: Sequence[str], only: Sequence[str] = ()) -> SharedClasses:
    """Matches two lists of class names.

    Args:
        a: The names of A.
        b: The names of B.
        only: Names of those that are compared; all that both know if empty.

    Raises:
        InvalidInputError: They share no class, or one of `only` is not shared.
    """
    known_a, known_b = ({normal_name(name): name for name in names} for names in (a, b))
    shared = [name for name in a if normal_name(name) in known_b]
    if not shared:
        raise InvalidInputError(
            f"expected bundles with classes in common, got {', '.join(list(a)[:3])}, ... and {', '.join(list(b)[:3])}, "
            "...; classes are the same where their names are"
        )
    wanted = set()
    for name in only:
        if normal_name(name) not in {normal_name(each) for each in shared}:
            raise InvalidInputError(
                f"expected a class that both bundles know, got {name!r}{did_you_mean(name, shared)}; "
                f"edgedet info lists the classes of a bundle"
            )
        wanted.add(normal_name(name))
    names = tuple(name for name in shared if not wanted or normal_name(name) in wanted)
    places = {normal_name(name): place for place, name in enumerate(names)}
    of_a, of_b = (np.array([places.get(normal_name(name), -1) for name in each], np.int32) for each in (a, b))
    return SharedClasses(
        names,
        tuple(name for name in a if normal_name(name) not in known_b),
        tuple(name for name in b if normal_name(name) not in known_a),
        of_a,
        of_b,
    )


def relabel(found: Detections, places: NDArray[np.int32], names: Sequence[str]) -> Detections:
    """The detections of shared classes, with their shared labels."""
    labels = places[found.labels]
    kept = np.flatnonzero(labels >= 0)
    labels = labels[kept]
    return Detections(found.boxes[kept], found.scores[kept], labels, [names[label] for label in labels.tolist()])

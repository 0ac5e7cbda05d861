"""The picture of ``edgedet bench --plot``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgedet import InvalidInputError
from edgedet.extras import needs_extra


def draw(path: Path, latency: Sequence[float], *, title: str) -> None:
    """Draws the milliseconds of each call, in their order and as a cumulative distribution.

    Raises:
        InvalidInputError: The file cannot be written, or its ending names no kind of picture.
        Error: matplotlib is not installed.
    """
    with needs_extra("calibrate"):
        from matplotlib.figure import Figure  # without pyplot: it needs no display and leaves nothing open

    milliseconds = np.asarray(latency)
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    figure.suptitle(title)
    over_time, distribution = figure.subplots(1, 2)
    over_time.plot(np.arange(1, len(milliseconds) + 1), milliseconds, ".", markersize=3)
    over_time.set(xlabel="call", ylabel="ms", ylim=(0, None))
    distribution.step(np.sort(milliseconds), np.arange(1, len(milliseconds) + 1) / len(milliseconds), where="post")
    for percentile in (50, 99):
        value = float(np.percentile(milliseconds, percentile))
        distribution.axvline(value, color="grey", linewidth=0.8)
        distribution.annotate(f"p{percentile} {value:.2f} ms", (value, 0.02), rotation=90, fontsize=8)
    distribution.set(xlabel="ms", ylabel="share of calls", ylim=(0, 1.02))
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise InvalidInputError(f"{path}: cannot be drawn ({error}); choose another file, such as one.png") from None

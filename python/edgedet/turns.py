"""Timing by turns: whoever is compared runs on the same frames at the same time, so that a slow moment meets all."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

_Frame = TypeVar("_Frame")


def take_turns(
    contenders: Sequence[Callable[[_Frame], object]],
    frames: Sequence[_Frame],
    *,
    turns: int,
    seconds: float = 0.0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> NDArray[np.float64]:
    """Milliseconds of every call. Each turn is one frame through all contenders, in the other order every second turn.

    Args:
        contenders: Called with a frame. Each is called once before the clock runs.
        frames: Taken in turn, at least one.
        turns: The least number of turns.
        seconds: Goes on for at least as long.
        progress: Told the number of turns done and `turns`.

    Returns:
        (contenders, turns).
    """
    for contender in contenders:
        contender(frames[0])
    taken: list[list[float]] = [[] for _ in contenders]
    places = range(len(contenders))
    end = time.perf_counter() + seconds
    turn = 0
    while turn < turns or time.perf_counter() < end:
        frame = frames[turn % len(frames)]
        for place in places if turn % 2 else reversed(places):
            start = time.perf_counter()
            contenders[place](frame)
            taken[place].append((time.perf_counter() - start) * 1e3)
        turn += 1
        progress(min(turn, turns), turns)
    return np.array(taken)


def ratio_of_medians(milliseconds: NDArray[np.float64], reference: NDArray[np.float64]) -> tuple[float, float]:
    """Ratio of medians and its standard error, by a jackknife over ten runs of neighbouring turns.

    Args:
        milliseconds: (T,) of a contender.
        reference: (T,) of the one it is compared with, in the same turns.
    """
    whole = float(np.median(milliseconds) / np.median(reference))
    groups = [group for group in np.array_split(np.arange(len(milliseconds)), 10) if len(group)]
    if len(groups) < 2:
        return whole, float("nan")
    without = [np.median(np.delete(milliseconds, group)) / np.median(np.delete(reference, group)) for group in groups]
    spread = np.square(np.array(without) - np.mean(without)).sum()
    return whole, float(np.sqrt((len(groups) - 1) / len(groups) * spread))

"""Sources that go on when they fail: cameras and streams."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final

from edgedet import Error
from edgedet.video.source import CLOCK, VideoFrame, VideoSource

_FIRST_PAUSE: Final = 0.5  # seconds; each following one is twice as long
_LONGEST_PAUSE: Final = 30.0


def live_frames(
    source: VideoSource,
    reopen: Callable[[], VideoSource],
    *,
    patience: float,
    stop: threading.Event,
    say: Callable[[str], None],
) -> Iterator[VideoFrame]:
    """The frames of a live source and, after it has failed or ended, of the same source opened again.

    Their time is that of their arrival, for clocks of cameras start again at any number.

    Args:
        source: Opened for the first time.
        reopen: Opens it once more.
        patience: Seconds without a frame after which its error is raised, or the stream ends. 0: at once.
        stop: Ends a pause, and then the frames.
        say: Told of each failure, in words.
    """
    began = seen = time.monotonic()
    index = 0
    opened: VideoSource | None = source
    pause = _FIRST_PAUSE
    while True:
        failure: Error | None = None
        try:
            if opened is None:
                opened = reopen()
            for frame in opened.frames():
                seen, pause = time.monotonic(), _FIRST_PAUSE
                yield replace(frame, index=index, time=round((seen - began) / CLOCK) * CLOCK)
                index += 1
        except Error as error:
            failure = error
        opened = None
        left = patience - (time.monotonic() - seen)
        if left <= 0 or stop.is_set():
            if failure is not None and not stop.is_set():
                raise failure
            return
        pause = min(pause, left)
        say(f"{failure or f'{source.name}: the stream ended'}; trying again in {pause:.1f} s")
        stop.wait(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)

"""From a video to detections: a thread decodes, the detector's own threads detect, the caller's draws and encodes."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

import numpy as np

from edgedet import Detections, Detector, Error
from edgedet.draw import draw_detections
from edgedet.image_input import PixelFormat
from edgedet.video.queue import FrameQueue
from edgedet.video.source import VideoFrame
from edgedet.video.tracking import Tracker, with_tracks
from edgedet.video.writer import VideoWriter

_QUEUE: Final = 4  # decoded frames that wait; of a live source that drops frames it is one, the newest


@dataclass(frozen=True)
class Progress:
    """frames: done. dropped: lost because they came too fast. seconds: since the start. time: of the last frame."""

    frames: int
    dropped: int
    seconds: float
    time: Fraction

    @property
    def fps(self) -> float:
        """Frames that were done in a second, all stages together."""
        return self.frames / self.seconds if self.seconds > 0 else 0.0


@dataclass(frozen=True)
class Outcome:
    """How it ended.

    progress: at the end. interrupted: by Ctrl-C or SIGTERM. error: that ended it; what was done before is kept.
    """

    progress: Progress
    interrupted: bool
    error: Error | None


def detect_video(
    detector: Detector,
    frames: Iterable[VideoFrame],
    *,
    format: PixelFormat,
    stop: threading.Event,
    drop: bool = False,
    writer: VideoWriter | None = None,
    tell: Callable[[VideoFrame, Detections, list[int | None] | None], None] | None = None,
    tracker: Tracker | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Outcome:
    """Detects in all frames, in order.

    Args:
        detector: What runs; several frames are under way if it has several requests.
        frames: Read in a thread.
        format: Of their pixels.
        stop: When it is set, by the first Ctrl-C or SIGTERM or by another thread, the frames under way are the last.
        drop: Frames that come while the detector is busy are lost, all but the newest.
        writer: Gets the frames with their objects drawn; the caller closes it.
        tell: Called with each frame, its objects and, with a tracker, their tracks.
        tracker: Follows objects.
        progress: Told after each frame.
    """
    queue = FrameQueue(frames, size=1 if drop else _QUEUE, drop=drop, stop=stop)
    began = time.monotonic()
    done, last = 0, Fraction(0)
    error: Error | None = None

    def state() -> Progress:
        return Progress(done, queue.dropped, time.monotonic() - began, last)

    with queue, _stopped_by_signals(stop) as interrupted:
        try:
            for frame, found in detector.stream(queue, image=lambda frame: frame.pixels, format=format):
                tracks = None if tracker is None else tracker.update(found)
                if tell is not None:
                    tell(frame, found, tracks)
                if writer is not None:
                    drawn = found if tracks is None else with_tracks(found, tracks)
                    image = frame.rgb()
                    writer.write(np.asarray(draw_detections(image, drawn)) if len(drawn) else image, frame.time)
                done, last = done + 1, frame.time
                if progress is not None:
                    progress(state())
        except Error as failure:
            error = failure
    return Outcome(state(), interrupted.is_set(), error)


@contextmanager
def _stopped_by_signals(stop: threading.Event) -> Iterator[threading.Event]:
    """Inside, the first Ctrl-C or SIGTERM sets `stop` and what this yields; the second one is as ever."""
    interrupted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield interrupted  # signals are the main thread's
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def handle(number: int, frame: object) -> None:
        interrupted.set()
        stop.set()
        restore()

    for number in before:
        signal.signal(number, handle)
    try:
        yield interrupted
    finally:
        restore()

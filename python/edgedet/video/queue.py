"""Frames that a thread reads ahead: a bounded number of them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Final

from edgedet.video.source import VideoFrame

_SLICE: Final = 0.1  # seconds between two looks at whether it was stopped
_PATIENCE: Final = 5.0  # seconds for the reader to let go of its source


class FrameQueue:
    """Reads ``frames`` in a thread and yields them in order; an error of theirs comes after the frames before it.

    Args:
        frames: Closed when the thread ends.
        size: Frames that wait at the most.
        stop: When it is set, no frame is read or yielded any more; set when the queue is left.
        drop: A full queue loses its oldest frame, so that the next one is the newest; else the reader waits.
    """

    def __init__(self, frames: Iterable[VideoFrame], *, size: int, drop: bool, stop: threading.Event) -> None:
        self.dropped = 0
        self._frames, self._size, self._drop, self._stop = frames, size, drop, stop
        self._waiting: deque[VideoFrame] = deque()
        self._changed = threading.Condition()
        self._ended = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._read, name="edgedet-video", daemon=True)

    def __enter__(self) -> FrameQueue:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(_PATIENCE)  # a source that hangs does not keep the process

    def __iter__(self) -> Iterator[VideoFrame]:
        while True:
            with self._changed:
                while not (self._waiting or self._ended or self._stop.is_set()):
                    self._changed.wait(_SLICE)
                if self._stop.is_set():
                    return
                if not self._waiting:
                    if self._error is not None:
                        raise self._error
                    return
                frame = self._waiting.popleft()
                self._changed.notify_all()
            yield frame
            del frame

    def _read(self) -> None:
        try:
            for frame in self._frames:
                if not self._put(frame):
                    break
        except BaseException as error:
            self._error = error
        finally:
            close = getattr(self._frames, "close", None)
            if close is not None:
                close()
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _put(self, frame: VideoFrame) -> bool:
        with self._changed:
            while len(self._waiting) >= self._size and not self._drop and not self._stop.is_set():
                self._changed.wait(_SLICE)
            if len(self._waiting) >= self._size and self._drop:
                self._waiting.popleft()
                self.dropped += 1
            self._waiting.append(frame)
            self._changed.notify_all()
        return not self._stop.is_set()

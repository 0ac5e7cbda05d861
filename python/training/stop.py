"""Requests to stop a run: Ctrl-C, SIGTERM of a scheduler, SIGHUP of a terminal that was closed."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType


class StopRequests:
    """Notes the first signal, for the run to end after its step; a second one interrupts at once.

    Signals reach the main thread only, so elsewhere none are noted. A hang-up that is ignored (nohup) stays ignored.
    """

    def __init__(self) -> None:
        self.signal = 0

    def __enter__(self) -> StopRequests:
        wanted = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            wanted.append(signal.SIGHUP)
        if threading.current_thread() is not threading.main_thread():
            wanted = []
        self._previous = {number: signal.signal(number, self._note) for number in wanted}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal:
            raise KeyboardInterrupt
        self.signal = number

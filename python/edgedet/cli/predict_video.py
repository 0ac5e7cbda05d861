"""``edgedet predict VIDEO``: a video, a camera or a stream to an MP4 file with boxes, and to lines of JSON."""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, ContextManager, Final

from edgedet import Detections, InvalidInputError
from edgedet.cli.common import make_folder, objects_json, open_detector, print_running, whole_number
from edgedet.terminal.json_output import JsonTarget
from edgedet.video.kind import is_live
from edgedet.video.live import live_frames
from edgedet.video.run import Outcome, Progress, detect_video
from edgedet.video.source import VideoFrame, VideoSource, open_video
from edgedet.video.tracking import Tracker
from edgedet.video.writer import VideoWriter

if TYPE_CHECKING:
    _Tell = Callable[[VideoFrame, Detections, "list[int | None] | None"], None]

_EVERY: Final = 5.0  # seconds from one line of progress to the next where nobody watches
_EVERY_ON_TERMINAL: Final = 0.2


def add_options(parser: argparse.ArgumentParser) -> None:
    """Those for videos alone."""
    group = parser.add_argument_group("videos, cameras and streams")
    group.add_argument("--track", action="store_true", help="follow objects from frame to frame (pip install trackers)")
    group.add_argument(
        "--drop",
        choices=["latest", "none"],
        help="frames that come while the detector is busy: latest, all but the newest are lost (default of cameras and "
        "streams); none, the source waits (default of files)",
    )
    group.add_argument(
        "--reader",
        default="auto",
        choices=["auto", "av", "gstreamer"],
        help="default: auto, PyAV (pip install 'edgedet[video]'), or GStreamer for a pipeline or where PyAV is missing",
    )
    group.add_argument(
        "--reconnect",
        type=whole_number,
        default=60,
        metavar="S",
        help="try a camera or stream that fails again for so many seconds (default: 60; 0: not at all)",
    )


def run(arguments: argparse.Namespace, name: str) -> int:
    """Reads, detects, draws, encodes; whatever ends it, the file that was written so far plays."""
    live = is_live(name)
    out = None if arguments.out is None else _target(arguments.out, name)

    def reopen() -> VideoSource:
        return open_video(name, reader=arguments.reader)

    source = reopen()  # before the bundle: it is there at once, or the reason why not
    tracker = Tracker(float(source.rate or 25)) if arguments.track else None
    stop = threading.Event()
    frames = source.frames()
    if live:
        frames = live_frames(source, reopen, patience=arguments.reconnect, stop=stop, say=_say)
    writer: ContextManager[VideoWriter | None] = nullcontext()
    if out is not None:
        writer = VideoWriter(out, time_base=source.time_base, rate=source.rate, aspect=source.aspect)
    with writer as opened, _json_lines(arguments.json) as tell:
        detector = open_detector(arguments, score_threshold=arguments.score)
        print_running(detector)
        outcome = detect_video(
            detector,
            frames,
            format=source.format,
            stop=stop,
            drop=live if arguments.drop is None else arguments.drop == "latest",
            writer=opened,
            tell=tell,
            tracker=tracker,
            progress=_progress(None if live else source.expected),
        )
    _print(outcome, source, None if opened is None or not opened.frames else out)
    if outcome.error is not None:
        raise outcome.error
    return 130 if outcome.interrupted else 2 if source.problems else 0


def _target(out: Path, name: str) -> Path:
    """The file to write: ``--out`` itself if it ends in .mp4, else one of the video's name in that folder."""
    if out.suffix.lower() != ".mp4":
        if out.suffix and not out.is_dir():
            raise InvalidInputError(f"--out: expected a file that ends in .mp4, or a folder, got {out}")
        stem = Path(name).stem if Path(name).is_file() else "video"
        make_folder(out)
        out = out / f"{stem}.mp4"
    if out.exists() and Path(name).exists() and out.samefile(name):
        raise InvalidInputError(f"--out: expected another file than the video itself, got {out}")
    if not out.parent.is_dir():
        raise InvalidInputError(f"--out: the folder {str(out.parent)!r} does not exist; make it first")
    return out


@contextmanager
def _json_lines(target: JsonTarget | None) -> Iterator[_Tell | None]:
    if target is None:
        yield None
        return
    with target.lines() as write:

        def tell(frame: VideoFrame, found: Detections, tracks: list[int | None] | None) -> None:
            rows = objects_json(found)
            if tracks is not None:
                rows = [{**row, "track": track} for row, track in zip(rows, tracks)]
            write({"frame": frame.index, "time": float(frame.time), "detections": rows})

        yield tell


def _progress(expected: int | None) -> Callable[[Progress], None]:
    terminal = sys.stderr.isatty()
    shown = time.monotonic()

    def show(progress: Progress) -> None:
        nonlocal shown
        now = time.monotonic()
        if now - shown < (_EVERY_ON_TERMINAL if terminal else _EVERY):
            return
        shown = now
        of = f" of {expected}" if expected else ""
        lost = f", {progress.dropped} dropped" if progress.dropped else ""
        text = f"frame {progress.frames}{of}, {float(progress.time):.1f} s, {progress.fps:.1f} FPS{lost}"
        print(f"\r{text:<60}" if terminal else text, end="" if terminal else "\n", file=sys.stderr, flush=True)

    return show


def _print(outcome: Outcome, source: VideoSource, out: Path | None) -> None:
    if sys.stderr.isatty():
        print(file=sys.stderr)
    done = outcome.progress
    lost = f", {done.dropped} dropped" if done.dropped else ""
    frames = f"{done.frames} frame{'s' if done.frames != 1 else ''}"
    print(f"{source.name}: {frames}{lost} in {done.seconds:.1f} s, {done.fps:.1f} FPS")
    if out is not None:
        print(f"  written: {out} (without sound)")
    for problem in source.problems:
        _say(f"{source.name}: {problem}")
    if outcome.interrupted:
        _say("interrupted; the frames so far were kept")


def _say(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr)

"""Where frames come from: a video that PyAV decodes, or a pipeline of GStreamer."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from edgedet import Error, ImageError, InvalidInputError, gstreamer
from edgedet.extras import needs_extra
from edgedet.image_input import PixelFormat, Pixels
from edgedet.images import MAX_PIXELS
from edgedet.video.kind import is_camera, is_live, is_pipeline, is_url

if TYPE_CHECKING:
    import av

#: Ticks of the clock where a source has none of its own, as in MPEG.
CLOCK: Final = Fraction(1, 90_000)
_NO_VIDEO: Final = "expected a video"


@dataclass(frozen=True, eq=False)
class VideoFrame:
    """A frame as it is shown, rotation applied.

    index: from 0, frames that were dropped counted. time: seconds. pixels: RGB, or the planes of NV12.
    """

    index: int
    time: Fraction
    pixels: Pixels

    def rgb(self) -> NDArray[np.uint8]:
        """(H, W, 3)."""
        if isinstance(self.pixels, np.ndarray):
            return self.pixels
        with needs_extra("video"):
            import av
        picture = av.VideoFrame.from_ndarray(np.concatenate(self.pixels), format="nv12")
        pixels: NDArray[np.uint8] = picture.to_ndarray(format="rgb24")
        return pixels


class VideoSource(Protocol):
    """An open source."""

    name: str  # for people, without passwords
    format: PixelFormat  # of the pixels of its frames
    time_base: Fraction  # of time stamps
    rate: Fraction | None  # frames in a second, if the source says so
    aspect: Fraction  # width of a pixel in heights
    expected: int | None  # frames, as its header says
    problems: list[str]  # what was wrong with what was read

    def frames(self) -> Iterator[VideoFrame]:
        """All frames; closing the generator lets go of them."""


def open_video(source: str, *, reader: str = "auto", timeout: float = 10.0) -> VideoSource:
    """Opens a source.

    Args:
        source: A file, a URL, ``/dev/videoN`` or N, or a pipeline of GStreamer.
        reader: "av", "gstreamer", or "auto": PyAV, for what GStreamer alone reads or where PyAV is missing the latter.
        timeout: Seconds to wait for a stream and for each of its frames.

    Raises:
        Error: Neither reader is installed, or the source cannot be opened; the message says why.
        InvalidInputError: The source is not there.
    """
    if source.isdecimal() and is_camera(source):
        source = f"/dev/video{source}"
    if reader == "auto":
        reader = "gstreamer" if is_pipeline(source) or not _has_av() else "av"
    if reader == "av":
        return AvSource(source, timeout=timeout)
    try:
        return GstSource(source, timeout=timeout)
    except InvalidInputError:
        raise
    except Error as error:
        if is_pipeline(source) or _has_av():
            raise
        raise Error(f"videos need PyAV, run: pip install 'edgedet[video]'; or GStreamer: {error}") from None


def _has_av() -> bool:
    try:
        import av  # noqa: F401
    except ModuleNotFoundError:
        return False
    return True


class AvSource:
    """PyAV, which brings FFmpeg. Colours as the stream says; the first video stream; audio is left out."""

    format: PixelFormat = "rgb"

    def __init__(self, source: str, *, timeout: float) -> None:
        with needs_extra("video"):
            import av
        self.name = gstreamer.without_password(source)
        self.problems: list[str] = []
        camera = is_camera(source)
        options = {"rtsp_transport": "tcp"} if source.startswith(("rtsp://", "rtsps://")) else {}
        try:
            # File names are never taken for protocols: "concat:a|b" would open other files.
            self._container = av.open(
                source if is_url(source) or camera else f"file:{source}",
                format="v4l2" if camera else None,
                options=options,
                timeout=timeout if is_url(source) else None,
            )
        except (av.FFmpegError, OSError, ValueError) as error:
            raise Error(f"{self.name}: {_NO_VIDEO} that can be read, got: {_words(error)}") from None
        try:
            self._prepare()
        except BaseException:
            self._container.close()
            raise

    def _prepare(self) -> None:
        videos = self._container.streams.video
        if not videos:
            raise Error(f"{self.name}: {_NO_VIDEO}, got a file without pictures")
        self._stream = stream = videos[0]
        if stream.codec_context is None or not stream.width:
            raise Error(f"{self.name}: {_NO_VIDEO} whose codec FFmpeg decodes, got another one")
        if stream.width * stream.height > MAX_PIXELS:
            raise ImageError(f"{self.name}: {stream.width}x{stream.height} is more than {MAX_PIXELS} pixels")
        stream.thread_type = "AUTO"
        stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}  # frames may change their size
        self.time_base = Fraction(stream.time_base or CLOCK)
        self.rate = Fraction(stream.average_rate) if stream.average_rate else None
        self.aspect = Fraction(stream.sample_aspect_ratio or 1)
        self.expected = stream.frames or None

    def frames(self) -> Iterator[VideoFrame]:
        """Decodes; packets that cannot be are counted as a problem, and what follows them is decoded."""
        import av

        damaged = index = 0
        time: Fraction | None = None
        try:
            for packet in self._container.demux(self._stream):
                try:
                    decoded = packet.decode()
                except (av.error.InvalidDataError, av.error.EOFError):
                    damaged += 1
                    continue
                for frame in decoded:
                    damaged += frame.is_corrupt
                    time = self._time(frame, time)
                    yield VideoFrame(index, time, self._pixels(frame))
                    index += 1
        except av.FFmpegError as error:
            raise Error(f"{self.name}: reading ended after {index} frames: {_words(error)}") from None
        finally:
            self._container.close()
            if damaged:
                self.problems.append(f"{damaged} damaged frame{'s' if damaged != 1 else ''}")
        if not index:
            raise Error(f"{self.name}: {_NO_VIDEO}, got a file of which no frame can be decoded; is it damaged?")
        if self.expected is not None and index < self.expected:
            self.problems.append(f"ended after {index} of {self.expected} frames: it is cut off or damaged")

    def _time(self, frame: av.VideoFrame, last: Fraction | None) -> Fraction:
        if frame.pts is not None and frame.time_base is not None:
            return Fraction(frame.pts) * Fraction(frame.time_base)
        return Fraction(0) if last is None else last + 1 / (self.rate or Fraction(25))

    def _pixels(self, frame: av.VideoFrame) -> NDArray[np.uint8]:
        pixels: NDArray[np.uint8] = frame.to_ndarray(format="rgb24")
        # Frames say it since PyAV 14; before, which is what Python 3.8 has, streams do.
        degrees = frame.rotation if hasattr(frame, "rotation") else self._stream.side_data.get("DISPLAYMATRIX", 0)
        quarters = round(degrees / 90) % 4  # of counterclockwise turns, as np.rot90 counts them
        return np.ascontiguousarray(np.rot90(pixels, quarters)) if quarters else pixels


def _words(error: Exception) -> str:
    return gstreamer.without_password(re.sub(r"^\[Errno -?\d+\] ", "", str(error))) or type(error).__name__


class GstSource:
    """GStreamer, for what FFmpeg does not read (CSI cameras, NVMM) and for machines without PyAV."""

    format: PixelFormat = "nv12"

    def __init__(self, source: str, *, timeout: float) -> None:
        self.name = gstreamer.without_password(source)
        self.time_base, self.aspect = CLOCK, Fraction(1)
        self.rate: Fraction | None = None
        self.expected: int | None = None
        self.problems: list[str] = []
        self._frames = gstreamer.frames(source, timeout=timeout, drop=True if is_live(source) else None)

    def frames(self) -> Iterator[VideoFrame]:
        """Copies of the planes: several frames are under way at once, and cameras have few buffers."""
        last = Fraction(0)
        try:
            for index, frame in enumerate(self._frames):
                if frame.timestamp is not None:
                    last = round(frame.timestamp / CLOCK) * CLOCK
                elif index:
                    last += Fraction(1, 25)
                yield VideoFrame(index, last, (frame.luma.copy(), frame.chroma.copy()))
                del frame
        finally:
            self._frames.close()

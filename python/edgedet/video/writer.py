"""H.264 in an MP4 file."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from edgedet import Error, InvalidInputError
from edgedet.extras import needs_extra
from edgedet.files import beside

if TYPE_CHECKING:
    import av

# FFmpeg's names, the first one that opens is used: on the CPU, then in hardware.
_ENCODERS: Final = ("libx264", "libopenh264", "h264_nvenc", "h264_v4l2m2m", "h264_vaapi")
_OPTIONS: Final = {"libx264": {"preset": "veryfast", "crf": "20"}}
_BT709: Final = 1  # of FFmpeg's numbers for matrices, primaries and transfer functions
_LIMITED: Final = 1


class VideoWriter:
    """Writes frames with their times. The file appears under its name when it is closed, and plays whenever that is.

    Its size is that of the first frame, made even by one more row or column of the edge; frames of another size are
    scaled to it.

    Args:
        path: Ends in .mp4.
        time_base: Of the source, so that its time stamps are kept to the tick.
        rate: Frames in a second, for the encoder's bit rate; None if it is not known.
        aspect: Width of a pixel in heights.

    Raises:
        Error: PyAV is not installed.
        InvalidInputError: The file cannot be written.
    """

    def __init__(
        self, path: Path, *, time_base: Fraction, rate: Fraction | None = None, aspect: Fraction = Fraction(1)
    ) -> None:
        with needs_extra("video"):
            import av
        self.frames = 0
        self._path, self._staging = path, beside(path)
        self._time_base, self._rate, self._aspect = time_base, rate or Fraction(25), aspect
        self._stream: av.VideoStream | None = None
        self._last = -1
        try:
            self._container = av.open(str(self._staging), "w", format="mp4")
        except (av.FFmpegError, OSError) as error:
            raise InvalidInputError(f"{path}: cannot be written ({error}); choose another file") from None

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def write(self, image: NDArray[np.uint8], time: Fraction) -> None:
        """Encodes a frame.

        image: (H, W, 3) uint8 RGB. time: seconds, not before that of the last frame.

        Raises:
            Error: No encoder of this FFmpeg works here, or the disk is full.
        """
        import av

        height, width = image.shape[:2]
        if width % 2 or height % 2:
            image = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        if self._stream is None:
            self._stream = self._open(image.shape[1], image.shape[0])
        frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(
            width=self._stream.width, height=self._stream.height, format="yuv420p", dst_colorspace="ITU709"
        )
        stamp = max(round(time / self._time_base), self._last + 1)  # encoders want them to rise
        frame.pts, frame.time_base, self._last = stamp, self._time_base, stamp
        self._mux(frame)
        self.frames += 1

    def close(self) -> None:
        """Ends the file; without a frame there is none. May be called again."""
        if self._container is None:
            return
        try:
            if self._stream is not None:
                self._mux(None)
            self._container.close()
            if self.frames:
                self._staging.replace(self._path)
        finally:
            self._container = None
            self._staging.unlink(missing_ok=True)

    def _mux(self, frame: av.VideoFrame | None) -> None:
        import av

        assert self._stream is not None
        try:
            self._container.mux(self._stream.encode(frame))
        except (av.FFmpegError, OSError) as error:
            raise Error(f"{self._path}: cannot be written: {error}") from None

    def _open(self, width: int, height: int) -> av.VideoStream:
        """The stream, with the first encoder that works."""
        import av

        reasons = []
        for name in _ENCODERS:
            try:
                trial = av.CodecContext.create(name, "w")
                self._set(trial, width, height, name)
                trial.open()
            except (av.FFmpegError, ValueError) as error:
                reasons.append(f"{name}: {error}")
                continue
            stream = self._container.add_stream(name, rate=self._rate)
            self._set(stream.codec_context, width, height, name)
            return stream
        raise Error(
            f"{self._path}: expected an H.264 encoder in PyAV's FFmpeg, got none that works ({'; '.join(reasons)}); "
            "install PyAV's own wheel: pip install --force-reinstall --only-binary av av"
        )

    def _set(self, codec: av.VideoCodecContext, width: int, height: int, name: str) -> None:
        codec.width, codec.height, codec.pix_fmt = width, height, "yuv420p"
        codec.time_base, codec.framerate = self._time_base, self._rate
        codec.sample_aspect_ratio = self._aspect
        codec.colorspace = codec.color_primaries = codec.color_trc = _BT709
        codec.color_range = _LIMITED
        codec.options = _OPTIONS.get(name, {})

"""Frames of cameras, files and streams through GStreamer, as NV12 planes in its own memory.

    for frame in gstreamer.frames("/dev/video0"):
        found = detector(frame.planes, format="nv12")

The base package needs nothing for it: GStreamer's libraries are opened when the first pipeline is made. Memory that
the CPU cannot map (Jetson's NVMM) is brought into memory that it can by ``nvvidconv``, which is a copy. See
docs/video.md.
"""

from __future__ import annotations

import ctypes
import math
import os
import re
import time
from collections.abc import Generator
from ctypes import byref, c_void_p
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgedet import gst_library
from edgedet._core import Error, InvalidInputError

__all__ = ["Frame", "frames"]

_CAPS: Final = b"video/x-raw,format=NV12"
# From full to limited range. videoconvert leaves the numbers and changes the name where the matrices agree (1.22 does).
_LIMITED_LUMA: Final = np.rint(16 + np.arange(256) * 219 / 255).astype(np.uint8)
_LIMITED_CHROMA: Final = np.rint(128 + (np.arange(256) - 128) * 224 / 255).astype(np.uint8)
_SLICE: Final = 0.1  # seconds between two looks for an error, and for Ctrl-C
_MAX_QUEUE: Final = 64


@dataclass(frozen=True, eq=False)
class Frame:
    """An NV12 frame of even width and height: an odd last row or column of the source is left out.

    The planes are read-only views of GStreamer's buffer. It stays mapped, and out of its source's pool, while the frame
    or an array of it lives: copy what is to be kept, for a camera has few buffers.

    Attributes:
        luma: (H, W) uint8; rows may be further apart than W bytes.
        chroma: (H / 2, W) uint8, U and V interleaved.
        timestamp: Seconds, on the pipeline's clock (live sources) or of the file; None where the source has none.
    """

    luma: NDArray[np.uint8]
    chroma: NDArray[np.uint8]
    timestamp: float | None

    @property
    def planes(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """As a detector takes them with ``format="nv12"``."""
        return self.luma, self.chroma


def frames(
    source: str | os.PathLike[str],
    *,
    timeout: float = 10.0,
    queue: int = 2,
    drop: bool | None = None,
    convert_colours: bool = True,
) -> Generator[Frame, None, None]:
    """Yields the frames of a source until it ends. Closing the generator stops the pipeline.

    Args:
        source: A file, ``/dev/videoN``, a URI (``rtsp://…``), or a pipeline as ``gst-launch-1.0`` takes it, without its
            sink: ``"nvarguscamerasrc"``, ``"videotestsrc num-buffers=9 ! video/x-raw,width=640,height=480"``.
        timeout: Seconds to wait for a frame, the first included.
        queue: Frames kept ready, 1 to 64.
        drop: Whether a full queue loses its oldest frame; else the source waits. None: as the source is live.
        convert_colours: Whether GStreamer converts what is not BT.601 in limited range, which detectors take NV12 to be
            (a copy; HD video is mostly BT.709). False leaves the numbers as they are.

    Raises:
        InvalidInputError: An option is out of range, the file does not exist, or the pipeline cannot be made.
        Error: GStreamer is not installed, its pipeline failed (the message is its own), no frame came in time, or the
            source ended before its first frame.
    """
    if not (math.isfinite(timeout) and timeout > 0):
        raise InvalidInputError(f"timeout: expected seconds above 0, got {timeout}")
    if not 1 <= queue <= _MAX_QUEUE:
        raise InvalidInputError(f"queue: expected 1 to {_MAX_QUEUE} frames, got {queue}")
    pipeline = _Pipeline(source, queue=queue, convert_colours=convert_colours)
    return _run(pipeline, timeout, drop)


def _run(pipeline: _Pipeline, timeout: float, drop: bool | None) -> Generator[Frame, None, None]:
    try:
        pipeline.start(drop)
        frame = pipeline.next(timeout)
        if frame is None:
            raise Error(f"{pipeline.name}: expected video, got the end of the stream before a frame; is it damaged?")
        while frame is not None:
            yield frame
            del frame  # or its buffer would be held while the next one is awaited
            frame = pipeline.next(timeout)
    finally:
        pipeline.stop()


class _Pipeline:
    """A source that ends in an appsink."""

    def __init__(self, source: str | os.PathLike[str], *, queue: int, convert_colours: bool) -> None:
        self._gst = gst = gst_library.load()
        self.name = without_password(os.fspath(source))
        self._convert = convert_colours
        self._error = ""
        # nvvidconv copies out of NVMM, or hands on; then videoconvert does what is left to do, or hands on.
        jetson = gst.gst_element_factory_find(b"nvvidconv")
        if jetson:
            gst.gst_object_unref(jetson)
        convert = "nvvidconv ! video/x-raw,format=NV12 ! " if jetson else ""
        error = c_void_p()
        convert += "videoconvert name=edgedet_convert"
        text = f"{_description(source)} ! {convert} ! appsink name=edgedet_frames sync=false"
        self._element = gst.gst_parse_launch(text.encode(), byref(error))
        if message := gst_library.take_error(error):  # an element may be there all the same, half linked
            self.stop()
            raise InvalidInputError(
                f"{self.name}: GStreamer cannot make this pipeline: {message}; where an element is missing, run: "
                f"{gst_library.INSTALL}"
            )
        self._sink = gst.gst_bin_get_by_name(self._element, b"edgedet_frames")
        self._bus = gst.gst_element_get_bus(self._element)
        _set_caps(self._sink, _CAPS)
        gst.gst_app_sink_set_max_buffers(self._sink, queue)
        self._probe(self._sink, gst_library.PAD_PROBE_QUERY_DOWNSTREAM, _ACCEPT_ANY_STRIDE)
        if convert_colours:
            converter = gst.gst_bin_get_by_name(self._element, b"edgedet_convert")
            self._probe(converter, gst_library.PAD_PROBE_EVENT_DOWNSTREAM, _CHOOSE_COLOURS)
            gst.gst_object_unref(converter)

    def _probe(self, element: int, kind: int, callback: Any) -> None:
        pad = self._gst.gst_element_get_static_pad(element, b"sink")
        self._gst.gst_pad_add_probe(pad, kind, callback, self._sink, None)
        self._gst.gst_object_unref(pad)

    def start(self, drop: bool | None) -> None:
        state = self._gst.gst_element_set_state(self._element, gst_library.STATE_PAUSED)
        if drop is None:
            drop = state == gst_library.STATE_CHANGE_NO_PREROLL
        self._gst.gst_app_sink_set_drop(self._sink, drop)
        if state != gst_library.STATE_CHANGE_FAILURE:
            state = self._gst.gst_element_set_state(self._element, gst_library.STATE_PLAYING)
        if state == gst_library.STATE_CHANGE_FAILURE:
            self._empty_bus()
            raise Error(self._error or f"{self.name}: GStreamer's pipeline does not start; try it with gst-launch-1.0")

    def next(self, timeout: float) -> Frame | None:
        """The next frame; None after the last one."""
        gst = self._gst
        deadline = time.monotonic() + timeout
        while True:
            wait = max(0.0, min(_SLICE, deadline - time.monotonic()))
            sample = gst.gst_app_sink_try_pull_sample(self._sink, int(wait * 1e9))
            ended = gst.gst_app_sink_is_eos(self._sink)  # asked before the bus: after an error the stream ends too
            self._empty_bus()
            if sample:
                try:
                    return self._frame(sample)
                finally:
                    gst.gst_mini_object_unref(sample)
            if self._error:
                raise Error(self._error)
            if ended:
                return None
            if time.monotonic() >= deadline:
                raise Error(
                    f"{self.name}: expected a frame within {timeout:g} s, got none; check that the source is on and "
                    "has video, let go of earlier frames, or raise timeout"
                )

    def stop(self) -> None:
        """Ends all threads of the pipeline. Frames that are still held stay valid."""
        if self._element:
            self._gst.gst_element_set_state(self._element, gst_library.STATE_NULL)
        for name in ("_bus", "_sink", "_element"):
            if pointer := getattr(self, name, None):
                self._gst.gst_object_unref(pointer)
                setattr(self, name, None)

    def __del__(self) -> None:
        if hasattr(self, "_element"):
            self.stop()

    def _frame(self, sample: int) -> Frame:
        gst, info = self._gst, gst_library.VideoInfo()
        if not gst.gst_video_info_from_caps(byref(info), gst.gst_sample_get_caps(sample)):
            raise Error(f"{self.name}: GStreamer gave a frame of a format that it does not know itself")
        buffer = gst.gst_sample_get_buffer(sample)
        mapping = _Mapping(gst, info, buffer)
        width, height = mapping.frame.info.width & ~1, mapping.frame.info.height & ~1
        luma, chroma = mapping.plane(0, height, width), mapping.plane(1, height // 2, width)
        if self._convert and info.colorimetry[0] == gst_library.RANGE_0_255:
            luma, chroma = _LIMITED_LUMA[luma], _LIMITED_CHROMA[chroma]
        pts = ctypes.cast(buffer, ctypes.POINTER(gst_library.Buffer)).contents.pts
        return Frame(luma, chroma, None if pts == gst_library.CLOCK_TIME_NONE else pts / 1e9)

    def _empty_bus(self) -> None:
        """Keeps the first error and drops all else, which would pile up over days."""
        while message := self._gst.gst_bus_pop_filtered(self._bus, gst_library.MESSAGE_ERROR):
            error, debug = c_void_p(), c_void_p()
            self._gst.gst_message_parse_error(message, byref(error), byref(debug))
            detail = (ctypes.string_at(debug.value) if debug.value else b"").decode(errors="replace")
            self._gst.g_free(debug)
            self._gst.gst_mini_object_unref(message)
            text = f"{self.name}: GStreamer: {gst_library.take_error(error)} ({' '.join(detail.split())})"
            self._error = self._error or without_password(text)


class _Mapping:
    """A mapped buffer, until nothing refers to it."""

    def __init__(self, gst: Any, info: gst_library.VideoInfo, buffer: int) -> None:
        self.frame = gst_library.VideoFrame()
        self._unmap = None
        if not gst.gst_video_frame_map(byref(self.frame), byref(info), buffer, gst_library.MAP_READ):
            raise Error(
                "GStreamer cannot map a frame into memory that the CPU reads; put a converter into the pipeline"
            )
        self._unmap = gst.gst_video_frame_unmap

    def __del__(self) -> None:
        if self._unmap is not None:
            self._unmap(byref(self.frame))

    def plane(self, index: int, rows: int, columns: int) -> NDArray[np.uint8]:
        return np.asarray(_Plane(self, index, rows, columns))


class _Plane:
    """What an array keeps alive; NumPy's ``__array_interface__``, version 3."""

    def __init__(self, mapping: _Mapping, index: int, rows: int, columns: int) -> None:
        self.mapping = mapping
        self.__array_interface__ = {
            "version": 3,
            "typestr": "|u1",
            "shape": (rows, columns),
            "strides": (mapping.frame.info.stride[index], 1),
            "data": (mapping.frame.data[index], True),  # read-only
        }


def without_password(text: str) -> str:
    """For messages, which end up in logs."""
    return re.sub(r"(://[^\s/:@]*):[^\s/@]*@", r"\1:***@", text)


def _set_caps(sink: int, text: bytes) -> None:
    gst = gst_library.load()
    caps = gst.gst_caps_from_string(text)
    gst.gst_app_sink_set_caps(sink, caps)
    gst.gst_mini_object_unref(caps)


def _accept_any_stride(pad: int, info: Any, sink: int) -> int:
    """Tells the elements upstream that GstVideoMeta is read here: without it they copy frames to the usual strides."""
    query = info.contents.data
    if query.contents.type != gst_library.QUERY_ALLOCATION:
        return gst_library.PAD_PROBE_OK
    gst = gst_library.load()
    gst.gst_query_add_allocation_meta(query, gst.gst_video_meta_api_get_type(), None)
    return gst_library.PAD_PROBE_HANDLED


def _choose_colours(pad: int, info: Any, sink: int) -> int:
    """Asks for BT.601 where the source has another matrix; where it has that one, the converter can hand frames on."""
    event = info.contents.data
    if event.contents.type == gst_library.EVENT_CAPS:
        gst, caps, video = gst_library.load(), c_void_p(), gst_library.VideoInfo()
        gst.gst_event_parse_caps(event, byref(caps))
        as_is = gst.gst_video_info_from_caps(byref(video), caps) and video.colorimetry[1] == gst_library.MATRIX_BT601
        _set_caps(sink, _CAPS if as_is else _CAPS + b",colorimetry=bt601")
    return gst_library.PAD_PROBE_OK


# Kept here, for pads call them from threads of their own.
_ACCEPT_ANY_STRIDE: Final = gst_library.PadProbe(_accept_any_stride)
_CHOOSE_COLOURS: Final = gst_library.PadProbe(_choose_colours)


def _description(source: str | os.PathLike[str]) -> str:
    """The source's part of the pipeline."""
    text = os.fspath(source)
    if not isinstance(text, str) or not text.strip() or "\0" in text:
        raise InvalidInputError(f"source: expected a file, device, URI or pipeline, got {text!r}")
    if re.fullmatch(r"/dev/video\d+", text):
        return f"v4l2src device={text} ! decodebin"
    if re.match(r"[a-z][a-z0-9+.-]*://", text):
        if re.search(r'[\s"\\]', text):
            raise InvalidInputError(f'source: expected a URI with space, " and \\ written as %20, %22, %5C, got {text}')
        return f'uridecodebin uri="{text}"'
    path = Path(text)
    if path.is_file():
        return f'uridecodebin uri="{path.resolve().as_uri()}"'
    if isinstance(source, os.PathLike) or re.search(r"[/.]", text.split()[0]):
        raise InvalidInputError(
            f"source: expected a file, got {text}, which is {'not a regular one' if path.exists() else 'not there'}"
        )
    return text

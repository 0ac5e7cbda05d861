"""The few functions and structures of GStreamer 1.x that `edgedet.gstreamer` needs, through its C interface.

That interface is the same from 1.16 (JetPack 5) on, whatever Python runs; PyGObject would be bound to the system's
Python. The structures are those of gst/gstbuffer.h, gst/gstpad.h, gst/gstmemory.h, gst/video/video-info.h and
gst/video/video-frame.h on 64-bit machines.
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, Structure, c_char_p, c_int, c_size_t, c_uint, c_uint64, c_ulong, c_void_p
from functools import lru_cache
from types import SimpleNamespace
from typing import Any, Final

from edgedet._core import Error

#: What brings the libraries and the elements that most pipelines need, on Debian, Ubuntu and JetPack.
INSTALL: Final = (
    "apt-get install gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-bad gstreamer1.0-libav"
)

#: Of VideoInfo.colorimetry: the range and the matrix.
RANGE_0_255: Final = 1
MATRIX_BT601: Final = 4

CLOCK_TIME_NONE: Final = 2**64 - 1
MAP_READ: Final = 1
MESSAGE_ERROR: Final = 1 << 1
EVENT_CAPS: Final = 50 << 8 | 14
PAD_PROBE_EVENT_DOWNSTREAM: Final = 1 << 6
PAD_PROBE_QUERY_DOWNSTREAM: Final = 1 << 9
PAD_PROBE_OK: Final = 1
PAD_PROBE_HANDLED: Final = 4
QUERY_ALLOCATION: Final = 140 << 8 | 6
STATE_NULL: Final = 1
STATE_PAUSED: Final = 3
STATE_PLAYING: Final = 4
STATE_CHANGE_FAILURE: Final = 0
STATE_CHANGE_NO_PREROLL: Final = 3  # a live source


class MiniObject(Structure):
    """GstMiniObject, which buffers, events and queries begin with."""

    _fields_ = [
        ("type", c_size_t),
        ("refcount", c_int),
        ("lockstate", c_int),
        ("flags", c_uint),
        ("functions", c_void_p * 3),
        ("priv_uint", c_uint),
        ("priv_pointer", c_void_p),
    ]


class Buffer(Structure):
    """The head of a GstBuffer. pts: nanoseconds, or CLOCK_TIME_NONE."""

    _fields_ = [("mini_object", MiniObject), ("pool", c_void_p), ("pts", c_uint64)]


class Passing(Structure):
    """The head of what passes a pad, GstEvent and GstQuery alike. type: such as EVENT_CAPS."""

    _fields_ = [("mini_object", MiniObject), ("type", c_int)]


class PadProbeInfo(Structure):
    """The head of a GstPadProbeInfo. data: what passes the pad."""

    _fields_ = [("type", c_int), ("id", c_ulong), ("data", POINTER(Passing))]


class MapInfo(Structure):
    """GstMapInfo."""

    _fields_ = [
        ("memory", c_void_p),
        ("flags", c_int),
        ("data", c_void_p),
        ("size", c_size_t),
        ("maxsize", c_size_t),
        ("user_data", c_void_p * 4),
        ("reserved", c_void_p * 4),
    ]


class VideoInfo(Structure):
    """GstVideoInfo. width, height: pixels; stride: bytes from row to row of each plane."""

    _fields_ = [
        ("finfo", c_void_p),
        ("interlace_mode", c_int),
        ("flags", c_int),
        ("width", c_int),
        ("height", c_int),
        ("size", c_size_t),
        ("views", c_int),
        ("chroma_site", c_int),
        ("colorimetry", c_int * 4),  # range, matrix, transfer function, primaries
        ("ratios", c_int * 4),
        ("offset", c_size_t * 4),
        ("stride", c_int * 4),
        ("reserved", c_void_p * 4),
    ]


class VideoFrame(Structure):
    """GstVideoFrame. data: address of each plane."""

    _fields_ = [
        ("info", VideoInfo),
        ("flags", c_int),
        ("buffer", c_void_p),
        ("meta", c_void_p),
        ("id", c_int),
        ("data", c_void_p * 4),
        ("map", MapInfo * 4),
        ("reserved", c_void_p * 4),
    ]


PadProbe = ctypes.CFUNCTYPE(c_int, c_void_p, POINTER(PadProbeInfo), c_void_p)

# Library: function: (result, arguments).
_FUNCTIONS: Final[dict[str, dict[str, tuple[Any, tuple[Any, ...]]]]] = {
    "libglib-2.0.so.0": {
        "g_free": (None, (c_void_p,)),
        "g_error_free": (None, (c_void_p,)),
    },
    "libgstreamer-1.0.so.0": {
        "gst_init_check": (c_int, (c_void_p, c_void_p, c_void_p)),
        "gst_parse_launch": (c_void_p, (c_char_p, POINTER(c_void_p))),
        "gst_bin_get_by_name": (c_void_p, (c_void_p, c_char_p)),
        "gst_caps_from_string": (c_void_p, (c_char_p,)),
        "gst_element_factory_find": (c_void_p, (c_char_p,)),
        "gst_element_get_bus": (c_void_p, (c_void_p,)),
        "gst_element_get_static_pad": (c_void_p, (c_void_p, c_char_p)),
        "gst_element_set_state": (c_int, (c_void_p, c_int)),
        "gst_bus_pop_filtered": (c_void_p, (c_void_p, c_int)),
        "gst_event_parse_caps": (None, (POINTER(Passing), POINTER(c_void_p))),
        "gst_message_parse_error": (None, (c_void_p, POINTER(c_void_p), POINTER(c_void_p))),
        "gst_mini_object_unref": (None, (c_void_p,)),
        "gst_object_unref": (None, (c_void_p,)),
        "gst_pad_add_probe": (c_ulong, (c_void_p, c_int, PadProbe, c_void_p, c_void_p)),
        "gst_query_add_allocation_meta": (None, (POINTER(Passing), c_size_t, c_void_p)),
        "gst_sample_get_buffer": (c_void_p, (c_void_p,)),
        "gst_sample_get_caps": (c_void_p, (c_void_p,)),
    },
    "libgstapp-1.0.so.0": {
        "gst_app_sink_is_eos": (c_int, (c_void_p,)),
        "gst_app_sink_set_caps": (None, (c_void_p, c_void_p)),
        "gst_app_sink_set_drop": (None, (c_void_p, c_int)),
        "gst_app_sink_set_max_buffers": (None, (c_void_p, c_uint)),
        "gst_app_sink_try_pull_sample": (c_void_p, (c_void_p, c_uint64)),
    },
    "libgstvideo-1.0.so.0": {
        "gst_video_frame_map": (c_int, (POINTER(VideoFrame), POINTER(VideoInfo), c_void_p, c_int)),
        "gst_video_frame_unmap": (None, (POINTER(VideoFrame),)),
        "gst_video_info_from_caps": (c_int, (POINTER(VideoInfo), c_void_p)),
        "gst_video_meta_api_get_type": (c_size_t, ()),
    },
}


@lru_cache(maxsize=None)
def load() -> SimpleNamespace:
    """Opens GStreamer and starts it, once: its functions by name. All of them release the GIL.

    Raises:
        Error: It is not installed, or does not start.
    """
    functions = {}
    try:
        for name, table in _FUNCTIONS.items():
            library = ctypes.CDLL(name)
            for function, (result, arguments) in table.items():
                pointer = getattr(library, function)
                pointer.restype, pointer.argtypes = result, arguments
                functions[function] = pointer
    except (OSError, AttributeError) as error:
        raise Error(f"expected GStreamer 1.16 or later, got none ({error}); run: {INSTALL}") from None
    if not functions["gst_init_check"](None, None, None):
        raise Error("GStreamer does not start; find out why with: gst-inspect-1.0")
    return SimpleNamespace(**functions)


def take_error(pointer: c_void_p) -> str:
    """The message of a GError, which is freed; empty for none."""
    if not pointer.value:
        return ""
    # struct GError { guint32 domain; gint code; gchar* message; }
    message = ctypes.cast(pointer.value + 8, POINTER(c_char_p))[0] or b""
    load().g_error_free(pointer)
    return message.decode(errors="replace")

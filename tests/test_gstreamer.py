"""Frames through GStreamer: against the bytes that went in, OpenCV's own decoder, and another process's memory."""

from __future__ import annotations

import ctypes
import gc
import itertools
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import reference
import tiny_onnx
from conftest import skip_or_fail
from numpy.typing import NDArray

from edgedet import Detections, Detector, Error, InvalidInputError, gst_library, gstreamer
from edgedet.labels import COCO80, Labels
from edgedet.onnx_import import import_model

ELEMENTS = ("videotestsrc", "videoconvert", "rawvideoparse", "decodebin", "qtdemux", "avdec_h264", "v4l2src", "shmsrc")


@pytest.fixture(scope="module", autouse=True)
def _gstreamer() -> None:
    try:
        gst = gst_library.load()
    except Error as error:
        skip_or_fail("gstreamer", str(error))
    for name in ELEMENTS:
        factory = gst.gst_element_factory_find(name.encode())
        if not factory:
            skip_or_fail("gstreamer", f"GStreamer lacks {name}; run: {gst_library.INSTALL}")
        gst.gst_object_unref(factory)


def threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


@pytest.fixture
def raw(tmp_path: Path) -> Callable[..., tuple[str, NDArray[np.uint8]]]:
    """Writes frames of noise and gives the pipeline that reads them as NV12 of a layout, and the bytes (N, size)."""

    def make(width: int, height: int, count: int, layout: str, size: int) -> tuple[str, NDArray[np.uint8]]:
        data = np.random.default_rng(0).integers(0, 256, (count, size), dtype=np.uint8)
        file = tmp_path / "frames.raw"
        file.write_bytes(data.tobytes())
        return (
            f"filesrc location={file} ! rawvideoparse format=nv12 width={width} height={height} framerate=10/1 "
            f"frame-size={size} {layout}",
            data,
        )

    return make


# Width, height, strides and offsets of the two planes, bytes a frame.
LAYOUTS = {
    "packed": (64, 48, (64, 64), (0, 64 * 48), 64 * 72),
    "pitch": (62, 48, (80, 80), (0, 80 * 48), 80 * 72),
    "padded height": (64, 34, (64, 64), (0, 64 * 48), 64 * 72),
    "each its own": (62, 34, (80, 96), (160, 4000), 8000),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_planes_of_any_layout(layout: str, raw: Callable[..., tuple[str, NDArray[np.uint8]]]) -> None:
    """Exactly the bytes that went in, at their own strides, in the memory that GStreamer's buffer has: no copy."""
    width, height, strides, offsets, size = LAYOUTS[layout]
    planes = f'plane-strides="<{strides[0]},{strides[1]}>" plane-offsets="<{offsets[0]},{offsets[1]}>"'
    pipeline, data = raw(width, height, 3, planes, size)
    shapes = ((height, width), (height // 2, width))
    count = 0
    for frame, bytes_in in zip(gstreamer.frames(pipeline), data, strict=True):
        for plane, shape, stride, offset in zip(frame.planes, shapes, strides, offsets, strict=True):
            expected = np.lib.stride_tricks.as_strided(bytes_in[offset:], shape, (stride, 1))
            np.testing.assert_array_equal(plane, expected)
            assert plane.strides == (stride, 1)
            assert not plane.flags.writeable
        start = memory_of(frame)
        assert [plane.ctypes.data - start for plane in frame.planes] == list(offsets)
        assert frame.timestamp == pytest.approx(count / 10)
        count += 1
    assert count == 3


def memory_of(frame: gstreamer.Frame) -> int:
    """Address of the first memory of a frame's buffer, asked of GStreamer itself."""
    gst = ctypes.CDLL("libgstreamer-1.0.so.0")
    gst.gst_buffer_peek_memory.restype = ctypes.c_void_p
    gst.gst_buffer_peek_memory.argtypes = [ctypes.c_void_p, ctypes.c_uint]
    gst.gst_memory_map.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int]
    gst.gst_memory_unmap.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
    buffer = frame.luma.base.mapping.frame.buffer  # type: ignore[union-attr]
    memory, info = gst.gst_buffer_peek_memory(buffer, 0), gst_library.MapInfo()
    assert gst.gst_memory_map(memory, ctypes.byref(info), gst_library.MAP_READ)
    address = info.data
    gst.gst_memory_unmap(memory, ctypes.byref(info))
    assert isinstance(address, int)
    return address


@pytest.mark.skipif(not shutil.which("gst-launch-1.0"), reason="no gst-launch-1.0; apt-get install gstreamer1.0-tools")
@pytest.mark.parametrize("colorimetry", ["bt601", "2:4:7:1"])
def test_the_pixels_of_another_process_are_read_where_they_are(colorimetry: str, tmp_path: Path) -> None:
    """Whatever stands between source and array: the array's address lies in the memory that the sender shares."""
    path = tmp_path / "socket"
    caps = f"video/x-raw,format=NV12,width=640,height=480,framerate=30/1,colorimetry={colorimetry}"
    command = f"gst-launch-1.0 videotestsrc is-live=true ! {caps} ! shmsink socket-path={path} shm-size=9000000 "
    sender = subprocess.Popen([*command.split(), "wait-for-connection=true"], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 20
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        for frame in itertools.islice(gstreamer.frames(f"shmsrc socket-path={path} is-live=true ! {caps}"), 3):
            lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if "shm" in line]
            spans = [[int(end, 16) for end in line[0].split("-")] for line in lines]
            assert any(low <= frame.luma.ctypes.data < high for low, high in spans)
            assert frame.chroma.ctypes.data == frame.luma.ctypes.data + 640 * 480
    finally:
        sender.kill()
        sender.wait()


def test_elements_upstream_learn_that_any_stride_will_do() -> None:
    """Decoders and cameras copy each frame where nobody answers their question for GstVideoMeta."""
    gst, library = gst_library.load(), ctypes.CDLL("libgstreamer-1.0.so.0")
    pointer = ctypes.c_void_p
    library.gst_query_new_allocation.restype = pointer
    library.gst_query_new_allocation.argtypes = [pointer, ctypes.c_int]
    library.gst_pad_peer_query.argtypes = [pointer, pointer]
    library.gst_query_find_allocation_meta.argtypes = [pointer, ctypes.c_size_t, pointer]
    # A live one: its thread never waits in a full queue, holding the lock that the query takes.
    source = gstreamer.frames("videotestsrc name=first is-live=true ! video/x-raw,format=NV12")
    next(source)
    element = gst.gst_bin_get_by_name(source.gi_frame.f_locals["pipeline"]._element, b"first")
    pad = gst.gst_element_get_static_pad(element, b"src")
    caps = gst.gst_caps_from_string(b"video/x-raw,format=NV12,width=320,height=240,framerate=30/1")
    query = library.gst_query_new_allocation(caps, 1)
    assert library.gst_pad_peer_query(pad, query)
    assert library.gst_query_find_allocation_meta(query, gst.gst_video_meta_api_get_type(), None)
    gst.gst_mini_object_unref(query)
    gst.gst_mini_object_unref(caps)
    for one in (pad, element):
        gst.gst_object_unref(one)
    source.close()


def test_frames_outlive_their_pipeline(raw: Callable[..., tuple[str, NDArray[np.uint8]]]) -> None:
    pipeline, data = raw(64, 48, 5, "", 64 * 72)
    kept = [frame.luma for frame in gstreamer.frames(pipeline)]
    gc.collect()
    list(gstreamer.frames(pipeline))
    for luma, bytes_in in zip(kept, data, strict=True):
        np.testing.assert_array_equal(luma.ravel(), bytes_in[: 64 * 48])


def test_a_frame_that_is_let_go_is_freed(raw: Callable[..., tuple[str, NDArray[np.uint8]]]) -> None:
    """Unmapped and released, for a camera has few buffers: 400 frames of 3 MB do not stay."""
    caps = "video/x-raw,format=NV12,width=1920,height=1080"

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    list(itertools.islice(gstreamer.frames(f"videotestsrc num-buffers=9 ! {caps}"), 3))
    before = resident()
    assert sum(1 for _ in gstreamer.frames(f"videotestsrc pattern=black num-buffers=400 ! {caps}")) == 400
    assert resident() - before < 200e6


def test_an_odd_last_row_and_column_are_left_out() -> None:
    [frame] = gstreamer.frames("videotestsrc num-buffers=1 ! video/x-raw,width=101,height=51")
    assert [plane.shape for plane in frame.planes] == [(50, 100), (25, 100)]
    [whole] = gstreamer.frames("videotestsrc num-buffers=1 ! video/x-raw,format=NV12,width=101,height=51")
    np.testing.assert_array_equal(frame.luma, whole.luma)


def test_a_file_loses_no_frame_however_slow_the_reader() -> None:
    times = []
    for frame in gstreamer.frames("videotestsrc num-buffers=12 ! video/x-raw,framerate=10/1", queue=1):
        times.append(frame.timestamp)
        time.sleep(0.02)
    assert times == pytest.approx(np.arange(12) / 10)


@pytest.mark.parametrize(("drop", "newest"), [(None, True), (False, False)])
def test_a_live_source_drops_old_frames(drop: bool | None, newest: bool) -> None:
    source = gstreamer.frames(
        "videotestsrc is-live=true ! video/x-raw,width=64,height=48,framerate=100/1", queue=1, drop=drop
    )
    first = next(source).timestamp
    time.sleep(0.5)
    second = next(source).timestamp
    source.close()
    assert first is not None
    assert second is not None
    assert (second - first > 0.3) is newest


def test_closing_ends_every_thread() -> None:
    counts = []
    for _ in range(10):
        source = gstreamer.frames("videotestsrc ! queue ! identity ! queue")
        next(source)
        source.close()
        counts.append(threads())
        with pytest.raises(StopIteration):
            next(source)
    assert max(counts) <= counts[0] + 6  # GStreamer keeps a few idle ones; 3 a pipeline would be 27


COLOURS = [(200, 40, 30), (20, 180, 60), (30, 60, 210), (128, 128, 128), (255, 255, 255), (250, 220, 40)]


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("colorimetry", ["bt601", "bt709", "2:4:7:1", "1:4:7:1", "1:3:5:1"])
def test_colours_arrive(colour: tuple[int, int, int], colorimetry: str) -> None:
    """Whatever matrix and range the source has, the NV12 that arrives is what the detector takes it for."""
    red, green, blue = colour
    argb = 255 << 24 | red << 16 | green << 8 | blue
    pipeline = (
        f"videotestsrc num-buffers=1 pattern=solid-color foreground-color={argb} ! video/x-raw,format=RGBx,width=64,"
        f"height=48 ! videoconvert ! video/x-raw,format=I420,colorimetry=(string){colorimetry}"
    )
    [frame] = gstreamer.frames(pipeline)
    rgb = reference.nv12_to_rgb(np.vstack(frame.planes))
    assert np.abs(rgb - colour).max() <= 8
    [as_is] = gstreamer.frames(pipeline, convert_colours=False)
    kept = bool(np.abs(np.vstack(as_is.planes).astype(int) - np.vstack(frame.planes)).max() <= 1)
    if len(set(colour)) > 1:  # greys have the same numbers in either matrix
        assert kept is (colorimetry in ("bt601", "2:4:7:1"))


def test_frames_of_a_file_are_those_of_another_decoder(shared: Path) -> None:
    """OpenCV brings a decoder and a colour conversion of its own (chroma interpolated, hence the tolerance)."""
    file = shared / "data" / "videos" / "intel_car-detection.mp4"
    capture = cv2.VideoCapture(str(file))
    count = 0
    for frame in itertools.islice(gstreamer.frames(file), 0, 60, 20):
        for _ in range(20 if count else 1):
            found, bgr = capture.read()
            assert found
        difference = np.abs(reference.nv12_to_rgb(np.vstack(frame.planes)) - bgr[..., ::-1].astype(int))
        assert difference.mean() < 1.5
        assert np.percentile(difference, 99) < 16
        count += 1
    capture.release()
    assert count == 3


@pytest.fixture(scope="module")
def femto(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Detector:
    bundle = tmp_path_factory.mktemp("femto") / "bundle"
    import_model(shared / "models" / "deimv2_hgnetv2_femto_coco.onnx", bundle, labels=COCO80, name="femto")
    return Detector(bundle, score_threshold=0.5, threads=1)


@pytest.mark.parametrize("name", ["intel_car-detection.mp4", "intel_one-by-one-person-detection.mp4"])
def test_detections_are_those_of_another_decoder(name: str, shared: Path, femto: Detector) -> None:
    file = shared / "data" / "videos" / name
    capture = cv2.VideoCapture(str(file))
    seen = 0
    for index, frame in enumerate(itertools.islice(gstreamer.frames(file), 101)):
        found, bgr = capture.read()
        assert found
        if index % 20 == 0:
            ours, theirs = femto(frame.planes, format="nv12"), femto(bgr, format="bgr")
            seen += matched(ours, theirs)
            # The same NV12 converted by the reference differs by rounding only.
            again = femto(reference.nv12_to_rgb(np.vstack(frame.planes)).astype(np.uint8))
            np.testing.assert_array_equal(ours.labels, again.labels)
            np.testing.assert_allclose(ours.boxes, again.boxes, atol=0.5)
    capture.release()
    assert seen > 0


def matched(ours: Detections, theirs: Detections) -> int:
    """Every clear detection of either has its like in the other, of its class, within 6 pixels and 0.1 of score."""
    count = 0
    for one, other in ((ours, theirs), (theirs, ours)):
        for box, score, label in zip(one.boxes, one.scores, one.labels, strict=True):
            if score >= 0.6:
                same = (other.labels == label) & (np.abs(other.boxes - box).max(axis=1) < 6)
                assert (same & (np.abs(other.scores - score) < 0.1)).any()
                count += 1
    return count


@pytest.mark.parametrize(
    ("source", "kind", "message"),
    [
        ("nosuch", InvalidInputError, 'no element "nosuch".*apt-get install'),
        ("videotestsrc ! fakesink", InvalidInputError, "cannot make this pipeline: could not link"),
        ("videotestsrc nosuch=1", InvalidInputError, 'no property "nosuch"'),
        ("", InvalidInputError, "expected a file, device, URI or pipeline"),
        ("missing.mp4", InvalidInputError, "not there"),
        (Path("missing"), InvalidInputError, "not there"),
        ("/dev", InvalidInputError, "not a regular one"),
        ('rtsp://host/" ! fakesink', InvalidInputError, "%22"),
        ("/dev/video99", Error, "GStreamer: Cannot identify device '/dev/video99'"),
        ("rtsp://127.0.0.1:1/x", Error, "GStreamer: Could not open resource"),
        ("videotestsrc num-buffers=0", Error, "end of the stream before a frame"),
        ("videotestsrc num-buffers=2 ! identity error-after=1", Error, "GStreamer: Failed after iterations"),
    ],
)
def test_what_does_not_work_says_why(source: str | Path, kind: type[Error], message: str) -> None:
    with pytest.raises(kind, match=message):
        list(gstreamer.frames(source))


def test_passwords_stay_out_of_messages() -> None:
    with pytest.raises(Error, match=r"rtsp://anna:\*\*\*@127\.0\.0\.1:1/x: GStreamer") as caught:
        next(gstreamer.frames("rtsp://anna:secret@127.0.0.1:1/x"))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"no video, a text", b"\0\0\0\x20ftypisom" + bytes(500)])
def test_damaged_files(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / 'a "file" ! with spaces.mp4'
    file.write_bytes(content)
    with pytest.raises(Error, match=r"GStreamer: |before a frame|within 1 s"):
        list(gstreamer.frames(file, timeout=1))


@pytest.mark.parametrize("options", [{"timeout": 0}, {"timeout": float("nan")}, {"queue": 0}, {"queue": 65}])
def test_options_are_checked_at_once(options: dict[str, float]) -> None:
    with pytest.raises(InvalidInputError, match="expected"):
        gstreamer.frames("videotestsrc", **options)  # type: ignore[arg-type]


@pytest.fixture
def silent() -> Iterator[str]:
    """A camera on the network that takes the call and never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield f"rtsp://127.0.0.1:{server.getsockname()[1]}/stream"


def test_a_dead_source_is_no_hang(silent: str) -> None:
    read = os.pipe()
    pipeline = f"fdsrc fd={read[0]} ! rawvideoparse format=nv12 width=64 height=48"
    for source in (pipeline, silent):
        started = time.monotonic()
        with pytest.raises(Error, match=r"expected a frame within 0\.4 s"):
            next(gstreamer.frames(source, timeout=0.4))
        assert time.monotonic() - started < 10
    for descriptor in read:
        os.close(descriptor)


def test_without_gstreamer_the_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", absent)
    with pytest.raises(Error, match=r"got none \(libglib.*apt-get install gstreamer1\.0-plugins-base"):
        gst_library.load.__wrapped__()


def test_a_detector_takes_the_planes(tmp_path: Path) -> None:
    tiny_onnx.logits_model(tmp_path / "tiny.onnx")
    import_model(tmp_path / "tiny.onnx", tmp_path / "bundle", labels=Labels(tiny_onnx.CLASSES, (1, 2, 3)))
    detector = Detector(tmp_path / "bundle", threads=1)
    pattern = f"pattern=solid-color foreground-color={0xFFFF0000}"
    [frame] = gstreamer.frames(f"videotestsrc num-buffers=1 {pattern} ! video/x-raw,width=102,height=50")
    red = np.zeros((50, 102, 3), np.uint8)
    red[..., 0] = 255
    np.testing.assert_allclose(detector(frame.planes, format="nv12").scores, detector(red).scores, atol=0.02)

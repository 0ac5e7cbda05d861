"""Videos through `edgedet predict`: against frame-by-frame detection of what PyAV decodes; what can go wrong."""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cell_world import make_bundle, make_model
from conftest import ROOT
from numpy.typing import NDArray
from videos import read_video, scene, turn, write_audio, write_video

from edgedet import Detections, Detector, Error
from edgedet.cli import main
from edgedet.labels import COCO80
from edgedet.onnx_import import import_model
from edgedet.video.kind import is_live, is_video
from edgedet.video.live import live_frames
from edgedet.video.queue import FrameQueue
from edgedet.video.run import Progress, detect_video
from edgedet.video.source import VideoFrame, open_video
from edgedet.video.tracking import Tracker, with_tracks
from edgedet.video.writer import VideoWriter

Output = tuple[int, str, str]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("video")
    return make_bundle(folder / "bundle", make_model(folder / "cells.onnx"))


@pytest.fixture(scope="module")
def detector(bundle: Path) -> Detector:
    return Detector(bundle, threads=1, score_threshold=0.3)


@pytest.fixture
def predict(bundle: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Output]:
    def call(*arguments: str | Path) -> Output:
        try:
            code = main(["predict", str(bundle), *(str(argument) for argument in arguments)])
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def check_lines(
    rows: list[dict[str, Any]], images: list[NDArray[np.uint8]], times: list[Fraction], by: Detector
) -> None:
    """Every number of every line, to the last bit."""
    assert len(rows) == len(images)
    for number, (row, image, at) in enumerate(zip(rows, images, times, strict=True)):
        assert (row["frame"], row["time"]) == (number, float(at))
        expected = by(image)
        assert [tuple(one["box"]) for one in row["detections"]] == [one.box for one in expected]
        assert [one["score"] for one in row["detections"]] == [one.score for one in expected]
        assert [one["name"] for one in row["detections"]] == expected.names


CLIPS = {
    "intel_bottle-detection": 1189,
    "intel_car-detection": 377,
    "intel_one-by-one-person-detection": 1394,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CLIPS)
def test_clips_are_detected_frame_by_frame(
    name: str, shared: Path, detector: Detector, predict: Callable[..., Output], tmp_path: Path
) -> None:
    clip = shared / "data" / "videos" / f"{name}.mp4"
    code, out, err = predict(clip, "--json", tmp_path / "a.jsonl", "--threads", "1")
    assert (code, f"{CLIPS[name]} frames in" in out, " FPS" in out) == (0, True, True), err
    images, times = read_video(clip)
    assert len(images) == CLIPS[name]
    check_lines(lines(tmp_path / "a.jsonl"), images, times, detector)


@pytest.mark.slow
def test_a_clip_with_a_published_model(shared: Path, tmp_path: Path) -> None:
    import_model(shared / "models" / "deimv2_hgnetv2_atto_coco.onnx", tmp_path / "atto", labels=COCO80)
    clip = shared / "data" / "videos" / "intel_car-detection.mp4"
    out, rows = tmp_path / "out.mp4", tmp_path / "a.jsonl"
    arguments = ["predict", str(tmp_path / "atto"), str(clip), "--out", str(out), "--json", str(rows), "--threads", "2"]
    assert main(arguments) == 0
    images, times = read_video(clip)
    check_lines(lines(rows), images, times, Detector(tmp_path / "atto", score_threshold=0.3, threads=2))
    drawn, kept = read_video(out)
    assert kept == times
    assert drawn[0].shape == images[0].shape


def test_what_is_drawn_and_what_is_kept(predict: Callable[..., Output], detector: Detector, tmp_path: Path) -> None:
    images = [scene(number, 320, 256) for number in range(40)]
    clip = write_video(tmp_path / "in.mp4", images)
    code, out, err = predict(clip, "--out", tmp_path / "out.mp4")
    assert (code, err) == (0, "")
    assert "in.mp4: 40 frames in" in out
    assert f"written: {tmp_path / 'out.mp4'} (without sound)" in out
    assert sorted(file.name for file in tmp_path.iterdir()) == ["in.mp4", "out.mp4"]
    source, times = read_video(clip)
    drawn, kept = read_video(tmp_path / "out.mp4")
    assert kept == times
    for number, (before, after) in enumerate(zip(source, drawn, strict=True)):
        (found,) = detector(before)
        x0, y0, x1, y1 = (round(side) for side in found.box)
        assert found.label == number % 2
        changed = np.abs(before.astype(int) - after).max(axis=2) > 40
        assert changed[y0 : y0 + 2, x0:x1].mean() > 0.5  # a line along the box
        far = np.ones_like(changed)
        far[max(0, y0 - 25) : y1 + 4, max(0, x0 - 4) : x1 + 90] = False
        assert changed[far].mean() < 0.01


def test_colours_are_kept(tmp_path: Path) -> None:
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [250, 200, 60]], np.uint8)
    with VideoWriter(tmp_path / "a.mp4", time_base=Fraction(1, 10)) as writer:
        for number, colour in enumerate(colours):
            writer.write(np.broadcast_to(colour, (64, 64, 3)).copy(), Fraction(number, 10))
    images, _ = read_video(tmp_path / "a.mp4")
    np.testing.assert_allclose([image[32, 32] for image in images], colours, atol=6)


@pytest.mark.parametrize("time_base", [Fraction(1, 1000), Fraction(1001, 30000), Fraction(1, 90000)])
def test_uneven_time_stamps_are_kept(predict: Callable[..., Output], tmp_path: Path, time_base: Fraction) -> None:
    ticks = [0, 3, 4, 50, 51, 200, 1000]
    clip = write_video(tmp_path / "in.mp4", [scene(n) for n in range(7)], times=ticks, time_base=time_base)
    assert predict(clip, "--out", tmp_path / "out.mp4", "--json", tmp_path / "a.jsonl")[0] == 0
    expected = [tick * time_base for tick in ticks]
    assert read_video(clip)[1] == read_video(tmp_path / "out.mp4")[1] == expected
    assert [row["time"] for row in lines(tmp_path / "a.jsonl")] == [float(at) for at in expected]


def test_odd_sizes_and_one_frame(predict: Callable[..., Output], detector: Detector, tmp_path: Path) -> None:
    image = scene(5, 131, 77)
    clip = write_video(tmp_path / "in.mkv", [image], codec="ffv1", pixels="bgr0")
    assert predict(clip, "--out", tmp_path / "out.mp4", "--json", tmp_path / "a.jsonl")[0] == 0
    check_lines(lines(tmp_path / "a.jsonl"), [image], [Fraction(0)], detector)
    (drawn,), _ = read_video(tmp_path / "out.mp4")
    assert drawn.shape == (78, 132, 3)  # by one more row and column of the edge
    np.testing.assert_allclose(drawn[-8:, -30:].mean(axis=(0, 1)), [110, 110, 110], atol=6)


@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
def test_rotation_is_applied(predict: Callable[..., Output], detector: Detector, tmp_path: Path, quarters: int) -> None:
    clip = turn(write_video(tmp_path / "in.mp4", [scene(n, 128, 64) for n in (1, 4)]), quarters)
    assert predict(clip, "--out", tmp_path / "out.mp4", "--json", tmp_path / "a.jsonl")[0] == 0
    images, times = read_video(clip)
    shown = [np.rot90(image, -quarters) for image in images]
    check_lines(lines(tmp_path / "a.jsonl"), shown, times, detector)
    drawn, _ = read_video(tmp_path / "out.mp4")
    assert drawn[0].shape == shown[0].shape


def test_frames_of_another_size_are_scaled(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "a.mp4", time_base=Fraction(1, 10)) as writer:
        for number, side in enumerate((64, 32, 130)):
            writer.write(np.full((side, side, 3), 50 * (number + 1), np.uint8), Fraction(number, 10))
    images, _ = read_video(tmp_path / "a.mp4")
    assert [image.shape for image in images] == [(64, 64, 3)] * 3
    np.testing.assert_allclose([image.mean() for image in images], [50, 100, 150], atol=4)


def test_time_stamps_that_do_not_rise_are_made_to(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "a.mp4", time_base=Fraction(1, 10)) as writer:
        for tick in (0, 0, 5, 4, 6):
            writer.write(scene(1), Fraction(tick, 10))
    assert read_video(tmp_path / "a.mp4")[1] == [Fraction(tick, 10) for tick in (0, 1, 5, 6, 7)]


@pytest.fixture
def long_clip(tmp_path: Path) -> Path:
    """Its header is at its front, so that what is left of it can be read."""
    images = [scene(n, 128, 128) for n in range(60)]
    return write_video(tmp_path / "in.mp4", images, movflags="+faststart")


def test_a_video_that_is_cut_off(predict: Callable[..., Output], long_clip: Path, tmp_path: Path) -> None:
    long_clip.write_bytes(long_clip.read_bytes()[: int(long_clip.stat().st_size * 0.6)])
    code, out, err = predict(long_clip, "--out", tmp_path / "out.mp4")
    assert code == 2
    assert "of 60 frames: it is cut off or damaged" in err
    images, _ = read_video(tmp_path / "out.mp4")
    assert 10 < len(images) < 60
    assert f"{len(images)} frames in" in out


@pytest.mark.parametrize("seed", range(4))
def test_a_video_with_damage(predict: Callable[..., Output], long_clip: Path, tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    data = bytearray(long_clip.read_bytes())
    for at in rng.integers(len(data) // 3, len(data), 60):
        data[at] ^= 0xFF
    long_clip.write_bytes(data)
    code, _, err = predict(long_clip, "--out", tmp_path / "out.mp4")
    assert (code, err != "") == (2, True)
    assert "Traceback" not in err
    images, _ = read_video(tmp_path / "out.mp4")
    assert len(images) > 10


def test_what_is_no_video(predict: Callable[..., Output], tmp_path: Path) -> None:
    text = tmp_path / "text.mp4"
    text.write_text("not a video at all " * 100)
    plain = write_video(tmp_path / "plain.mp4", [scene(n, 128, 128) for n in range(20)])  # its header is at its end
    plain.write_bytes(plain.read_bytes()[: plain.stat().st_size // 2])
    empty = tmp_path / "empty.mkv"
    empty.write_bytes(b"")
    audio = write_audio(tmp_path / "audio.mkv")
    for file, message in (
        (text, "text.mp4: expected a video that can be read, got: "),
        (plain, "plain.mp4: expected a video that can be read, got: "),
        (empty, "empty.mkv: expected a video that can be read, got: "),
        (audio, "audio.mkv: expected a video, got a file without pictures"),
    ):
        code, _, err = predict(file, "--out", tmp_path / "out.mp4")
        assert code == 2
        assert err.startswith("error: ")
        assert message in err
        assert not (tmp_path / "out.mp4").exists()
    code, _, err = predict(tmp_path / "missing.mp4")
    assert (code, "missing.mp4: no such file or folder" in err) == (2, True)


def test_a_codec_that_is_not_known(predict: Callable[..., Output], tmp_path: Path) -> None:
    file = write_video(tmp_path / "in.mkv", [scene(1)])
    file.write_bytes(file.read_bytes().replace(b"V_MPEG4/ISO/AVC", b"V_MPEG9/NEW/XYZ"))
    code, _, err = predict(file)
    assert code == 2
    assert "in.mkv: expected a video whose codec FFmpeg decodes" in err


def test_no_encoder(predict: Callable[..., Output], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgedet.video.writer._ENCODERS", ("h264_nonsense", "libx264nonsense"))
    clip = write_video(tmp_path / "in.mp4", [scene(1)])
    code, _, err = predict(clip, "--out", tmp_path / "out.mp4")
    assert code == 2
    assert "expected an H.264 encoder" in err
    assert "h264_nonsense" in err
    assert [file.name for file in tmp_path.iterdir()] == ["in.mp4"]


def test_the_next_encoder_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgedet.video.writer._ENCODERS", ("h264_nonsense", "mpeg4"))
    with VideoWriter(tmp_path / "a.mp4", time_base=Fraction(1, 10)) as writer:
        writer.write(scene(1), Fraction(0))
    assert len(read_video(tmp_path / "a.mp4")[0]) == 1


@pytest.mark.parametrize(
    ("out", "message"),
    [("in.mp4", "another file than the video"), ("a.avi", "ends in .mp4"), ("no/folder.mp4", "does not exist")],
)
def test_where_a_video_cannot_go(predict: Callable[..., Output], tmp_path: Path, out: str, message: str) -> None:
    clip = write_video(tmp_path / "in.mp4", [scene(1)])
    before = clip.read_bytes()
    code, _, err = predict(clip, "--out", tmp_path / out)
    assert (code, message in err) == (2, True), err
    assert clip.read_bytes() == before


def test_a_folder_takes_the_name_of_the_video(predict: Callable[..., Output], tmp_path: Path) -> None:
    clip = write_video(tmp_path / "in.mp4", [scene(1)])
    assert predict(clip, "--out", tmp_path / "drawn")[0] == 0
    assert [file.name for file in (tmp_path / "drawn").iterdir()] == ["in.mp4"]
    code, _, err = predict(clip, clip)
    assert (code, "one video alone" in err) == (2, True)


def test_kinds_are_told_by_content(tmp_path: Path) -> None:
    from PIL import Image

    as_jpeg = write_video(tmp_path / "video.mp4", [scene(1)]).rename(tmp_path / "video.jpg")
    picture = tmp_path / "picture.mp4"
    Image.fromarray(scene(1)).save(picture, format="png")
    (tmp_path / "photo.avif").write_bytes(b"\0\0\0\x20ftypavif" + bytes(40))
    (tmp_path / "stream.bin").write_bytes((b"\x47" + bytes(187)) * 3)
    (tmp_path / "7").write_bytes(b"\xff\xd8")
    os.chdir(tmp_path)
    kinds = {
        str(as_jpeg): True,
        "photo.avif": False,
        "stream.bin": True,
        "7": False,
        "8": True,
        "/dev/video3": True,
        "rtsp://user:word@camera/x": True,
        "videotestsrc ! identity": True,
        str(tmp_path): False,
        "missing.jpg": False,
        str(write_video(tmp_path / "a.mkv", [scene(1)])): True,
        str(write_video(tmp_path / "a.avi", [scene(1)], codec="mpeg4")): True,
        str(write_video(tmp_path / "a.ts", [scene(1)])): True,
    }
    assert {source: is_video(source) for source in kinds} == kinds
    live = {"rtsp://a/b": True, "http://a/b.mp4": False, "8": True, "/dev/video0": True, "a.mp4": False}
    assert {source: is_live(source) for source in live} == live


def test_a_picture_named_like_a_video_is_a_picture(predict: Callable[..., Output], tmp_path: Path) -> None:
    from PIL import Image

    picture = tmp_path / "picture.mp4"
    Image.fromarray(scene(1)).save(picture, format="png")
    code, out, err = predict(picture)
    assert (code, err) == (0, "")
    assert "picture.mp4 (64x64): " in out


def run_without(package: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    code = (
        f"import sys; sys.path[:0] = [{str(ROOT / 'python')!r}]; sys.modules[{package!r}] = None\n"
        f"from edgedet import Error, gst_library\n"
        f"def none(): raise Error('GStreamer is not installed')\n"
        f"gst_library.load = none\n"
        f"from edgedet.cli import main; sys.exit(main({[str(argument) for argument in arguments]!r}))"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_without_a_reader_both_are_named(bundle: Path, tmp_path: Path) -> None:
    clip = write_video(tmp_path / "in.mp4", [scene(1)])
    done = run_without("av", "predict", bundle, clip)
    assert done.returncode == 2
    assert "pip install 'edgedet[video]'" in done.stderr
    assert "GStreamer is not installed" in done.stderr
    done = run_without("av", "predict", bundle, clip, "--reader", "av")
    assert (done.returncode, "pip install 'edgedet[video]'" in done.stderr) == (2, True)
    done = run_without("trackers", "predict", bundle, clip, "--track")
    if "supervision" not in sys.modules:
        assert done.returncode in (0, 2)
    assert "Traceback" not in done.stderr


def test_tracking_needs_a_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trackers", None)
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(Error, match="pip install trackers, or leave --track out"):
        Tracker(10.0)


class FakeSupervision:
    """What the packages supervision and trackers are asked for."""

    def __init__(self, xyxy: Any, confidence: Any, class_id: Any, data: dict[str, Any]) -> None:
        self.xyxy, self.data, self.tracker_id = xyxy, data, None

    def __len__(self) -> int:
        return len(self.xyxy)


class FakeByteTrack:
    """Numbers objects by their place from the left, gives them back in that order, and is not sure of the first."""

    def __init__(self, frame_rate: float) -> None:
        assert frame_rate == 12.5

    def update(self, given: Any) -> Any:
        order = np.argsort(given.xyxy[:, 0])
        back = FakeSupervision(given.xyxy[order], None, None, {key: value[order] for key, value in given.data.items()})
        back.tracker_id = np.arange(len(order)) - 1  # type: ignore[assignment]
        return back


def test_tracks_find_their_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trackers", types.SimpleNamespace(ByteTrackTracker=FakeByteTrack))
    monkeypatch.setitem(sys.modules, "supervision", types.SimpleNamespace(Detections=FakeSupervision))
    boxes = np.array([[30, 0, 40, 9], [10, 0, 20, 9], [20, 0, 30, 9]], np.float32)
    found = Detections(boxes, np.full(3, 0.5, np.float32), np.zeros(3, np.int32), ["a", "b", "c"])
    tracks = Tracker(12.5).update(found)
    assert tracks == [1, None, 0]
    assert with_tracks(found, tracks).names == ["a #1", "b", "c #0"]


def frames(count: int | None = None, pause: float = 0.0) -> Iterator[VideoFrame]:
    for number in itertools.count() if count is None else range(count):
        time.sleep(pause)
        yield VideoFrame(number, Fraction(number, 10), scene(number))


class Slow:
    """A detector that takes its time."""

    def stream(self, items: Any, **_: Any) -> Any:
        for item in items:
            time.sleep(0.02)
            yield item, None


@pytest.mark.parametrize("drop", [False, True])
def test_a_slow_detector_drops_frames_or_has_them_wait(drop: bool) -> None:
    seen: list[int] = []
    outcome = detect_video(
        Slow(),  # type: ignore[arg-type]
        frames(60, pause=0.002),
        format="rgb",
        stop=threading.Event(),
        drop=drop,
        tell=lambda frame, *_: seen.append(frame.index),
    )
    progress = outcome.progress
    assert progress.frames == len(seen)
    assert progress.frames + progress.dropped == 60
    assert seen == sorted(set(seen))
    assert (progress.dropped > 20) == drop
    assert seen[-1] == 59  # the newest is never the one that is lost
    assert progress.time == Fraction(59, 10)
    assert progress.fps == pytest.approx(progress.frames / progress.seconds)


def test_the_reader_is_bounded_and_closed() -> None:
    taken = []
    closed = threading.Event()

    def source() -> Iterator[VideoFrame]:
        try:
            for frame in frames():
                taken.append(frame.index)
                yield frame
        finally:
            closed.set()

    with FrameQueue(source(), size=3, drop=False, stop=threading.Event()) as queue:
        first = next(iter(queue))
        time.sleep(0.2)
        assert first.index == 0
        assert len(taken) <= 5
    assert closed.is_set()


def test_an_error_of_the_reader_comes_after_its_frames(detector: Detector) -> None:
    def source() -> Iterator[VideoFrame]:
        yield from frames(3)
        raise Error("the disk is gone")

    outcome = detect_video(detector, source(), format="rgb", stop=threading.Event())
    assert outcome.progress.frames == 3
    assert str(outcome.error) == "the disk is gone"
    assert not outcome.interrupted


def test_stopping_ends_after_the_frames_under_way(detector: Detector) -> None:
    stop = threading.Event()

    def progress(state: Progress) -> None:
        if state.frames == 5:
            stop.set()

    outcome = detect_video(detector, frames(), format="rgb", stop=stop, progress=progress)
    assert 5 <= outcome.progress.frames <= 20
    assert outcome.error is None


class Fails:
    """A source that gives `count` frames and then ends or fails."""

    def __init__(self, count: int, error: str = "") -> None:
        self.name, self.count, self.error = "camera", count, error

    def frames(self) -> Iterator[VideoFrame]:
        yield from frames(self.count)
        if self.error:
            raise Error(self.error)


def test_a_live_source_is_opened_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgedet.video.live._FIRST_PAUSE", 0.02)
    more: list[Any] = [Error("refused"), Fails(2), Error("refused"), Fails(0), Fails(1, "lost")]
    said: list[str] = []

    def reopen() -> Any:
        if not more:
            raise Error("gone for good")
        if isinstance(one := more.pop(0), Error):
            raise one
        return one

    got: list[VideoFrame] = []
    began = time.monotonic()
    with pytest.raises(Error, match="gone for good"):
        got.extend(live_frames(Fails(3, "lost"), reopen, patience=0.5, stop=threading.Event(), say=said.append))  # type: ignore[arg-type]
    assert 0.4 < time.monotonic() - began < 5
    assert said[:3] == [
        "lost; trying again in 0.0 s",
        "refused; trying again in 0.0 s",
        "camera: the stream ended; trying again in 0.0 s",
    ]


def test_times_and_numbers_go_on_across_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgedet.video.live._FIRST_PAUSE", 0.05)
    stop = threading.Event()
    got: list[VideoFrame] = []
    for frame in live_frames(Fails(3), lambda: Fails(3), patience=9, stop=stop, say=lambda _: None):  # type: ignore[arg-type, return-value]
        got.append(frame)
        if len(got) == 6:
            stop.set()
    assert [frame.index for frame in got] == list(range(6))
    times = [frame.time for frame in got]
    assert times == sorted(times)
    assert times[3] - times[2] >= Fraction(4, 100)
    assert not list(live_frames(Fails(0), lambda: Fails(3), patience=0, stop=threading.Event(), say=print))  # type: ignore[arg-type, return-value]


class Server:
    """Sends a file to each one who connects, `rate` bytes a second."""

    def __init__(self, data: bytes, connections: int, pause: float = 0.0) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"tcp://127.0.0.1:{self._socket.getsockname()[1]}"
        self._data, self._connections, self._pause = data, connections, pause
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        for _ in range(self._connections):
            client, _ = self._socket.accept()
            try:
                for at in range(0, len(self._data), 1880):
                    client.sendall(self._data[at : at + 1880])
                    time.sleep(self._pause)
            except OSError:
                pass
            client.close()
        self._socket.close()


def test_a_stream_over_the_network_that_breaks_off(predict: Callable[..., Output], tmp_path: Path) -> None:
    clip = write_video(tmp_path / "in.ts", [scene(n) for n in range(20)])
    server = Server(clip.read_bytes(), connections=2)
    code, out, err = predict(
        server.url, "--out", tmp_path / "out.mp4", "--json", tmp_path / "a.jsonl", "--drop", "none", "--reconnect", "2"
    )
    rows = lines(tmp_path / "a.jsonl")
    assert code == 2  # in the end nobody answers any more
    assert "the stream ended; trying again in 0.5 s" in err
    assert [row["frame"] for row in rows] == list(range(40))
    assert all(row["detections"] for row in rows)
    assert "40 frames in" in out
    images, times = read_video(tmp_path / "out.mp4")
    assert len(images) == 40
    assert times == sorted(set(times))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_keeps_what_was_written(bundle: Path, tmp_path: Path, number: signal.Signals) -> None:
    clip = write_video(tmp_path / "in.ts", [scene(n, 320, 320) for n in range(400)])
    server = Server(clip.read_bytes(), connections=1, pause=0.01)
    out, rows = tmp_path / "out.mp4", tmp_path / "a.jsonl"
    command = [sys.executable, "-m", "edgedet", "predict", bundle, server.url, "--out", out, "--json", rows]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (rows.exists() and rows.read_text().count("\n") > 5):
        time.sleep(0.05)
    process.send_signal(number)
    printed, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert "interrupted; the frames so far were kept" in err
    assert "Traceback" not in err
    images, _ = read_video(out)
    assert len(images) == rows.read_text().count("\n") > 5
    assert f"{len(images)} frame" in printed


def test_progress_is_told(predict: Callable[..., Output], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgedet.cli.predict_video._EVERY", 0.0)
    clip = write_video(tmp_path / "in.mp4", [scene(n) for n in range(5)])
    code, _, err = predict(clip)
    assert code == 0
    assert err.splitlines()[-1].startswith("frame 5 of 5, 0.4 s, ")
    assert err.splitlines()[-1].endswith(" FPS")


def test_gstreamer_reads_where_it_is_asked_to(detector: Detector, tmp_path: Path) -> None:
    try:
        source = open_video("videotestsrc num-buffers=3 ! video/x-raw,width=64,height=48,framerate=10/1")
    except Error as error:
        pytest.skip(str(error))
    assert source.format == "nv12"
    got = list(source.frames())
    assert [frame.time for frame in got] == [Fraction(n, 10) for n in range(3)]
    assert got[0].rgb().shape == (48, 64, 3)
    outcome = detect_video(detector, iter(got), format="nv12", stop=threading.Event())
    assert outcome.progress.frames == 3


def test_passwords_are_not_told() -> None:
    with pytest.raises(Error) as caught:
        open_video("rtsp://me:secret@127.0.0.1:9/x", reader="av", timeout=2)
    assert "secret" not in str(caught.value)
    assert "rtsp://me:***@127.0.0.1:9/x: expected a video that can be read" in str(caught.value)


def test_files_are_never_protocols(tmp_path: Path) -> None:
    clip = write_video(tmp_path / "in.mkv", [scene(1)])
    with pytest.raises(Error, match="No such file"):
        open_video(f"concat:{clip}|{clip}", reader="av")

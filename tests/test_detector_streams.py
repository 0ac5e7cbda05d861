"""Detection in the background: order, bounds, errors, cancelling, closing, all of it together with swaps."""

from __future__ import annotations

import copy
import itertools
import pickle
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_onnx
from numpy.typing import NDArray

from edgedet import Detections, Detector, ImageError, InvalidInputError
from edgedet.bundle import InputSpec, LogitsBoxes, write_bundle
from edgedet.submissions import Submissions, in_order


def write(folder: Path, name: str = "tiny", **model: Any) -> Path:
    return write_bundle(
        folder / name,
        tiny_onnx.logits_model(folder / f"{name}.onnx", **model),
        name=name,
        input=InputSpec(width=tiny_onnx.SIZE, height=tiny_onnx.SIZE),
        output=LogitsBoxes(top_k=9),
        classes=tiny_onnx.CLASSES,
    )


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write(tmp_path)


@pytest.fixture
def detector(bundle: Path) -> Iterator[Detector]:
    with Detector(bundle, threads=1, requests=2) as made:
        yield made


def plain(level: int) -> NDArray[np.uint8]:
    return np.full((16, 24, 3), (level, 10, 20), np.uint8)


def same(a: Detections, b: Detections) -> bool:
    return a.names == b.names and np.array_equal(a.boxes, b.boxes) and np.array_equal(a.scores, b.scores)


@pytest.mark.parametrize("mode", ["latency", "throughput"])
def test_submitted_images_give_what_a_call_gives(bundle: Path, mode: Any) -> None:
    images = [plain(level) for level in range(0, 256, 5)]
    with Detector(bundle, threads=2, mode=mode) as detector:
        futures = [detector.submit(image) for image in images]
        for image, future in zip(images, futures, strict=True):
            assert same(future.result(), detector(image))


def test_errors_are_in_the_future(detector: Detector, tmp_path: Path) -> None:
    good, bad, missing = detector.submit(plain(9)), detector.submit(None), detector.submit(tmp_path / "no.jpg")  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="got NoneType"):
        bad.result()
    with pytest.raises(ImageError, match="no such file"):
        missing.result()
    assert same(good.result(), detector(plain(9)))
    with pytest.raises(InvalidInputError, match="expected format"):
        detector.submit(plain(9), format="yuv").result()  # type: ignore[arg-type]


class Gate:
    """A call that waits until it is let through."""

    def __init__(self) -> None:
        self.opened, self.entered = threading.Event(), threading.Semaphore(0)

    def __call__(self) -> str:
        self.entered.release()
        assert self.opened.wait(20)
        return "done"


def test_submitting_waits_for_room_and_waiting_calls_can_be_cancelled() -> None:
    gate, work = Gate(), Submissions(workers=2, waiting=3)
    futures = [work.submit(gate) for _ in range(5)]
    gate.entered.acquire()
    gate.entered.acquire()
    sixth: list[Future[str]] = []
    thread = threading.Thread(target=lambda: sixth.append(work.submit(gate)))
    thread.start()
    time.sleep(0.1)
    assert not sixth  # no room
    assert not futures[0].cancel()  # under way
    assert futures[4].cancel()
    thread.join(10)
    assert len(sixth) == 1  # in the place of the cancelled one
    gate.opened.set()
    assert [future.result(10) for future in (*futures[:4], *sixth)] == ["done"] * 5
    work.close()
    with pytest.raises(RuntimeError):
        work.submit(gate)
    with pytest.raises(RuntimeError):  # a refused call keeps no room
        [work.submit(gate) for _ in range(9)]


def test_a_stream_is_lazy_ordered_and_bounded() -> None:
    taken: list[int] = []

    def source() -> Iterator[int]:
        for number in itertools.count():
            taken.append(number)
            yield number

    work = Submissions(workers=3, waiting=3)

    def call(number: int) -> int:
        time.sleep(0.002 * (number % 3))  # later ones are done before earlier ones
        return number * number

    stream = in_order(source(), lambda number: work.submit(lambda: call(number)), ahead=4)
    assert taken == []
    for expected, (number, result) in enumerate(itertools.islice(stream, 30)):
        assert (number, result) == (expected, expected**2)
        assert len(taken) <= expected + 4
    work.close()


def test_streams_of_a_detector(detector: Detector) -> None:
    images = [plain(level) for level in range(40)]
    for ahead in (None, 1, 7):
        results = list(detector.stream(iter(images), ahead=ahead))
        assert len(results) == len(images)
        for image, (item, found) in zip(images, results, strict=True):
            assert item is image
            assert same(found, detector(image))
    named = list(detector.stream([3, 200], image=lambda level: plain(level)[..., ::-1], format="bgr"))
    assert [level for level, _ in named] == [3, 200]
    assert same(named[1][1], detector(plain(200)))
    assert list(detector.stream([])) == []


@pytest.mark.parametrize("ahead", [0, -1, 1.5, True])
def test_wrong_options_are_refused_before_the_first_item(detector: Detector, ahead: Any) -> None:
    with pytest.raises(InvalidInputError, match="ahead"):
        detector.stream([plain(1)], ahead=ahead)
    with pytest.raises(InvalidInputError, match="format"):
        detector.stream([plain(1)], format="yuv")  # type: ignore[arg-type]


def until_error(stream: Iterator[Any]) -> tuple[int, str]:
    count = 0
    try:
        for _ in stream:
            count += 1
    except (OSError, InvalidInputError) as error:
        return count, str(error)
    raise AssertionError("it did not fail")


def test_an_error_of_the_source_comes_after_its_images(detector: Detector) -> None:
    def source() -> Iterator[NDArray[np.uint8]]:
        yield plain(1)
        yield plain(2)
        raise OSError("the camera is gone")

    assert until_error(detector.stream(source(), ahead=8)) == (2, "the camera is gone")


def test_an_error_of_an_image_comes_in_its_place(detector: Detector) -> None:
    count, message = until_error(detector.stream([plain(1), None, plain(2)], ahead=8))  # type: ignore[list-item]
    assert count == 1
    assert "got NoneType" in message


def test_leaving_a_stream_closes_its_source_and_leaves_nothing_under_way(detector: Detector) -> None:
    closed = threading.Event()

    def source() -> Iterator[NDArray[np.uint8]]:
        try:
            while True:
                yield plain(1)
        finally:
            closed.set()

    for _ in detector.stream(source()):
        break
    assert closed.wait(10)
    stream = detector.stream(source())
    next(stream)
    closed.clear()
    stream.close()  # type: ignore[attr-defined]
    assert closed.is_set()
    assert len(detector(plain(1))) == 9


def test_a_closed_detector_says_so(bundle: Path) -> None:
    detector = Detector(bundle, threads=1)
    futures = [detector.submit(plain(level)) for level in range(4)]
    detector.close()
    assert all(future.done() for future in futures)
    assert all(len(future.result()) == 9 for future in futures)
    detector.close()
    assert repr(detector) == "Detector(closed)"
    for call in (
        lambda: detector(plain(1)),
        lambda: detector.detect_timed([plain(1)]),
        lambda: detector.detect_tiled(plain(1)),
        lambda: detector.submit(plain(1)),
        lambda: detector.stream([plain(1)]),
        lambda: detector.swap(bundle),
        lambda: detector.info,
        lambda: detector.core,
        detector.execution_graph,
    ):
        with pytest.raises(InvalidInputError, match="expected an open detector, got one that was closed"):
            call()


def test_closing_ends_a_stream_and_a_submission_that_waits(bundle: Path) -> None:
    detector = Detector(bundle, threads=1)
    refused = []

    def submit() -> None:
        try:
            while True:
                detector.submit(plain(3))
        except InvalidInputError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=submit) for _ in range(4)]
    for thread in threads:
        thread.start()
    stream = detector.stream(itertools.repeat(plain(2)))
    next(stream)
    detector.close()
    for thread in threads:
        thread.join(20)
    assert len(refused) == 4
    with pytest.raises(InvalidInputError, match="closed"):
        for _ in stream:
            pass


def test_it_cannot_be_pickled(detector: Detector) -> None:
    for copy_of in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="make one in each process"):
            copy_of(detector)


def test_streams_submissions_calls_tiles_and_swaps_at_once(tmp_path: Path, bundle: Path) -> None:
    other = write(tmp_path, "other", boxes=tiny_onnx.BOXES[::-1].copy())
    expected = [Detector(folder, threads=1)(plain(200)) for folder in (bundle, other)]
    assert not same(*expected)
    with Detector(bundle, threads=1, requests=2) as detector:
        wrong: list[Detections] = []
        stop = threading.Event()

        def check(found: Detections) -> None:
            if not any(same(found, one) for one in expected):
                wrong.append(found)

        def streams() -> None:
            for _, found in detector.stream(itertools.repeat(plain(200))):
                check(found)
                if stop.is_set():
                    return

        def others() -> None:
            while not stop.is_set():
                futures = [detector.submit(plain(200)) for _ in range(3)]
                check(detector(plain(200)))
                check(detector.detect_tiled(plain(200)))
                wait(futures)
                for future in futures:
                    check(future.result())

        threads = [threading.Thread(target=target) for target in (streams, others, others)]
        for thread in threads:
            thread.start()
        for folder in (other, bundle) * 3:
            detector.swap(folder)
        stop.set()
        for thread in threads:
            thread.join(30)
        assert not any(thread.is_alive() for thread in threads)
        assert wrong == []

"""The demo's report: complete, self-contained, and honest about what it was given."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from benchmarks.demo.report import Curve, Mark, Picture, Report, Step, Variant, missed, overlap, render, ticks

VOID = {"meta", "image", "use", "rect", "line", "circle", "polyline", "br", "link", "img"}


def jpeg() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((64, 96, 3), 120, np.uint8)).save(stream, "JPEG")
    return stream.getvalue()


def variant(name: str, ap: float, milliseconds: float) -> Variant:
    return Variant(
        name=name,
        accuracy={"AP": ap, "AP50": 0.9, "AP75": 0.7, "AP_small": -1.0, "AP_medium": 0.6, "AP_large": 0.8},
        latency_ms={"p50": milliseconds, "p90": 5.0, "p99": 6.0, "mean": 4.0},
        stages_ms={"preprocess": 0.1, "inference": milliseconds - 0.2, "decode": 0.1},
        fps=1000 / milliseconds,
        size_bytes=1_234_000,
    )


TRUTH = (Mark((10, 10, 40, 40), 0), Mark((50, 20, 90, 60), 1))
REPORT = Report(
    classes=("nut & bolt", "<chip>"),
    dataset="32 scenes.",
    best="INT8",
    reason="It keeps the AP.",
    speed=2.0,
    shown=0.45,
    variants=(variant("FP32", 0.712, 4.0), variant("INT8", 0.705, 2.0)),
    pictures=(Picture(jpeg(), 96, 64, TRUTH, (("FP32", TRUTH), ("INT8", TRUTH[:1]))),),
    curves=(Curve("AP", (10.0, 20.0), (0.3, 0.5)), Curve("loss", (1.0, 2.0, 3.0), (9.0, 5.0, 4.0), "loss")),
    steps=(Step("Draw", 3.0, "python -m benchmarks.demo"), Step("Train", 100.0, "python -m training train", True)),
    checks=(("int8 layers", "61 of 140"),),
    environment=(("CPU", "two cores"),),
    commands=(("run it", "edgedet predict demo/bundle photo.jpg"),),
)


class Checker(HTMLParser):
    """Refuses tags that are not closed in order and collects what could be loaded from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self._attributes(attrs)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in VOID
        self._attributes(attrs)

    def _attributes(self, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attrs if name in {"href", "src"}]
        self.ids += [value or "" for name, value in attrs if name == "id"]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def parse(html: str) -> Checker:
    checker = Checker()
    checker.feed(html)
    assert checker.open == []
    return checker


def text_of(html: str) -> str:
    body = re.sub(r"<style>.*?</style>", "", html, flags=re.DOTALL)
    return re.sub(r"<[^>]+>", " ", body)


def test_report_is_well_formed_and_self_contained() -> None:
    html = render(REPORT)
    checker = parse(html)
    assert all(link.startswith(("data:image/jpeg;base64,", "#")) for link in checker.links)
    assert {link[1:] for link in checker.links if link.startswith("#")} <= set(checker.ids)
    assert "http" not in html
    assert "url(" not in html
    assert "prefers-color-scheme: dark" in html
    assert 'name="viewport"' in html


def test_report_says_what_was_measured() -> None:
    text = text_of(render(REPORT))
    for expected in (
        "INT8 is 2.00 times as fast, with 0.7 points of AP lost",
        "verified best precision: INT8",
        "0.712",
        "0.705",
        "&minus;0.007",
        "no such objects",
        "found 2 of 2",
        "found 1 of 2",
        "score 0.45 or more",
        "61 of 140",
        "reused",
        "edgedet predict demo/bundle photo.jpg",
        "nut &amp; bolt",
        "&lt;chip&gt;",
    ):
        assert expected in text
    assert "<chip>" not in render(REPORT)


def test_a_command_without_a_remark_stands_alone() -> None:
    html = render(replace(REPORT, commands=(("first", "one"), ("", "two"))))
    assert '<pre><span class="remark"># first</span>\none\ntwo</pre>' in html


def test_time_of_this_run_leaves_out_what_was_reused() -> None:
    assert re.search(r"<b>3 s</b>", render(REPORT))


@pytest.mark.parametrize(
    ("int8", "speed", "expected"),
    [
        (variant("INT8", 0.500, 5.0), 0.8, "INT8 is 0.80 times as fast, with 21.2 points of AP lost"),
        (variant("INT8", 0.712, 4.0), 1.0, "INT8 is 1.00 times as fast, with no AP lost"),
        (variant("INT8", 0.722, 4.0), 1.0, "INT8 is 1.00 times as fast, with no AP lost"),
    ],
)
def test_a_bad_result_is_not_hidden(int8: Variant, speed: float, expected: str) -> None:
    html = render(replace(REPORT, best="FP32", speed=speed, variants=(REPORT.variants[0], int8)))
    parse(html)
    assert expected in html
    assert "verified best precision: FP32" in html


def test_a_report_without_int8_is_possible() -> None:
    report = replace(REPORT, best="FP32", variants=REPORT.variants[:1], curves=())
    parse(html := render(report))
    assert "INT8 is" not in html


def test_missed_objects() -> None:
    assert missed(TRUTH, TRUTH) == []
    assert missed(TRUTH, ()) == list(TRUTH)
    wrong_class = Mark(TRUTH[0].box, 1, 0.9)
    assert missed(TRUTH, [wrong_class]) == list(TRUTH)
    shifted = Mark((20, 10, 50, 40), 0, 0.9)  # overlap 20 / 40
    assert missed(TRUTH, [shifted]) == [TRUTH[1]]
    twins = (Mark((0, 0, 10, 10), 0), Mark((0, 0, 10, 11), 0))
    assert missed(twins, [Mark((0, 0, 10, 10), 0, 0.9)]) == [twins[1]], "one detection explains one object"


def test_overlap_against_counted_pixels() -> None:
    rng = np.random.default_rng(5)
    for _ in range(50):
        corners = rng.integers(0, 20, (2, 2, 2))
        low, high = corners.min(1), corners.max(1) + 1
        masks = np.zeros((2, 22, 22), bool)
        for mask, a, b in zip(masks, low, high, strict=True):
            mask[a[1] : b[1], a[0] : b[0]] = True
        first, second = ((float(a[0]), float(a[1]), float(b[0]), float(b[1])) for a, b in zip(low, high, strict=True))
        assert overlap(first, second) == pytest.approx((masks[0] & masks[1]).sum() / (masks[0] | masks[1]).sum())


@pytest.mark.parametrize(("high", "expected"), [(0.83, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]), (118.0, [0, 50, 100, 150])])
def test_ticks_are_round_and_span_the_range(high: float, expected: list[float]) -> None:
    assert ticks(0.0, high) == expected

"""The search: groups from the graph, measurements through the journal, the answer and what is left of it."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from cell_world import make_bundle, make_images, make_model
from PIL import Image
from test_calibration_render import Builder

from calibration.cli import main
from calibration.graph import prepare
from calibration.placement import PlacementOptions, place
from calibration.quantize import record_sample
from calibration.sampling import draw
from calibration.search.bench import Bench, Loss, Time, divergence
from calibration.search.front import front, plot, table
from calibration.search.groups import groups
from calibration.search.journal import Candidate, Choice, Journal, read_choice, read_search
from calibration.search.options import SearchOptions
from calibration.search.run import search
from calibration.search.search import holds
from edgedet import Detections, Detector, InvalidInputError
from edgedet.bundle import load_model_json


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a bundle, its calibration images, and labelled images that decide."""
    root = tmp_path_factory.mktemp("search")
    make_images(root / "train", 8, seed=1)
    make_images(root / "select", 12, seed=2)
    bundle = make_bundle(root / "cells", make_model(root / "model.onnx"))
    record_sample(bundle, draw(root / "train", count=8, seed=0))
    return root


@pytest.fixture
def world(source: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(source, tmp_path / "world"))


@dataclass(frozen=True)
class FloatEngine:
    """The float model in a half type, on any machine."""

    precision: str

    def __call__(self, image: object) -> Detections:
        return Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), ())


class Clock:
    """A made-up machine: each layer in int8 saves or costs its share of the time, and loses its share of AP.

    Its counters, read in float and then in int8, say that all layers are faster in int8 but the first.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, saving: float, drop: float = 0.0) -> None:
        self.saving, self.drop = saving, drop
        self.losses = self.profiles = 0
        self.halves: dict[str, tuple[float, float]] = {}  # ratio of time and drop of AP
        monkeypatch.setattr(Bench, "halves", lambda bench: list(self.halves))
        monkeypatch.setattr(Bench, "half", lambda bench, precision: FloatEngine(precision))
        monkeypatch.setattr(Bench, "times", self.times)
        monkeypatch.setattr(Bench, "loss", self.loss)
        monkeypatch.setattr("calibration.search.search.layer_times", self.layer_times)

    def times(self, engines: list[Detector], *, seconds: float) -> list[Time]:
        ratios = [
            self.halves[engine.precision][0]
            if isinstance(engine, FloatEngine)
            else 1.0 - self.saving * sum("I8" in node["primitive"] for node in engine.execution_graph())
            for engine in engines
        ]
        return [Time(ratio, 10.0 * ratio, 10.0) for ratio in ratios]

    def layer_times(self, model: object, feed: object, layers: list[str], *, threads: int) -> dict[str, float]:
        self.profiles += 1
        in_float = self.profiles % 2 == 1
        return {layer: 1.0 if in_float else 1.5 - position for position, layer in enumerate(layers)}

    def loss(self, engine: Detector, progress: object) -> Loss:
        self.losses += 1
        if isinstance(engine, FloatEngine):
            drop = self.halves[engine.precision][1]
            return Loss(0.9 - drop, drop, 0.001)
        count = sum("I8" in node["primitive"] for node in engine.execution_graph())
        return Loss(0.9 - self.drop * count, self.drop * count, 0.001)


def run(world: Path, **changes: object) -> object:
    settings = SearchOptions(**{"threads": 1, "probe": 4, "seconds": 0.01, **changes})  # type: ignore[arg-type]
    data = world / "select"
    return search(world / "cells", images=data, annotations=data / "instances.json", options=settings)


# The answer


def test_the_fastest_that_holds_is_put_into_the_bundle(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch, saving=0.1)
    answer = run(world)
    assert answer.precision == "int8"  # type: ignore[attr-defined]
    bundle = world / "cells"
    assert Detector(bundle, backend="openvino", precision="int8").info.precision == "int8"
    document = read_search(bundle / "search.json")
    results = world / "cells.calibration" / "search"
    assert json.loads((results / "search.json").read_text()) == document
    assert document["answer"]["choice"]["keep_float"] == []
    assert "**int8**: 2 layers in int8" in (results / "search.md").read_text()
    with Image.open(results / "search.png") as picture:
        assert picture.format == "PNG"
        assert np.asarray(picture.convert("L")).std() > 10


def test_the_answer_builds_again_from_its_json(
    world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Clock(monkeypatch, saving=0.1)
    run(world)
    bundle = world / "cells"
    before = (bundle / "model.openvino.int8.onnx").read_bytes()
    saved = world / "kept.json"
    shutil.copy(bundle / "search.json", saved)
    assert main(["quantize", str(bundle), "--observer", "minmax", "--threads", "1"]) == 0
    assert (bundle / "model.openvino.int8.onnx").read_bytes() != before
    assert main(["quantize", str(bundle), "--like", str(saved), "--threads", "1"]) == 0
    assert (bundle / "model.openvino.int8.onnx").read_bytes() == before


def test_int8_that_saves_nothing_is_answered_with_float(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch, saving=-0.1)
    answer = run(world)
    assert answer.precision == "fp32"  # type: ignore[attr-defined]
    assert "of the float time" in answer.reason  # type: ignore[attr-defined]
    assert not (world / "cells" / "model.openvino.int8.onnx").exists()
    with pytest.raises(InvalidInputError, match="the answer is fp32"):
        read_choice(world / "cells" / "search.json")


def test_layers_go_back_to_float_until_the_drop_holds(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch, saving=0.1, drop=0.003)  # two layers lose 0.006, one 0.003
    answer = run(world, max_drop=0.005)
    assert answer.precision == "int8"  # type: ignore[attr-defined]
    candidate = answer.candidate  # type: ignore[attr-defined]
    assert (candidate.layers, candidate.drop) == (1, pytest.approx(0.003))
    assert holds(candidate, 0.005)
    Clock(monkeypatch, saving=0.1, drop=0.02)
    shutil.rmtree(world / "cells.calibration")
    refused = run(world, max_drop=0.005)
    assert refused.precision == "fp32"  # type: ignore[attr-defined]
    assert "loses 0.0200 ± 0.0010 AP" in refused.reason  # type: ignore[attr-defined]


def test_a_half_type_is_the_answer_where_it_is_faster_and_holds(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, saving=0.1, drop=0.003)
    clock.halves = {"bf16": (0.6, 0.001), "fp16": (1.5, 0.0)}
    answer = run(world)
    assert answer.precision == "bf16"  # type: ignore[attr-defined]
    assert "the float model in bf16: x0.600" in answer.reason  # type: ignore[attr-defined]
    models = load_model_json(world / "cells")["models"]
    assert models["bf16"] == {"openvino": "model.onnx"}
    assert "int8" not in models
    results = world / "cells.calibration" / "search"
    assert "| **bf16** |" in (results / "search.md").read_text()
    document = read_search(results / "search.json")
    slow = [entry for entry in document["candidates"] if entry["choice"]["precision"] == "fp16"]
    assert [entry["ap"] for entry in slow] == [None], "slower than float32: its AP matters to nobody"
    with pytest.raises(InvalidInputError, match="the answer is bf16"):
        read_choice(world / "cells" / "search.json")
    clock.losses = 0
    assert run(world).candidate == answer.candidate  # type: ignore[attr-defined]
    assert clock.losses == 0


@pytest.mark.parametrize(
    ("halves", "expected"),
    [({"bf16": (0.6, 0.02)}, "int8"), ({"bf16": (0.85, 0.0)}, "int8"), ({"fp16": (0.7, 0.0)}, "fp16")],
)
def test_a_half_type_competes_with_int8(
    world: Path, monkeypatch: pytest.MonkeyPatch, halves: dict[str, tuple[float, float]], expected: str
) -> None:
    clock = Clock(monkeypatch, saving=0.1)
    clock.halves = halves
    assert run(world).precision == expected  # type: ignore[attr-defined]


def test_for_accuracy_what_is_slower_than_float_is_no_answer(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, saving=-0.1, drop=0.001)
    clock.halves = {"bf16": (0.6, 0.003)}
    answer = run(world, target="accuracy")
    assert answer.precision == "bf16"  # type: ignore[attr-defined]
    assert answer.candidate.drop == 0.003, "int8 loses less, and is slower"  # type: ignore[attr-defined]


def test_layers_stay_in_int8_until_a_half_type_is_as_fast(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, saving=0.1, drop=0.003)  # both layers x0.8 and too lossy, one x0.9 and fine
    clock.halves = {"bf16": (0.85, 0.0)}
    assert run(world).precision == "bf16"  # type: ignore[attr-defined]
    document = read_search(world / "cells" / "search.json")
    walked = [entry for entry in document["candidates"] if entry["choice"]["precision"] == "int8" and entry["ap"]]
    assert {entry["layers"] for entry in walked} == {1, 2}
    assert [entry["layers"] for entry in walked].count(1) == 1, "the first step is slower than bf16, so it is the last"


def test_the_measured_drop_decides() -> None:
    candidate = Candidate(choice=Choice(), ap=0.3, drop=0.004, drop_se=0.002)
    assert holds(candidate, 0.005)
    assert not holds(replace(candidate, drop=0.0051), 0.005)
    assert not holds(Candidate(choice=Choice()), 0.005)


# Interruption and budget


@pytest.mark.parametrize("stop", [1, 9, 12, 13])
def test_an_interrupted_search_goes_on_and_measures_nothing_twice(
    world: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    clock = Clock(monkeypatch, saving=0.1)
    whole = Path(shutil.copytree(world, world.parent / "whole"))
    expected = run(whole)
    assert clock.profiles == 2
    whole_losses, clock.losses, clock.profiles = clock.losses, 0, 0
    measured: list[str] = []
    note = Journal.note

    def stopping(journal: Journal, candidate: Candidate) -> None:
        note(journal, candidate)
        measured.append(candidate.why)
        if len(measured) == stop:
            raise KeyboardInterrupt

    monkeypatch.setattr(Journal, "note", stopping)
    with pytest.raises(KeyboardInterrupt):
        run(world)
    monkeypatch.setattr(Journal, "note", note)
    answer = run(world)
    assert answer.candidate.choice == expected.candidate.choice  # type: ignore[attr-defined]
    assert (clock.losses, clock.profiles) == (whole_losses, 2)
    documents = [read_search(folder / "cells" / "search.json") for folder in (whole, world)]
    assert documents[0] == documents[1]
    run(world)
    assert (clock.losses, clock.profiles) == (whole_losses, 2), "everything was known"


def test_the_budget_ends_a_search_with_what_it_has(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch, saving=0.1)
    answer = run(world, budget_minutes=1e-9)
    assert not answer.complete  # type: ignore[attr-defined]
    assert (answer.precision, answer.candidate) == ("fp32", None)  # type: ignore[attr-defined]
    assert "before anything was measured" in answer.reason  # type: ignore[attr-defined]


def test_another_search_s_journal_is_not_continued(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch, saving=0.1)
    run(world)
    record_sample(world / "cells", draw(world / "train", count=6, seed=1))
    with pytest.raises(InvalidInputError, match="a search of the same calibration"):
        run(world)


def test_by_command(world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    Clock(monkeypatch, saving=0.1)
    data = ["--images", str(world / "select"), "--annotations", str(world / "select" / "instances.json")]
    assert main(["search", str(world / "cells"), *data, "--threads", "1", "--out", str(world / "found")]) == 0
    assert "int8: 2 layers in int8" in capsys.readouterr().out
    assert (world / "found" / "search.png").is_file()
    assert main(["search", str(world / "cells")]) == 2
    assert "expected --images and --annotations" in capsys.readouterr().err
    overlap = ["--images", str(world / "train"), "--annotations", str(world / "train" / "instances.json")]
    assert main(["search", str(world / "cells"), *overlap]) == 2
    assert "not calibrated on, got 8 that were" in capsys.readouterr().err


@pytest.mark.parametrize(
    "content", ["", "[]", '{"format": "edgedet.search", "version": 1, "about": {}, "candidates": [{"choice": 3}]}']
)
def test_a_damaged_journal_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "search.json").write_text(content)
    with pytest.raises(InvalidInputError, match=r"search\.json"):
        Journal.open(tmp_path / "search.json", {})


# Measuring


def found(*rows: tuple[list[float], float, int]) -> Detections:
    boxes = np.array([row[0] for row in rows], np.float32).reshape(-1, 4)
    scores = np.array([row[1] for row in rows], np.float32)
    return Detections(boxes, scores, np.array([row[2] for row in rows], np.int32), ["" for _ in rows])


def test_divergence_by_hand() -> None:
    reference = found(([0, 0, 10, 10], 0.8, 0), ([20, 0, 30, 10], 0.4, 1), ([50, 0, 60, 10], 0.05, 1))
    assert divergence([reference], [reference]) == 0.0
    assert divergence([reference], [found()]) == pytest.approx(1.0)
    halved = found(
        ([0, 0, 10, 10], 0.4, 0), ([20, 0, 30, 10], 0.9, 1)
    )  # half the score of the first, more of the second
    assert divergence([reference], [halved]) == pytest.approx(0.8 * 0.5 / 1.2)
    moved = found(([0, 5, 10, 15], 0.8, 0), ([20, 0, 30, 10], 0.4, 0))  # IoU 1/3; the second has another class
    assert divergence([reference], [moved]) == pytest.approx((0.8 * 2 / 3 + 0.4) / 1.2)
    assert divergence([found()], [reference]) == 0.0


def test_the_front_and_its_table() -> None:
    def entry(ratio: float, drop: float, name: str) -> Candidate:
        return Candidate(
            choice=Choice(keep_float=(name,)),
            ratio=ratio,
            ms=1.0,
            ap=0.3 - drop,
            drop=drop,
            drop_se=0.001,
            divergence=0.1,
        )

    tried = [entry(0.7, 0.01, "a"), entry(0.8, 0.002, "b"), entry(0.75, 0.02, "c"), entry(1.1, 0.001, "d")]
    tried.append(Candidate(choice=Choice(keep_float=("e",)), divergence=0.5))
    assert [item.choice.keep_float for item in front(tried)] == [("a",), ("b",)]
    answer = {
        "precision": "fp32",
        "reason": "so",
        "choice": None,
        "float_ap": 0.3,
        "complete": False,
        "limits": {"max_drop": 0.005},
    }
    written = table(tried, answer)
    assert written.count("\n| ") == 5
    assert written.count("**x0.") == 2
    assert "1 more candidates" in written
    assert "ended the search early" in written
    assert plot(tried, answer).startswith(b"\x89PNG")


# Groups


def attention_layer(build: Builder, queries: str, memory: str) -> str:
    """One head: q and k from the queries, v from the memory, an output projection, a feed-forward part."""
    q, k, v = (build.linear(name, (16, 16)) for name in (queries, memory, memory))
    scores = build.add("MatMul", q, build.add("Transpose", k, perm=[0, 2, 1]))
    mixed = build.add("MatMul", build.add("Softmax", scores, axis=-1), v)
    queries = build.add("Add", queries, build.linear(mixed, (16, 16)))
    hidden = build.add("Relu", build.linear(queries, (16, 32)))
    return build.add("Add", queries, build.linear(hidden, (32, 16)))


def test_groups_come_from_the_graph() -> None:
    build = Builder()
    stem = build.add(
        "Relu", build.add("Conv", "images", build.constant(build.rng.normal(size=(16, 3, 2, 2))), strides=[2, 2])
    )
    deep = build.add(
        "Relu", build.add("Conv", stem, build.constant(build.rng.normal(size=(16, 16, 2, 2))), strides=[2, 2])
    )
    upper = build.add("Resize", build.conv(deep, (16, 16)), "", build.constant([1, 1, 2, 2]), mode="nearest")
    fused = build.conv(build.add("Add", upper, stem), (16, 16))
    tokens = build.add("Transpose", build.add("Reshape", fused, build.constant([0, 16, -1], np.int64)), perm=[0, 2, 1])
    out = attention_layer(build, attention_layer(build, tokens, tokens), tokens)
    model = build.model({"images": ["N", 3, 16, 16]}, [build.linear(out, (16, 16))])
    graph = prepare(model)
    found_groups = {
        group.name: len(group.nodes) for group in groups(graph, place(graph, PlacementOptions(scope="all")))
    }
    assert found_groups == {
        "backbone, stride 2": 1,
        "backbone, stride 4": 2,
        "encoder, stride 2": 1,
        "encoder 0, query, key": 3,  # the second layer's keys read the tokens too
        "encoder 0, value": 2,
        "encoder 1, attention output": 1,
        "encoder 1, feed-forward": 2,
        "encoder 1, query, key": 1,
        "encoder 2, attention output": 1,
        "encoder 2, feed-forward": 2,
    }


def test_groups_of_a_published_model(shared: Path) -> None:
    graph = prepare(onnx.load(str(shared / "models" / "deimv2_hgnetv2_atto_coco.onnx")))
    placement = place(graph, PlacementOptions(scope="all"))
    told = groups(graph, placement)
    names = [group.name for group in told]
    assert sorted(node for group in told for node in group.nodes) == sorted(layer.node for layer in placement.layers)
    assert names[:5] == [f"backbone, stride {stride}" for stride in (2, 4, 8, 16, 32)]
    assert [name for name in names if name.endswith("attention output")] == [
        f"decoder {depth}, attention output" for depth in (1, 3, 5)
    ]

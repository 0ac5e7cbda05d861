"""A comparison of methods: what is read, that it is fair, that nothing is lost on the way, and what is made of it."""

from __future__ import annotations

import contextlib
import csv
import ctypes
import json
import math
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from safetensors.torch import load_file
from scipy import stats
from training_data import IDS, NAMES, SIZE, make_dataset, tiny_config

from edgedet import Error, InvalidInputError
from training import trainer
from training.cli import main
from training.data.formats import load_split, load_splits
from training.journal import Journal
from training.loop import StepResult
from training.recipes import build_model, resolve
from training.reporting import read_metrics
from training.run_state import Progress
from training.study import evaluate_teacher, run_one, study
from training.study.aggregate import paired, recovered_share, spread, summarise
from training.study.conduct import Outcome, conduct
from training.study.executor import Ended, Executor, LocalProcesses, Task
from training.study.grid import Grid, read_grid
from training.study.plan import plan
from training.study.run_one import seconds_per_step
from training.study.split import divide, split_files, write_split
from training.teachers.source import Source
from training.weights.own import save_weights

TINY = {
    "size": SIZE, "epochs": 1, "batch": 2, "denoising": 8, "threads": 1, "workers": 0, "device": "cpu",
    "teacher_images": 0,
}  # fmt: skip
SLOWER = "other: {options: {lr: 1e-5}}"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def teacher(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector of the classes of the data, untrained."""
    folder = tmp_path_factory.mktemp("teacher")
    config = resolve(tiny_config(data, folder, seed=7))
    description = {"model": "atto", "size": SIZE, "classes": NAMES, "category_ids": IDS}
    save_weights(folder / "best.safetensors", build_model(config, num_classes=len(NAMES)), description)
    return folder


def write_grid(folder: Path, data: Path, *methods: str, seeds: str = "[0, 1]", more: str = "", **options: Any) -> Path:
    entries = "".join(f"  {method}\n" for method in ("baseline: []", *methods))
    settings = json.dumps({**TINY, **options})
    file = folder / "grid.yaml"
    file.write_text(
        f"data: {data}\nout: study\nselect: 0.3\nseeds: {seeds}\noptions: {settings}\n{more}\nmethods:\n{entries}"
    )
    return file


# The arithmetic


def test_paired_differences_by_hand() -> None:
    """Differences 0.02, 0.01 and 0.04: mean 0.07 / 3, deviation sqrt(0.0007 / 3), t of two degrees of freedom 4.303."""
    found = paired({0: 0.50, 1: 0.52, 2: 0.54}, {0: 0.48, 1: 0.51, 2: 0.50}, (0, 1, 2))
    assert found is not None
    half = 4.302652729911275 * math.sqrt(0.0007 / 3) / math.sqrt(3)
    assert (found.mean, found.low, found.high) == pytest.approx((0.07 / 3, 0.07 / 3 - half, 0.07 / 3 + half))
    assert found.by_seed == pytest.approx({0: 0.02, 1: 0.01, 2: 0.04})
    assert found.missing == ()


def test_paired_intervals_are_those_of_scipy() -> None:
    own, base = [0.61, 0.64, 0.60, 0.66, 0.59], [0.60, 0.65, 0.57, 0.61, 0.60]
    found = paired(dict(enumerate(own)), dict(enumerate(base)), range(5))
    expected = stats.ttest_rel(own, base).confidence_interval(0.95)
    assert found is not None
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_pairs_need_both_runs() -> None:
    found = paired({0: 0.5, 1: 0.6}, {1: 0.7, 2: 0.4}, (0, 1, 2))
    assert found is not None
    assert (found.mean, found.low, found.high, found.missing) == (pytest.approx(-0.1), None, None, (0, 2))
    assert paired({0: 0.5}, {1: 0.5}, (0, 1)) is None


def test_spread_and_share_of_the_gap() -> None:
    found = spread([0.1, 0.2, 0.6])
    assert found is not None
    assert (found.mean, found.std, found.count) == (pytest.approx(0.3), pytest.approx(math.sqrt(0.07)), 3)
    single = spread([0.5])
    assert single is not None
    assert single.std is None
    assert spread([]) is None
    assert recovered_share(0.03, 0.5, 0.6) == pytest.approx(0.3)
    assert recovered_share(-0.03, 0.5, 0.6) == pytest.approx(-0.3)
    assert recovered_share(0.03, 0.6, 0.6) is None


def test_seconds_per_step_are_a_median() -> None:
    records = [{"kind": "step", "step": step, "seconds": at} for step, at in ((10, 9.0), (20, 11.0), (30, 13.0))]
    records.insert(1, {"kind": "validation", "step": 15, "seconds": 10.0})
    assert seconds_per_step([*records, {"kind": "step", "step": 35, "seconds": 99.0}]) == pytest.approx(0.2)
    assert seconds_per_step(records[:1]) is None


# What is made of a study


def make_study(out: Path, figures: dict[tuple[str, float, int], float | str | None]) -> Path:
    """A folder as `ablate` leaves it: AP of each run, the reason why it failed, or None if it was not run yet."""
    runs = []
    for (method, weight, seed), figure in figures.items():
        folder = out / (method if weight == 1 else f"{method}-x{weight:g}") / f"seed-{seed}"
        folder.mkdir(parents=True)
        runs.append({"method": method, "weight": weight, "seed": seed, "folder": str(folder.relative_to(out))})
        if isinstance(figure, str):
            (folder / "failed.json").write_text(json.dumps({"why": figure}))
        elif figure is not None:
            val = {"AP": figure, "AP50": 0.9, "AP75": 0.7, "AP_small": -1.0, "AP_medium": 0.5, "AP_large": 0.8}
            result = {
                "method": method,
                "weight": weight,
                "seed": seed,
                "options": {},
                "teachers": [] if method == "baseline" else ["det"],
                "val": val,
                "select": {"AP": figure + 0.02},
                "seconds_per_step": (0.5 if method == "baseline" else 0.75) + seed / 100,
                "peak_memory": (2 + seed) << 30,
                "versions": {"torch": "2"},
                "machine": {"cpu": "x"},
            }
            (folder / "result.json").write_text(json.dumps(result))
    (out / "study.json").write_text(json.dumps({"runs": runs, "teachers": ["det", "vfm"]}))
    (out / "teacher-det.json").write_text(json.dumps({"val": {**val, "AP": 0.70}}))
    return out


@pytest.fixture
def partial(tmp_path: Path) -> Path:
    return make_study(
        tmp_path / "study",
        {
            ("baseline", 1.0, 0): 0.60,
            ("baseline", 1.0, 1): 0.62,
            ("baseline", 1.0, 2): None,
            ("logit", 1.0, 0): 0.63,
            ("logit", 1.0, 1): 0.64,
            ("logit", 1.0, 2): 0.66,
            ("logit", 2.0, 0): 0.58,
            ("logit", 2.0, 1): "killed by SIGKILL",
            ("logit", 2.0, 2): None,
        },
    )


def test_a_partial_study_is_summed_up(partial: Path) -> None:
    summary = summarise(partial)
    baseline, logit, double = summary.rows
    assert [row.name for row in summary.rows] == ["baseline", "logit", "logit-x2"]
    assert baseline.difference is None
    assert (baseline.seeds, baseline.missing, baseline.cost) == ((0, 1), (2,), 1.0)
    assert logit.difference is not None
    assert (logit.difference.mean, logit.difference.missing) == (pytest.approx(0.025), (2,))
    assert logit.recovered == pytest.approx(0.025 / (0.70 - 0.61))
    assert (logit.cost, logit.peak_memory) == (pytest.approx(0.76 / 0.505), 4 << 30)
    assert logit.val["AP_small"] is None
    assert logit.select is not None
    assert logit.select.mean == pytest.approx(1.93 / 3 + 0.02)
    assert double.difference is not None
    assert (double.difference.mean, double.difference.low) == (pytest.approx(-0.02), None)
    assert (double.failed, double.missing) == ({1: "killed by SIGKILL"}, (2,))
    notes = "\n".join(summary.notes)
    assert "logit-x2, seed 1: failed (killed by SIGKILL)" in notes
    assert "logit-x2, seeds 2: not done yet" in notes
    assert "logit, seeds 2: no baseline of that seed" in notes
    assert "machines" not in notes


def test_aggregate_writes_tables_and_a_plot(partial: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["aggregate", str(partial)]) == 0
    text = (partial / "results.md").read_text()
    assert text.strip() in capsys.readouterr().out
    assert "| logit | 3 | 0.6433 ± 0.0153 |" in text
    assert "| +0.0250 | -0.0385 to +0.0885 | 2 (1 missing) | 28% |" in text
    assert "| -0.0200 | - | 1 (2 missing) | -20% |" in text  # a negative result stays, of a baseline of 0.60
    assert "| teacher det | 1 | 0.7000 |" in text
    rows = list(csv.DictReader((partial / "results.csv").read_text().splitlines()))
    assert [row["method"] for row in rows] == ["baseline", "logit", "logit"]
    assert float(rows[1]["AP_mean"]) == pytest.approx(1.93 / 3)
    assert (rows[1]["AP_small_mean"], rows[2]["low"], rows[2]["failed"]) == ("", "", "1")
    assert (partial / "results.png").read_bytes().startswith(b"\x89PNG")
    content = json.loads((partial / "results.json").read_text())
    assert content["rows"][1]["difference"]["by_seed"] == pytest.approx({"0": 0.03, "1": 0.02})


def test_aggregate_tells_what_makes_figures_doubtful(partial: Path) -> None:
    file = partial / "logit" / "seed-0" / "result.json"
    result = json.loads(file.read_text())
    file.write_text(json.dumps({**result, "machine": {"cpu": "y"}, "options": {"lr": 0.1}}))
    lost = partial / "dropped" / "seed-0"
    lost.mkdir(parents=True)
    (lost / "result.json").write_text("{}")
    notes = "\n".join(summarise(partial).notes)
    assert "2 different machines: seconds per step do not compare" in notes
    assert "logit: differs from the others in options of its own (lr 0.1)" in notes
    assert "no longer names, left out here: dropped/seed-0" in notes


def test_aggregate_of_a_study_that_has_only_begun(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = make_study(tmp_path / "study", {("baseline", 1.0, 0): 0.5, ("logit", 1.0, 0): None})
    files = [option for kind in ("csv", "markdown", "plot") for option in (f"--{kind}", str(tmp_path / f"my.{kind}"))]
    files[-1] = str(tmp_path / "my.svg")
    assert main(["aggregate", str(out), *files]) == 0
    assert "| logit | 0 | - |" in capsys.readouterr().out
    assert (tmp_path / "my.svg").exists()
    assert main(["aggregate", str(tmp_path / "absent")]) == 2
    assert "expected the folder of a study, got none" in capsys.readouterr().err


# The grid


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", "expected yaml, got broken text"),
        ("- a", "a grid: expected a mapping from names"),
        ("data: d\nout: o\nseeds: [0]", "methods: expected it in a grid, got none"),
        ("out: o\nseeds: [0]\nmethods: {baseline: []}", "data: expected a dataset folder, or both"),
        ("data: d\nout: o\nseed: 0\nmethods: {}", "expected a grid of data, train_json"),
        ("data: d\ndata: e", "expected each name once, got 'data' again"),
        ("{<<: {data: d}}", "expected no merge keys"),
        ("data: [d]\nout: o\nseeds: [0]\nmethods: {}", "data: expected a path, got ['d']"),
        ("GOOD\nselect: 1.0", "select: expected a share in (0, 1), got 1.0"),
        ("GOOD\nselect: true", "select: expected a share"),
        ("GOOD\nsplit_seed: -1", "split_seed: expected whole numbers"),
        ("GOOD\nweights: []", "weights: expected a list with at least one value"),
        ("GOOD\nweights: [0]", "weights: expected finite numbers above 0, got 0"),
        ("GOOD\nweights: [1, 1.0]", "weights: expected each value once"),
        ("GOOD\nweights: [.inf]", "weights: expected finite numbers"),
        ("GOOD\nteacher: det=runs/t", "teacher: expected a list of texts"),
        ("GOOD\noptions: [lr]", "options: expected a mapping"),
        ("GOOD\noptions: {learning-rate: 1}", "options: expected options of `python -m training train`"),
        ("GOOD\noptions: {epochs: 1.5}", "options.epochs: expected a whole number, got 1.5"),
        ("GOOD\noptions: {epochs: true}", "options.epochs: expected a whole number, got True"),
        ("GOOD\noptions: {lr: fast}", "options.lr: expected a finite number, got 'fast'"),
        ("GOOD\noptions: {lr: .nan}", "options.lr: expected a finite number"),
        ("GOOD\noptions: {compile: 1}", "options.compile: expected true or false"),
        ("GOOD\noptions: {freeze: backbone}", "options.freeze: expected a list, got 'backbone'"),
        ("GOOD\noptions: {weights: 3}", "options.weights: expected a path, got 3"),
        ("GOOD\noptions: {schedule: 3}", "options.schedule: expected one of"),
        ("GOOD\noptions: {seed: 3}", "options.seed: expected it as seeds of the grid"),
        ("GOOD\noptions: {distil: [cwd]}", "options.distil: expected it as methods of the grid"),
        ("METHODS {a: [logit]}", "methods: expected one called 'baseline'"),
        ("METHODS {baseline: [logit]}", "methods.baseline: expected no distillation, got logit"),
        ("METHODS {baseline: [], ../up: [logit]}", "expected names of letters"),
        ("METHODS {baseline: [], a: [logit]}", "methods.a: teacher: expected one for a method that distils"),
        ("METHODS {baseline: [], a: [1]}", "methods.a: distil: expected a list of texts"),
        ("METHODS {baseline: [], a: []}", "methods.a: expected something that differs from the baseline"),
        ("METHODS {baseline: [], a: {weight: 2}}", "methods.a: expected a method of distil, options, teacher"),
        ("METHODS {baseline: [], a: {teacher: [t]}}", "methods.a: teacher: expected none"),
        ("METHODS {baseline: [], a: {options: {teacher_cache: c}}}", "teacher_cache: expected it among the options of"),
        ("METHODS {baseline: [], a: [logit], a: [cwd]}", "expected each name once, got 'a' again"),
    ],
)
def test_a_grid_that_is_not_one_is_refused(text: str, message: str, tmp_path: Path) -> None:
    good = "data: d\nout: o\nseeds: [0]\nmethods: {baseline: []}"
    text = text.replace("GOOD", good).replace("METHODS", "data: d\nout: o\nseeds: [0]\nmethods:")
    file = tmp_path / "grid.yaml"
    file.write_text(text)
    with pytest.raises(InvalidInputError) as caught:
        read_grid(file)
    assert message in str(caught.value)
    assert str(file) in str(caught.value)


def test_other_files_are_no_grids(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InvalidInputError, match="expected a grid, got none"):
        read_grid(tmp_path / "absent.yaml")
    (tmp_path / "large.yaml").write_bytes(b"#" * ((1 << 20) + 1))
    with pytest.raises(InvalidInputError, match="at most 1048576 bytes"):
        read_grid(tmp_path / "large.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"out: \xe9")
    assert main(["ablate", str(tmp_path / "latin.yaml")]) == 2
    assert "expected UTF-8 text, got byte 5" in capsys.readouterr().err


def test_options_have_the_types_of_the_configuration(tmp_path: Path) -> None:
    options = "options: {lr: 1e-3, epochs: 3, freeze: [backbone.stem], weights: w.pth, flip: 1, compile: false}"
    file = tmp_path / "grid.yaml"
    file.write_text(f"data: d\nout: o\nseeds: [0, 7]\n{options}\nmethods: {{baseline: []}}")
    grid = read_grid(file)
    assert grid.options == {
        "lr": 0.001,
        "epochs": 3,
        "freeze": ("backbone.stem",),
        "weights": tmp_path / "w.pth",
        "flip": 1.0,
        "compile": False,
    }
    assert (grid.data, grid.out, grid.seeds, grid.select) == (tmp_path / "d", tmp_path / "o", (0, 7), 0.15)


# The plan


def test_every_method_weight_and_seed_is_run(data: Path, tmp_path: Path) -> None:
    (tmp_path / "det").mkdir()
    methods = ("a: [logit]", "b: ['logit:weight=2', 'dsi:weight=5,rho=0.11']", "c: [stage-adaptive]", SLOWER)
    file = write_grid(tmp_path, data, *methods, seeds="[3, 4]", more="weights: [1, 0.5]\nteacher: [det=det]")
    todo = plan(read_grid(file))
    names = ["baseline", "a", "a-x0.5", "b", "b-x0.5", "c", "c-x0.5", "other"]
    folders = [str(run.folder.relative_to(tmp_path / "study")) for run in todo.runs]
    assert folders == [f"{name}/seed-{seed}" for seed in (3, 4) for name in names]
    runs = dict(zip(folders, todo.runs, strict=True))
    assert runs["b-x0.5/seed-4"].config.distil == ("logit", "dsi:weight=2.5,rho=0.11")
    assert [text.split(":")[0] for text in runs["c/seed-3"].config.distil] == ["feature", "logit"]
    assert runs["a/seed-3"].config.teacher == (f"det={tmp_path / 'det'}",)
    assert runs["baseline/seed-3"].config.teacher == runs["other/seed-3"].config.distil == ()
    assert runs["other/seed-4"].config.lr == 1e-5
    assert [source.name for source in todo.teachers] == ["det"]


@pytest.mark.parametrize(
    ("methods", "more", "message"),
    [
        (["a: {options: {lr: 7}}"], "", "methods.a: lr: expected a rate in (0, 1)"),
        (["a: {options: {size: 33}}"], "", "methods.a: size: expected a multiple of 32"),
        (["a: {options: {weights: absent.pth}}"], "", "methods.a: weights: expected weights, got none"),
        (["a: [nonsense]"], "teacher: [det]", "methods.a: distil: expected one of"),
        (["a: [logit]"], "teacher: [absent]", "methods.a: teacher: expected a file or folder, got none"),
        (["a: [logit]"], "teacher: [det, other]", "methods.a: teacher: expected each name once"),
        (["a: [logit]", "b: {distil: [cwd], teacher: [other]}"], "teacher: [det]", "expected one teacher called"),
        (["a: [logit]", "a-x2: [cwd]"], "teacher: [det]\nweights: [1, 2]", "expected a folder of its own, got a-x2"),
    ],
)
def test_what_training_would_refuse_is_refused_before_it_begins(
    data: Path, tmp_path: Path, methods: list[str], more: str, message: str
) -> None:
    (tmp_path / "det").mkdir()
    (tmp_path / "other").mkdir()
    with pytest.raises(InvalidInputError) as caught:
        plan(read_grid(write_grid(tmp_path, data, *methods, more=more)))
    assert message in str(caught.value)


def test_a_teacher_cache_gives_all_methods_the_same_views(data: Path, tmp_path: Path) -> None:
    (tmp_path / "det").mkdir()
    file = write_grid(tmp_path, data, "a: [logit]", more="teacher: [det]", teacher_cache="cache", epochs=3)
    baseline, logit = (run.config for run in plan(read_grid(file)).runs[:2])
    assert (baseline.teacher_cache, logit.teacher_cache) == (None, tmp_path / "cache")
    assert baseline.views == logit.views == 3


# The data


def test_the_split_is_disjoint_complete_and_always_the_same(data: Path, tmp_path: Path) -> None:
    grid = read_grid(write_grid(tmp_path, data))
    parts = divide(grid)
    ids = [[image["id"] for image in part["images"]] for part in (parts.train, parts.select)]
    assert [len(part) for part in ids] == [4, 2]
    assert sorted(ids[0] + ids[1]) == [sample.image_id for sample in load_split(data, "train").samples]
    other = read_grid(write_grid(tmp_path, data, SLOWER, seeds="[5]"))
    assert divide(other) == parts
    seeds = (tmp_path / "grid.yaml").read_text()
    splits = set()
    for seed in range(5):
        (tmp_path / "grid.yaml").write_text(f"{seeds}split_seed: {seed}\n")
        splits.add(str(divide(read_grid(tmp_path / "grid.yaml")).select["images"]))
    assert len(splits) > 1


def test_the_images_of_the_split_are_found(data: Path, tmp_path: Path) -> None:
    grid = read_grid(write_grid(tmp_path, data))
    write_split(grid.out, divide(grid))
    parts = load_splits(None, *split_files(grid.out))
    whole = {sample.image_id: sample for sample in load_split(data, "train").samples}
    assert parts[0].categories == parts[1].categories == load_split(data, "train").categories
    for sample in (*parts[0].samples, *parts[1].samples):
        assert sample.file == whole[sample.image_id].file
        assert (sample.boxes == whole[sample.image_id].boxes).all()
        assert (sample.labels == whole[sample.image_id].labels).all()


def test_labels_of_another_format_are_split_too(data: Path, tmp_path: Path) -> None:
    root = tmp_path / "yolo"
    for split in ("train", "val"):
        (root / split / "labels").mkdir(parents=True)
        (root / split / "images").symlink_to(data / split / "images")
        for image in (data / split / "images").iterdir():
            (root / split / "labels" / f"{image.stem}.txt").write_text("0 0.5 0.5 0.25 0.25\n")
    (root / "data.yaml").write_text("train: train/images\nval: val/images\nnames: [square]\n")
    grid = read_grid(write_grid(tmp_path, root))
    write_split(grid.out, divide(grid))
    train, select = load_splits(None, *split_files(grid.out))
    assert (len(train), len(select), train.report.boxes, train.categories.names) == (4, 2, 4, ("square",))


def test_crowds_and_groups_survive_the_split(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "crowded")
    file = data / "train" / "instances.json"
    content = json.loads(file.read_text())
    content["categories"].append({"id": 0, "name": "colours", "supercategory": "none"})
    for category in content["categories"][:2]:
        category["supercategory"] = "colours"
    for entry in content["annotations"][::2]:
        entry |= {"iscrowd": 1, "area": 7, "segmentation": [[0] * 1000]}
    file.write_text(json.dumps(content))
    parts = divide(read_grid(write_grid(tmp_path, data)))
    assert [category["id"] for category in parts.train["categories"]] == [3, 8]
    entries = [*parts.train["annotations"], *parts.select["annotations"]]
    assert sum(entry.get("iscrowd", 0) for entry in entries) == 6
    assert not any("segmentation" in entry for entry in entries)


def test_a_share_that_leaves_nothing_is_refused(data: Path, tmp_path: Path) -> None:
    file = write_grid(tmp_path, data)
    file.write_text(file.read_text().replace("select: 0.3", "select: 0.05"))
    with pytest.raises(InvalidInputError, match=r"selection part an image with boxes, got 0\.05 of 6"):
        divide(read_grid(file))


# The processes

STUB = """
import json, os, pathlib, signal, sys, time
how, folder, rest = sys.argv[1], pathlib.Path(sys.argv[2]), sys.argv[3:]
print("working", flush=True)
if how == "done":
    (folder / "result.json").write_text(json.dumps({"val": {"AP": 0.5}, "told": rest}))
elif how == "fail":
    print("error: no luck", flush=True)
    sys.exit(2)
elif how == "idle":
    pass
elif how == "die":
    os.kill(os.getpid(), signal.SIGKILL)
else:
    if how == "deaf":
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        (folder / "ready").write_text(str(os.getpid()))
        time.sleep(60)
    except KeyboardInterrupt:
        (folder / "saved").touch()
        sys.exit(130)
"""


class FakeRay(ModuleType):
    """As much of Ray as is used: tasks are threads, and cancelling raises KeyboardInterrupt in one, as Ray does."""

    def __init__(self) -> None:
        super().__init__("ray")
        self.said: list[Any] = []

    def is_initialized(self) -> bool:
        return False

    def init(self, *, address: str, log_to_driver: bool) -> None:
        self.said.append(address)

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 4.0, "memory": 1e9}

    def remote(self, **options: Any) -> Callable[[Callable[..., int]], SimpleNamespace]:
        self.said.append(options)

        def start(function: Callable[..., int], *arguments: Any) -> SimpleNamespace:
            reference = SimpleNamespaceWithHash()

            def work() -> None:
                signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # as in Ray's workers
                reference.value = function(*arguments)

            reference.thread = threading.Thread(target=work)
            reference.thread.start()
            return reference

        return lambda function: SimpleNamespace(remote=lambda *arguments: start(function, *arguments))

    def wait(self, references: list[Any], *, num_returns: int, timeout: float) -> tuple[list[Any], list[Any]]:
        assert (num_returns, timeout) == (len(references), 0)
        over = [reference for reference in references if not reference.thread.is_alive()]
        return over, [reference for reference in references if reference not in over]

    def get(self, reference: Any) -> int:
        if not hasattr(reference, "value"):
            raise RuntimeError("the worker died")
        return int(reference.value)

    def cancel(self, reference: Any, *, force: bool = False) -> None:
        thread = ctypes.c_ulong(reference.thread.ident)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, ctypes.py_object(KeyboardInterrupt))

    def shutdown(self) -> None:
        self.said.append("shutdown")


class SimpleNamespaceWithHash(SimpleNamespace):
    __hash__ = object.__hash__


@pytest.fixture(params=["local", "ray"])
def executor(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Executor:
    """Two tasks at a time."""
    (tmp_path / "stub.py").write_text(STUB)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    if request.param == "local":
        return LocalProcesses(jobs=2, devices=("one", "two"))
    from training.study.ray_executor import RayTasks

    monkeypatch.setitem(sys.modules, "ray", FakeRay())
    return RayTasks("auto", cpus=2, gpus=True)


def stub_task(folder: Path, how: str, *, index: int = 0) -> Task:
    place = folder / f"{how}-{index}"
    place.mkdir()
    return Task(place.name, "stub", (how, str(place)), place / "log.txt", place / "result.json", place / "failed.json")


def test_a_failure_is_put_down_and_the_rest_goes_on(executor: Executor, tmp_path: Path) -> None:
    tasks = [stub_task(tmp_path, how) for how in ("fail", "die", "done", "idle")]
    tasks.append(stub_task(tmp_path, "done", index=1))
    tasks[2].failed.write_text("{}")  # of an attempt before
    said: list[str] = []
    outcome = conduct(tasks, executor, said.append)
    assert sorted(outcome.done) == ["done-0", "done-1"]
    assert outcome.failed["fail-0"] == "no luck"
    assert outcome.failed["die-0"].startswith("killed by SIGKILL")
    assert outcome.failed["idle-0"] == "ended without a result"
    assert json.loads(tasks[0].failed.read_text())["log"] == ["working", "error: no luck"]
    assert not tasks[2].failed.exists()
    assert sum(line.startswith("start ") for line in said) == 5
    assert any(line.startswith("done    done-0  AP 0.5000") for line in said)


def test_an_interruption_reaches_the_processes(executor: Executor, tmp_path: Path) -> None:
    tasks = [stub_task(tmp_path, "wait", index=index) for index in range(3)]

    def interrupt() -> None:
        while not all((tmp_path / f"wait-{index}" / "ready").exists() for index in (0, 1)):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=interrupt)
    thread.start()
    outcome = conduct(tasks, executor, lambda text: None)
    thread.join()
    assert outcome == Outcome(interrupted=True)
    assert [(tmp_path / f"wait-{index}" / "saved").exists() for index in range(3)] == [True, True, False]
    assert not any(task.failed.exists() for task in tasks)


def test_a_second_signal_kills(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stub.py").write_text(STUB)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    ready = tmp_path / "deaf-0" / "ready"
    killed = threading.Event()

    def interrupt() -> None:
        while not (ready.exists() and ready.read_text()):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    def interrupt_again(text: str) -> None:
        if text.startswith("SIGINT: waiting for 1"):
            killed.set()
            os.kill(os.getpid(), signal.SIGINT)

    task = stub_task(tmp_path, "deaf")
    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        conduct([task], LocalProcesses(jobs=1), interrupt_again)
    thread.join()
    assert killed.is_set()
    with pytest.raises(ProcessLookupError):
        os.kill(int(ready.read_text()), 0)


def test_processes_share_the_devices_and_the_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stub.py").write_text(STUB)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr("training.study.executor.cores_here", lambda: 7)
    tasks = [stub_task(tmp_path, "done", index=index) for index in range(2)]
    conduct(tasks, LocalProcesses(jobs=2, devices=("cuda:0", "cuda:1")), lambda text: None)
    told = [json.loads(task.result.read_text())["told"] for task in tasks]
    assert told == [["--device", f"cuda:{index}", "--cores", "3"] for index in range(2)]


def test_ray_is_asked_for_what_a_run_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from training.study.ray_executor import RayTasks

    fake = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", fake)
    monkeypatch.setattr(fake, "cluster_resources", lambda: {"CPU": 16.0, "GPU": 3.0})
    tasks = RayTasks("local", cpus=4, gpus=True)
    assert tasks.width == 3
    assert fake.said == ["local", {"num_cpus": 4, "num_gpus": 1, "max_retries": 0}]
    assert RayTasks("local", cpus=4, gpus=False).width == 4
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(Error, match=r"edgedet\[ray\]"):
        RayTasks("auto", cpus=1, gpus=False)


def test_a_worker_of_ray_that_is_lost_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from training.study.ray_executor import RayTasks

    monkeypatch.setitem(sys.modules, "ray", FakeRay())
    monkeypatch.setattr(threading.Thread, "start", lambda self: None)
    outcome = conduct([stub_task(tmp_path, "done")], RayTasks("auto", cpus=1, gpus=False), lambda text: None)
    assert outcome.failed == {"done-0": "RuntimeError: the worker died"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--jobs", "0"], "--jobs: expected 1 or more, got 0"),
        (["--ray", "auto", "--jobs", "2"], "--ray: expected neither --jobs nor --devices"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    data: Path, tmp_path: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ablate", str(write_grid(tmp_path, data)), *options]) == 2
    assert message in capsys.readouterr().err


# Fairness


def test_methods_of_one_seed_begin_alike(
    data: Path, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same student, the same first images, the same loss before the first update; other seeds have others."""
    grid = read_grid(write_grid(tmp_path, data, SLOWER, "logit: [logit]", more=f"teacher: [{teacher}]"))
    write_split(grid.out, divide(grid))
    losses: list[dict[str, float]] = []

    def end(journal: Journal, progress: Progress, result: StepResult, *, epoch: int, micro_batch: int) -> None:
        losses.append(result.terms)
        raise KeyboardInterrupt

    monkeypatch.setattr(Journal, "step", end)
    todo = plan(grid).runs
    for run in todo:
        with pytest.raises(KeyboardInterrupt):
            trainer.train(run.config)
    states = [load_file(run.folder / "state-000000.safetensors") for run in todo]
    batches = [(run.folder / "first_batch.png").read_bytes() for run in todo]
    assert [run.seed for run in todo] == [0, 0, 0, 1, 1, 1]
    for first, second in ((0, 1), (0, 2), (3, 4), (3, 5)):
        for name, tensor in states[first].items():
            assert (tensor == states[second][name]).all(), name
        assert batches[first] == batches[second]
        assert losses[first] == {name: losses[second][name] for name in losses[first]}
    assert len(losses[2]) > len(losses[0])
    assert batches[0] != batches[3]
    assert losses[0] != losses[3]


# A whole study


class InProcess:
    """Runs what others start in a process of its own; `fail` names the task whose process dies."""

    width = 1

    def __init__(self, *, fail: str = "") -> None:
        self._fail = fail
        self._over: list[Ended] = []

    def start(self, task: Task) -> None:
        run = {"training.study.run_one": run_one.main, "training.study.evaluate_teacher": evaluate_teacher.main}
        with task.log.open("a") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
            code = -9 if task.name == self._fail else run[task.module]([*task.arguments, "--cores", "1"])
        self._over.append(Ended(task, code))

    def ended(self) -> list[Ended]:
        over, self._over = self._over, []
        return over

    def interrupt(self) -> None: ...

    def close(self) -> None: ...


def run_all(grid: Grid, *, fail: str = "") -> Outcome:
    return study.run_study(grid, InProcess(fail=fail), lambda text: None)


@pytest.mark.slow
def test_a_study_from_end_to_end(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of four runs one dies and one has a bad option; both are made up for, and nothing is done twice."""
    judged: list[Sequence[Any]] = []
    evaluate = run_one.evaluate_checkpoint

    def counted(path: Path, **options: Any) -> dict[str, float]:
        judged.append((path, options["data"], options["val_json"]))
        return evaluate(path, **options)

    monkeypatch.setattr(run_one, "evaluate_checkpoint", counted)
    file = write_grid(tmp_path, data, "other: {options: {lr: 1e-5, vram_budget: plenty}}")
    out = tmp_path / "study"
    outcome = run_all(read_grid(file), fail="baseline/seed-1")
    assert outcome.done == ["baseline/seed-0"]
    assert outcome.failed["baseline/seed-1"].startswith("killed by SIGKILL")
    assert outcome.failed["other/seed-0"] == "expected a size such as 4GiB or 512MiB, got 'plenty'"
    assert json.loads((out / "other" / "seed-1" / "failed.json").read_text())["code"] == 2
    assert len(summarise(out).notes) == 3

    file = write_grid(tmp_path, data, SLOWER)
    outcome = run_all(read_grid(file))
    assert sorted(outcome.done) == ["baseline/seed-1", "other/seed-0", "other/seed-1"]
    assert not list(out.glob("*/*/failed.json"))
    assert sorted(judged) == [
        (out / method / f"seed-{s}", data, None) for method in ("baseline", "other") for s in (0, 1)
    ]
    assert run_all(read_grid(file)) == Outcome()

    result = json.loads((out / "other" / "seed-1" / "result.json").read_text())
    assert (result["method"], result["weight"], result["seed"], result["options"]) == ("other", 1.0, 1, {"lr": 1e-5})
    assert result["config"]["train_json"] == str(out / "split" / "train.json")
    assert result["config"]["val_json"] == str(out / "split" / "select.json")
    assert result["val"] == evaluate(out / "other" / "seed-1", data=data, val_json=None, device="cpu", batch=4)
    assert (result["steps"], result["best_step"], result["config"]["lr"]) == (2, 2, 1e-5)
    assert result["seconds_per_step"] == pytest.approx(result["seconds"] / 2)
    assert result["versions"].keys() == {"python", "torch", "edgedet"}
    assert result["machine"]["cpu"]
    assert result["grid_sha256"] == read_grid(file).sha256
    assert main(["aggregate", str(out)]) == 0
    assert "| other | 2 |" in capsys.readouterr().out

    write_grid(tmp_path, data, "other: {options: {lr: 2e-5}}", "more: {options: {lr: 3e-5}}")
    assert main(["ablate", str(file)]) == 2
    error = capsys.readouterr().err
    assert "other/seed-0: expected a run of what" in error
    assert "lr was 1e-05, is 2e-05" in error
    assert "remove the folder to train it again" in error
    assert not (out / "more").exists()


def test_teachers_are_judged_as_the_runs_are(data: Path, teacher: Path, tmp_path: Path) -> None:
    copy = tmp_path / "det"
    shutil.copytree(teacher, copy)
    file = write_grid(tmp_path, data, "logit: [logit]", seeds="[0]", more="teacher: [det=det]\nweights: [1, 0.5]")
    outcome = run_all(read_grid(file))
    assert outcome.done == ["teacher det", "baseline/seed-0", "logit/seed-0", "logit-x0.5/seed-0"]
    out = tmp_path / "study"
    expected = run_one.evaluate_checkpoint(copy, data=data, val_json=None, device="cpu", batch=16)
    assert json.loads((out / "teacher-det.json").read_text())["val"] == expected
    assert summarise(out).teachers == {"det": expected}
    assert summarise(out).rows[2].teacher == "det"
    result = json.loads((out / "logit-x0.5" / "seed-0" / "result.json").read_text())
    assert (result["weight"], result["teachers"], result["config"]["distil"]) == (0.5, ["det"], ["logit:weight=0.5"])
    assert run_all(read_grid(file)) == Outcome()
    description = {"model": "atto", "size": SIZE, "classes": NAMES, "category_ids": IDS}
    model = build_model(resolve(tiny_config(data, copy, seed=8)), num_classes=len(NAMES))
    save_weights(copy / "best.safetensors", model, description)
    with pytest.raises(InvalidInputError, match=r"logit/seed-0: .* files\.teacher det was \w+…, is \w+…"):
        run_all(read_grid(file))


def test_a_teacher_of_other_classes_has_no_figure(data: Path, teacher: Path, tmp_path: Path) -> None:
    file = tmp_path / "teacher-det.json"
    annotations = tmp_path / "val.json"
    content = json.loads((data / "val" / "instances.json").read_text())
    content["categories"][0]["name"] = "green"
    content["images"] = [
        {**image, "file_name": str(data / "val" / "images" / image["file_name"])} for image in content["images"]
    ]
    annotations.write_text(json.dumps(content))
    file.write_text(json.dumps({"path": str(teacher), "data": None, "val_json": str(annotations)}))
    assert evaluate_teacher.main([str(file), "--cores", "1", "--device", "cpu"]) == 0
    record = json.loads(file.read_text())
    assert record["val"] is None
    assert "expected category 3 to be 'red'" in record["why"]


def test_only_detectors_are_judged(teacher: Path, tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text("{}")
    (tmp_path / "foundation").mkdir()
    (tmp_path / "foundation" / "config.json").write_text('{"model_type": "dinov2"}')
    others = ("hub:any/thing", "model.onnx", str(tmp_path), str(tmp_path / "foundation"))
    assert not any(evaluate_teacher.is_detector(Source("any", path)) for path in others)
    assert evaluate_teacher.is_detector(Source("any", str(teacher)))


def test_other_images_are_another_study(data: Path, tmp_path: Path) -> None:
    grid = read_grid(write_grid(tmp_path, data, seeds="[0]"))
    assert run_all(grid).done == ["baseline/seed-0"]
    other = make_dataset(tmp_path / "other", val=4)
    with pytest.raises(InvalidInputError, match=r"val was \w+…, is \w+…\. Give the method another name"):
        run_all(read_grid(write_grid(tmp_path, other, seeds="[0]")))


def test_a_study_is_of_one_process(data: Path, tmp_path: Path) -> None:
    from training.study.lock import locked

    grid = read_grid(write_grid(tmp_path, data))
    with locked(grid.out, "a study"), pytest.raises(InvalidInputError, match="no other process is at work on"):
        run_all(grid)


@pytest.mark.slow
def test_an_interrupted_study_goes_on(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In a process of its own: SIGINT amid training, as Ctrl-C sends it, then the same command again."""
    file = write_grid(tmp_path, data, seeds="[0]", epochs=20, eval_every=20)
    run = tmp_path / "study" / "baseline" / "seed-0"

    over = threading.Event()

    def interrupt() -> None:
        while not over.wait(0.02):
            if (run / "state.json").exists() and json.loads((run / "state.json").read_text())["step"] > 0:
                os.kill(os.getpid(), signal.SIGINT)
                return

    thread = threading.Thread(target=interrupt)
    thread.start()
    code = main(["ablate", str(file)])
    over.set()
    thread.join()
    assert code == 130
    assert "stopped baseline/seed-0" in capsys.readouterr().out
    stopped = json.loads((run / "state.json").read_text())["step"]
    assert 0 < stopped < 40
    assert not (run / "result.json").exists()
    assert not (run / "failed.json").exists()
    assert main(["ablate", str(file)]) == 0
    assert json.loads((run / "result.json").read_text())["steps"] == 40
    steps = [record["step"] for record in read_metrics(run / "metrics.jsonl") if record["kind"] == "step"]
    assert steps == [10, 20, 30, 40]

"""Distillation in whole runs: every method, interrupted and resumed, cached and not, and absent from the export."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file
from test_resume import after_step
from torch import Tensor
from training_data import make_dataset, tiny_config

from edgedet import InvalidInputError, ModelError
from training import trainer
from training.config import TrainConfig
from training.distributed import Processes
from training.export import export_onnx
from training.publish import load_checkpoint
from training.recipes import resolve
from training.reporting import read_metrics
from training.teachers.cache import CachedTeacher
from training.teachers.detector import DetectorTeacher, load_detector

ROOT = Path(__file__).resolve().parent.parent
METHODS: dict[str, tuple[str, ...]] = {
    "logit": ("logit",),
    "feature": ("feature:weight=0.1",),
    "cwd": ("cwd",),
    "mgd": ("mgd:weight=0.1",),
    "query index": ("query:matching=index",),
    "query hungarian": ("query",),
    "localisation": ("localisation",),
    "stage-adaptive": ("stage-adaptive:weight=0.1",),
    "dsi": ("dsi:weight=5",),
    "gam": ("dsi:weight=5,rho=0.3,every=2",),
    "joint": ("logit:layers=all", "dsi:weight=5,rho=0.3,every=4"),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def teacher(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("teachers") / "femto"
    trainer.train(tiny_config(data, run, model="femto", size=192, epochs=1, eval_every=1))
    return run


def distilling(data: Path, run: Path, teacher: Path, *distil: str, **changes: Any) -> TrainConfig:
    return tiny_config(data, run, teacher=(str(teacher),), distil=distil, teacher_images=0, **changes)


def assert_same(first: Path, second: Path, step: int = 9) -> None:
    name = f"state-{step:06d}.safetensors"
    expected, got = load_file(first / name), load_file(second / name)
    assert expected.keys() == got.keys()
    for key, tensor in expected.items():
        assert torch.equal(tensor.nan_to_num(), got[key].nan_to_num()), f"{key} differs"


def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("method", METHODS)
def test_interrupted_and_resumed_equals_uninterrupted(
    data: Path, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """Stopped once, with a save, and crashed once, without. Odd methods fill a cache on the way."""
    cached: dict[str, Any] = {}
    if list(METHODS).index(method) % 2:
        cached = {"views": 2, "teacher_cache": tmp_path / "cache"}
    whole, run = tmp_path / "whole", tmp_path / "run"
    trainer.train(distilling(data, whole, teacher, *METHODS[method], **cached))
    if cached:
        cached["teacher_cache"] = tmp_path / "another"
    with monkeypatch.context() as patched:
        after_step(patched, 4, lambda: os.kill(os.getpid(), signal.SIGINT))
        assert trainer.train(distilling(data, run, teacher, *METHODS[method], **cached)).signal == signal.SIGINT
    with monkeypatch.context() as patched:
        after_step(patched, 8, interrupt)
        with pytest.raises(KeyboardInterrupt):
            trainer.resume(run)
    assert json.loads((run / "state.json").read_text())["step"] == 6
    assert trainer.resume(run).signal == 0
    assert_same(whole, run)
    record = read_metrics(whole / "metrics.jsonl")[-2]
    names = [name for name in record if name.startswith("distil/")]
    assert names
    assert all(record[name] >= 0 for name in names)


def test_a_foundation_model_and_a_detector_together(
    data: Path, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Joint distillation from two kinds of teachers, cached in int8, stopped and resumed."""
    from transformers import Dinov2Config, Dinov2Model

    config = Dinov2Config(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=56, patch_size=14, intermediate_size=48
    )
    Dinov2Model(config).save_pretrained(tmp_path / "dinov2")
    settings: dict[str, Any] = {
        "teacher": (f"det={teacher}@224", f"vfm={tmp_path / 'dinov2'}"),
        "distil": ("logit", "dsi:weight=5,rho=0.2,every=2", "cwd:teacher=det"),
        "views": 2,
        "teacher_ap": 0.0,
        "cache_bits": 8,
    }
    runs = [tiny_config(data, tmp_path / name, teacher_cache=tmp_path / f"{name}-c", **settings) for name in "ab"]
    trainer.train(runs[0])
    with monkeypatch.context() as patched:
        after_step(patched, 5, lambda: os.kill(os.getpid(), signal.SIGTERM))
        assert trainer.train(runs[1]).signal == signal.SIGTERM
    trainer.resume(tmp_path / "b")
    assert_same(tmp_path / "a", tmp_path / "b")
    record = next(r for r in read_metrics(tmp_path / "a" / "metrics.jsonl") if r["kind"] == "step")
    assert {"distil/logit", "distil/dsi", "distil/cwd", "gam/dsi/weight", "gam/dsi/share"} <= record.keys()
    assert len(list((tmp_path / "a-c").glob("*/semantic/rows.bin"))) == 2


def test_attention_is_distilled_where_both_have_it(data: Path, teacher: Path, tmp_path: Path) -> None:
    """Between two edge models, cached; a student whose teacher has none does not spend time on it."""
    settings: dict[str, Any] = {"model": "edge-r18", "denoising": 0, "epochs": 1, "eval_every": 1, "views": 1}
    big = tmp_path / "big"
    trainer.train(tiny_config(data, big, **settings))
    config = distilling(data, tmp_path / "run", big, "feature", "query", teacher_cache=tmp_path / "cache", **settings)
    trainer.train(config)
    assert len(list((tmp_path / "cache").glob("*/attention/rows.bin"))) == 1
    for wanted, source in ((True, big), (False, teacher)):
        run = trainer.Run(
            resolve(distilling(data, tmp_path / "x", source, "feature", **settings)), Processes(), fresh=True
        )
        assert run.learner.distiller is not None
        assert (run.learner.distiller.losses["feature"].attention > 0) == wanted  # type: ignore[operator]
        assert run.learner.model.decoder.record_attention == wanted  # type: ignore[union-attr]


def test_killed_while_the_cache_is_filled(data: Path, teacher: Path, tmp_path: Path) -> None:
    """SIGKILL in the middle of writing a row; the run that goes on ends as one that never stopped."""
    whole = tmp_path / "whole"
    settings = {"views": 2, "epochs": 4, "save_every": 1}
    trainer.train(distilling(data, whole, teacher, "logit", "cwd", teacher_cache=tmp_path / "a", **settings))
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "import torch\n"
        "from test_distil_training import distilling\n"
        "from training import trainer\n"
        "from training.teachers import store\n"
        "torch.set_num_threads(1)\n"
        "data, run, teacher, cache = map(Path, sys.argv[1:5])\n"
        "put, calls = store.RowStore.put, []\n"
        "def dying(self, numbers, rows):\n"
        "    calls.append(numbers)\n"
        "    if len(calls) == 8:\n"
        "        put(self, numbers[:1], rows[:1])\n"
        "        self._rows[numbers[1]][: rows.shape[1] // 2] = rows[1][: rows.shape[1] // 2]\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    put(self, numbers, rows)\n"
        "store.RowStore.put = dying\n"
        f"trainer.train(distilling(data, run, teacher, 'logit', 'cwd', teacher_cache=cache, **{settings!r}))\n"
    )
    run = tmp_path / "run"
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'python'}:{ROOT}:{ROOT / 'tests'}"}
    command = [sys.executable, "-c", code, str(data), str(run), str(teacher), str(tmp_path / "b")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert json.loads((run / "state.json").read_text())["step"] == 3
    trainer.resume(run)
    assert_same(whole, run, 12)


VIEWS: dict[str, Any] = {"views": 2}


@pytest.fixture(scope="module")
def filled(data: Path, teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run that has filled a cache, `run` and `cache`."""
    folder = tmp_path_factory.mktemp("filled")
    trainer.train(distilling(data, folder / "run", teacher, "logit", "cwd", teacher_cache=folder / "cache", **VIEWS))
    return folder


@pytest.fixture
def cache(filled: Path, tmp_path: Path) -> Path:
    """A copy of the filled cache."""
    return shutil.copytree(filled / "cache", tmp_path / "cache")


def test_a_cached_teacher_is_not_even_loaded(
    data: Path,
    teacher: Path,
    filled: Path,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A run whose views are all known asks nobody, and ends as the run that filled the cache."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a teacher was loaded")

    monkeypatch.setattr("training.teachers.attach.open_teacher", refuse)
    trainer.train(distilling(data, tmp_path / "run", teacher, "logit", "cwd", teacher_cache=cache, **VIEWS))
    assert_same(filled / "run", tmp_path / "run")
    assert "18 answers from the cache, 0 computed" in capsys.readouterr().out


@pytest.mark.parametrize("harm", ["flipped", "cut", "gone", "sums"])
def test_a_damaged_cache_is_completed(
    data: Path, teacher: Path, filled: Path, cache: Path, tmp_path: Path, harm: str
) -> None:
    (folder,) = cache.glob("*/features")
    rows = folder / "rows.bin"
    content = bytearray(rows.read_bytes())
    used = next(index for index, byte in enumerate(content) if byte)
    if harm == "flipped":
        content[used] ^= 1
        rows.write_bytes(content)
    elif harm == "cut":
        rows.write_bytes(content[: used + 100])
    elif harm == "gone":
        rows.unlink()
    else:
        (folder / "sums.bin").write_bytes(b"\xff" * 7)
    trainer.train(distilling(data, tmp_path / "run", teacher, "logit", "cwd", teacher_cache=cache, **VIEWS))
    assert_same(filled / "run", tmp_path / "run")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "expected json, got broken text"),
        ("[]", "expected an object"),
        ('{"layout": 3}', "description of a cache"),
    ],
)
def test_a_cache_without_a_description_is_refused(
    data: Path, teacher: Path, cache: Path, tmp_path: Path, content: str, message: str
) -> None:
    (folder,) = cache.glob("*/features")
    (folder / "store.json").write_text(content)
    with pytest.raises(InvalidInputError, match=message):
        trainer.train(distilling(data, tmp_path / "run", teacher, "logit", "cwd", teacher_cache=cache, **VIEWS))


def test_other_settings_have_another_cache(data: Path, teacher: Path, tmp_path: Path) -> None:
    folders = set()
    for changes in ({}, {"seed": 5}, {"views": 3}, {"flip": 0.1}, {"cache_bits": 8}, {"distil": ("logit",)}, {}):
        settings = {"distil": ("cwd",), "views": 2, "teacher_cache": tmp_path / "cache", **changes}
        config = tiny_config(data, tmp_path / "run", teacher=(str(teacher),), teacher_images=0, **settings)
        teachers = trainer.Run(resolve(config), Processes(), fresh=True).learner.teachers
        assert teachers is not None
        (cached,) = teachers._teachers.values()
        assert isinstance(cached, CachedTeacher)
        folders.add(cached.folder)
    assert len(folders) == 5


def test_methods_share_what_they_have_in_common(
    data: Path, teacher: Path, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A method with one more need asks again, and leaves what was there as it was."""
    before = {file: file.read_bytes() for file in cache.glob("*/*/rows.bin")}
    trainer.train(distilling(data, tmp_path / "a", teacher, "query", teacher_cache=cache, **VIEWS))
    assert "6 answers from the cache, 12 computed" in capsys.readouterr().out
    assert {file.parent.name for file in cache.glob("*/*/rows.bin")} > {"prediction", "features", "queries"}
    assert all(file.read_bytes() == content for file, content in before.items())
    trainer.train(distilling(data, tmp_path / "b", teacher, "cwd", "query", teacher_cache=cache, **VIEWS))
    assert "18 answers from the cache, 0 computed" in capsys.readouterr().out


@pytest.mark.parametrize(("bits", "tolerance"), [(16, 1e-3), (8, 2e-2)])
def test_a_cache_gives_back_what_was_said(teacher: Path, tmp_path: Path, bits: int, tolerance: float) -> None:
    plain = load_detector(teacher, ("red", "blue"), size=None)
    needs = frozenset({"prediction", "distributions", "features", "queries"})
    cached = CachedTeacher(tmp_path, load=lambda: plain, identity={}, keys=6, needs=needs, bits=bits)  # type: ignore[arg-type]
    images = torch.rand(3, 3, 160, 160)
    said, kept, again = plain(images), cached(images, (4, 0, 2)), cached(torch.zeros_like(images), (4, 0, 2))
    assert said.prediction is not None
    assert kept.prediction is not None
    assert again.prediction is not None
    assert torch.equal(kept.prediction.boxes, said.prediction.boxes)
    pairs = [
        (kept.prediction.logits, said.prediction.logits, again.prediction.logits),
        (kept.prediction.corners, said.prediction.corners, again.prediction.corners),
        (kept.queries, said.queries, again.queries),
        *zip(kept.features, said.features, again.features, strict=True),
    ]
    for got, wanted, repeated in pairs:
        assert isinstance(got, Tensor)
        assert isinstance(wanted, Tensor)
        assert isinstance(repeated, Tensor)
        assert float((got - wanted).abs().max()) <= tolerance * float(wanted.abs().max())
        assert torch.equal(got, repeated)


def test_views_come_again(data: Path, tmp_path: Path) -> None:
    """With two views the third epoch shows what the first showed, in another order; without, something new."""

    def images(views: int) -> list[dict[int, Tensor]]:
        config = tiny_config(data, tmp_path / f"{views}", views=views)
        run = trainer.Run(resolve(config), Processes(), fresh=True)
        order = run.batches.order
        return [
            {
                index: image
                for batch, indices in zip(run.batches.epoch(epoch), order(epoch), strict=True)
                for index, image in zip(indices, batch.images, strict=True)
            }
            for epoch in range(3)
        ]

    first, second, third = images(2)
    assert all(torch.equal(first[index], third[index]) for index in first)
    assert not any(torch.equal(first[index], second[index]) for index in first)
    first, _, third = images(0)
    assert not any(torch.equal(first[index], third[index]) for index in first)


def test_the_exported_graph_knows_nothing_of_teachers(data: Path, teacher: Path, tmp_path: Path) -> None:
    """Nodes, names and shapes are those of a run without teachers, and so are the bytes where the weights are."""
    runs = {"plain": (), "distilled": METHODS["joint"]}
    files = {}
    for name, distil in runs.items():
        config = tiny_config(data, tmp_path / name, epochs=1, eval_every=1)
        if distil:
            config = replace(config, teacher=(str(teacher),), distil=distil, teacher_images=0)
        trainer.train(config)
        files[name] = export_onnx(load_checkpoint(tmp_path / name).model, tmp_path / f"{name}.onnx")
    plain, distilled = (onnx.load(file).graph for file in files.values())
    assert [node.SerializeToString() for node in plain.node] == [node.SerializeToString() for node in distilled.node]
    assert [(w.name, list(w.dims)) for w in plain.initializer] == [
        (w.name, list(w.dims)) for w in distilled.initializer
    ]
    model = load_checkpoint(tmp_path / "distilled").model
    fresh = load_checkpoint(tmp_path / "plain").model
    fresh.load_state_dict(model.state_dict())  # strict: the same tensors
    assert export_onnx(fresh, tmp_path / "fresh.onnx").read_bytes() == files["distilled"].read_bytes()


def test_a_teacher_that_sees_nothing_is_refused(data: Path, teacher: Path, tmp_path: Path) -> None:
    config = replace(distilling(data, tmp_path / "run", teacher, "logit"), teacher_images=3, teacher_ap=0.99)
    with pytest.raises(ModelError, match=r"AP 0\.\d+ on 3 validation images, expected 0.99 or more.*--teacher-ap"):
        trainer.train(config)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("classes", "its classes seem to be in another order"),
        ("range", "with pixels from 0 to 255 it has"),
        ("blind", "it finds little whatever the colours and classes"),
    ],
)
def test_the_likely_cause_is_named(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, message: str
) -> None:
    """A perfect teacher (it finds the squares by their colours) that is asked wrongly."""
    from training.models.outputs import Prediction, TeacherOutput, Widths
    from training.teachers.teacher import Teacher

    class Perfect(Teacher):
        widths, description = Widths(classes=2), "a perfect teacher"

        def observe(self, images: Tensor) -> TeacherOutput:
            images = images / 255 if fault == "range" else images * (fault != "blind")
            logits = torch.full((len(images), 2, 2), -8.0)
            boxes = torch.full((len(images), 2, 4), 0.5)
            for image, label in np.ndindex(len(images), 2):
                channel = 0 if label == 0 else 2
                mask = (images[image, channel] > 0.6) & (images[image, 2 - channel] < 0.3) & (images[image] <= 1).all(0)
                rows, columns = mask.nonzero(as_tuple=True)
                if len(rows):
                    low = torch.stack([columns.min(), rows.min()]) / 160
                    high = (torch.stack([columns.max(), rows.max()]) + 1) / 160
                    boxes[image, label] = torch.cat([(low + high) / 2, high - low])
                    logits[image, label, label if fault != "classes" else 1 - label] = 5.0
            return TeacherOutput(prediction=Prediction(logits, boxes))

    monkeypatch.setattr("training.teachers.attach.open_teacher", lambda source, classes: Perfect(size=None))
    config = replace(distilling(data, tmp_path / "run", tmp_path, "logit"), teacher_images=3, teacher_ap=0.8)
    with pytest.raises(ModelError, match=message):
        trainer.train(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher": ("x",)}, "distil: expected one beside --teacher"),
        ({"distil": ("logit",)}, "teacher: expected one beside --distil"),
        ({"teacher_cache": Path("x")}, "teacher_cache: expected a --teacher"),
        ({"cache_bits": 4}, "cache_bits: expected 8 or 16, got 4"),
        ({"views": 2, "mixup": 0.5}, "views: expected a run without mixup"),
        ({"views": 2, "multi_scale": 2}, "views: expected a run without mixup, copy-blend and multi-scale"),
    ],
)
def test_settings_that_do_not_fit(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        tiny_config(tmp_path, tmp_path / "run", **changes)


def test_a_teacher_of_other_classes_serves_features_alone(data: Path, teacher: Path, tmp_path: Path) -> None:
    other = load_detector(teacher, ("red", "green"), size=None)
    assert other.widths.classes is None
    assert other(torch.rand(1, 3, 160, 160)).prediction is None
    swapped, same = (load_detector(teacher, names, size=None) for names in (("blue", "red"), ("red", "blue")))
    images = torch.rand(2, 3, 160, 160)
    ours, theirs = swapped(images).prediction, same(images).prediction
    assert ours is not None
    assert theirs is not None
    assert torch.equal(ours.logits, theirs.logits.flip(-1))


@pytest.mark.parametrize("size", [100, 96])
def test_a_size_that_a_teacher_cannot_take(teacher: Path, size: int) -> None:
    """No multiple of the stride; fewer cells than queries."""
    with pytest.raises(InvalidInputError, match=r"teacher: expected a size that .* can take"):
        load_detector(teacher, ("red", "blue"), size=(size, size))


def test_a_teacher_stays_frozen(teacher: Path) -> None:
    frozen = load_detector(teacher, ("red", "blue"), size=None)
    before = [tensor.clone() for tensor in frozen.state_dict().values()]
    assert isinstance(frozen.train(), DetectorTeacher)
    assert not any(module.training for module in frozen.modules())
    output = frozen(torch.rand(2, 3, 128, 160, requires_grad=True))
    assert output.prediction is not None
    assert not output.prediction.logits.requires_grad
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, frozen.state_dict().values(), strict=True))

"""What the OpenVINO backend compiled is kept, found again and never trusted blindly."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tiny_onnx
from numpy.typing import NDArray

from edgedet import Detector, ModelError
from edgedet.bundle import InputSpec, LogitsBoxes, write_bundle
from edgedet.labels import COCO80
from edgedet.onnx_import import import_model

BYTES = b"edgedet engine 1\n"
FRAME = np.random.default_rng(0).integers(0, 256, (48, 80, 3), dtype=np.uint8)


def bundle(folder: Path, name: str, boxes: NDArray[np.float32] = tiny_onnx.BOXES) -> Path:
    return tiny_onnx.logits_bundle(folder, name=name, boxes=boxes)


def entries(cache: Path) -> list[Path]:
    return sorted(cache.glob("*.engine"))


def rows(detector: Detector) -> list[NDArray[np.generic]]:
    found = detector(FRAME)
    return [found.boxes, found.scores, found.labels]


def same(one: list[NDArray[np.generic]], other: list[NDArray[np.generic]]) -> bool:
    return all(np.array_equal(mine, theirs) for mine, theirs in zip(one, other, strict=True))


def executed(detector: Detector) -> Counter[tuple[str, str, str]]:
    """What runs, without the names that OpenVINO numbers anew."""
    return Counter((node["type"], node["primitive"], node["precision"]) for node in detector.execution_graph())


def test_the_second_start_gives_the_same_rows(tmp_path: Path) -> None:
    cache = tmp_path / "cache" / "deep"
    model = bundle(tmp_path, "a")
    plain = rows(Detector(model, cache_dir="", threads=1))
    first = Detector(model, cache_dir=cache, threads=1)
    (entry,) = entries(cache)
    assert entry.stat().st_mode & 0o077 == 0
    before = entry.read_bytes()
    second = Detector(model, cache_dir=cache, threads=1)
    assert entries(cache) == [entry]
    assert entry.read_bytes() == before
    assert same(plain, rows(first))
    assert same(plain, rows(second))
    assert executed(first) == executed(second)


@pytest.mark.parametrize("name", ["deimv2_hgnetv2_atto_coco", "deimv2_hgnetv2_femto_coco"])
def test_published_models_run_as_they_were_compiled(tmp_path: Path, shared: Path, name: str) -> None:
    model = tmp_path / name
    import_model(shared / "models" / f"{name}.onnx", model, labels=COCO80)
    fresh = Detector(model, cache_dir=tmp_path / "cache", threads=2)
    kept = Detector(model, cache_dir=tmp_path / "cache", threads=2)
    assert same(rows(fresh), rows(kept))
    assert executed(fresh) == executed(kept)


def test_the_kept_one_is_what_runs(tmp_path: Path) -> None:
    """The entry of another model, passed off as this one's, shows in the detections."""
    cache = tmp_path / "cache"
    models = [bundle(tmp_path, "a"), bundle(tmp_path, "b", boxes=tiny_onnx.BOXES[::-1].copy())]
    plain = [rows(Detector(model, cache_dir=cache, threads=1)) for model in models]
    assert not same(*plain)
    by_model = {}
    for model in models:
        own = tmp_path / f"cache of {model.name}"
        Detector(model, cache_dir=own, threads=1)
        by_model[model.name] = entries(own)[0]
    key = by_model["a"].stem.encode()
    plan = by_model["b"].read_bytes()[len(BYTES) + 64 + 16 + 64 :]
    forged = BYTES + key + b"%016x" % len(plan) + hashlib.sha256(plan).hexdigest().encode() + plan
    (cache / by_model["a"].name).write_bytes(forged)
    assert same(rows(Detector(models[0], cache_dir=cache, threads=1)), plain[1])


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "text"])
def test_a_damaged_entry_is_made_again(tmp_path: Path, damage: str) -> None:
    cache, model = tmp_path / "cache", bundle(tmp_path, "a")
    plain = rows(Detector(model, cache_dir=cache, threads=1))
    (entry,) = entries(cache)
    whole = entry.read_bytes()
    flipped = bytearray(whole)
    flipped[-100] ^= 1
    entry.write_bytes({"empty": b"", "cut": whole[:-1], "flipped": bytes(flipped), "text": b"nonsense"}[damage])
    assert same(rows(Detector(model, cache_dir=cache, threads=1)), plain)
    restored = entry.read_bytes()
    assert restored[: len(BYTES) + 64] == whole[: len(BYTES) + 64]
    assert len(restored) > len(whole) // 2


def test_a_plan_that_openvino_refuses_costs_time_only(tmp_path: Path) -> None:
    cache, model = tmp_path / "cache", bundle(tmp_path, "a")
    plain = rows(Detector(model, cache_dir=cache, threads=1))
    (entry,) = entries(cache)
    plan = b"no plan of OpenVINO" * 100
    head = BYTES + entry.stem.encode() + b"%016x" % len(plan) + hashlib.sha256(plan).hexdigest().encode()
    entry.write_bytes(head + plan)
    assert same(rows(Detector(model, cache_dir=cache, threads=1)), plain)


@pytest.mark.parametrize("options", [{"threads": 2}, {"mode": "throughput"}, {"requests": 2}])
def test_other_options_are_another_entry(tmp_path: Path, options: dict[str, object]) -> None:
    cache, model = tmp_path / "cache", bundle(tmp_path, "a")
    Detector(model, cache_dir=cache, threads=1)
    Detector(model, cache_dir=cache, **{"threads": 1, **options})  # type: ignore[arg-type]
    assert len(entries(cache)) == 2


def test_a_folder_that_cannot_be_written_to_is_done_without(tmp_path: Path) -> None:
    model = bundle(tmp_path, "a")
    (tmp_path / "file").write_text("in the way")
    kept_nowhere = Detector(model, cache_dir=tmp_path / "file" / "below", threads=1)
    assert same(rows(kept_nowhere), rows(Detector(model, cache_dir="", threads=1)))


def test_a_broken_model_is_refused_as_ever(tmp_path: Path) -> None:
    file = tmp_path / "broken.onnx"
    file.write_bytes(b"\x3a\x02\xff\xff")  # a graph that is none
    model = write_bundle(
        tmp_path / "broken",
        file,
        name="broken",
        input=InputSpec(width=tiny_onnx.SIZE, height=tiny_onnx.SIZE),
        output=LogitsBoxes(top_k=9),
        classes=tiny_onnx.CLASSES,
        category_ids=[1, 2, 3],
    )
    with pytest.raises(ModelError, match="cannot be read as a network"):
        Detector(model, cache_dir=tmp_path / "cache")
    assert not entries(tmp_path / "cache")

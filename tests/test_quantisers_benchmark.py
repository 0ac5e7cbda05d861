"""The comparison of quantisers compares equal things: same inputs, same decoding, no figure of another file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_onnx
from PIL import Image

from benchmarks.quantisers import making
from benchmarks.quantisers.contenders import BOTH, CONTENDERS, FLOAT, OURS, TOOLS, Contender, Engine
from benchmarks.quantisers.engines import load
from benchmarks.quantisers.evaluation import decode
from benchmarks.quantisers.making import make
from benchmarks.quantisers.report import exceptions, gather, markdown
from benchmarks.quantisers.workspace import Subject, calibration_digest, file_digest, same_sample, write_json
from calibration.inputs import network_input
from calibration.quantize import record_sample
from calibration.sampling import draw
from edgedet import Detector, InvalidInputError, read_image
from edgedet.bundle import InputSpec, LabelsBoxesScores, LogitsBoxes, write_bundle

PEER = Contender(key="peer", title="a peer", tool="nncf", settings={"strength": 1})

# Writes what it was given next to a copy of the float model.
SCRIPT = """
import shutil
import numpy as np
from job import run_job

def quantise(job):
    if job.settings["strength"] == 0:
        raise SystemExit("no strength left")
    shutil.copyfile(job.model, job.folder / "model.onnx")
    np.save(job.folder / "seen.npy", np.concatenate([feed[job.image_input] for feed in job.feeds()]))

run_job(quantise, ("numpy",))
"""


def photos(folder: Path, *, count: int = 4) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(3)
    for number in range(count):
        pixels = rng.integers(0, 256, (20 + number, 30, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def subject(folder: Path, images: Path, *, scored: bool = False, seed: int = 0, **spec: Any) -> Subject:
    folder.mkdir(exist_ok=True)
    model = (tiny_onnx.scored_model if scored else tiny_onnx.logits_model)(folder / "tiny.onnx")
    bundle = write_bundle(
        folder / "bundle",
        model,
        name="tiny",
        input=InputSpec(width=tiny_onnx.SIZE, height=tiny_onnx.SIZE, **spec),
        output=LabelsBoxesScores(top_k=3, size_input="orig_target_sizes") if scored else LogitsBoxes(top_k=9),
        classes=tiny_onnx.CLASSES,
    )
    record_sample(bundle, draw(images, count=3, seed=seed))
    return Subject("tiny", bundle, folder / "work")


@pytest.mark.parametrize("engine", BOTH)
@pytest.mark.parametrize("scored", [False, True])
def test_decoding_is_that_of_the_runtime(tmp_path: Path, engine: Engine, scored: bool) -> None:
    images = photos(tmp_path / "images")
    one = subject(tmp_path / "a", images, scored=scored, resize="letterbox", channels="bgr")
    network = load(engine, one.float_file, one.spec, threads=1)
    detector = Detector(one.bundle, threads=1)
    for path in sorted(images.iterdir()):
        pixels = read_image(path)
        found = decode(network.run(network_input(pixels, one.spec)), one.spec, pixels.shape[:2])
        expected = detector(pixels)
        assert len(expected) >= 3
        np.testing.assert_array_equal(found.labels, expected.labels)
        np.testing.assert_allclose(found.scores, expected.scores, atol=1e-6)
        np.testing.assert_allclose(found.boxes, expected.boxes, atol=1e-4)


def test_a_peer_sees_what_the_network_sees_and_works_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = photos(tmp_path / "images")
    one = subject(tmp_path / "a", images)
    peers = tmp_path / "peers"
    peers.mkdir()
    (peers / "job.py").write_text((making.PEERS / "job.py").read_text())
    (peers / TOOLS["nncf"]).write_text(SCRIPT)
    monkeypatch.setattr(making, "PEERS", peers)
    said: list[str] = []

    def run(contender: Contender, python: dict[str, Path]) -> None:
        make(one, [contender], images=None, pythons=python, say=said.append)

    with pytest.raises(InvalidInputError, match="--python nncf"):
        run(PEER, {})
    here = {"nncf": Path(sys.executable)}
    run(PEER, here)
    expected = [network_input(read_image(images / image.file), one.spec) for image in one.sample.images]
    np.testing.assert_array_equal(np.load(one.of(PEER) / "seen.npy"), np.stack(expected))

    run(PEER, {})  # needs no interpreter, for nothing is made
    assert said[-1].endswith("made before")
    (one.of(PEER) / "model.onnx").write_bytes(b"another")
    run(PEER, here)
    assert not said[-1].endswith("made before")
    assert file_digest(one.of(PEER) / "model.onnx") == file_digest(one.float_file)

    run(Contender(key="peer", title="a peer", tool="nncf", settings={"strength": 0}), here)
    assert said[-1] == "tiny peer: failed: no strength left"
    assert one.model(PEER) is None


def test_one_calibration_set_for_all(tmp_path: Path) -> None:
    images = photos(tmp_path / "images")
    first, same, other = (subject(tmp_path / name, images, seed=seed) for name, seed in (("a", 0), ("b", 0), ("c", 2)))
    assert same_sample([first, same]) == calibration_digest(first.sample)
    with pytest.raises(InvalidInputError, match="one calibration set"):
        same_sample([first, other])


def row(key: str, tool: str | None, **engines: tuple[float, float | None]) -> dict[str, Any]:
    figures = {
        engine: {"AP": ap, "time": None if time is None else {"p50": time}} for engine, (ap, time) in engines.items()
    }
    return {"key": key, "title": key, "tool": tool, "engines": figures}


def test_exceptions_are_found_in_every_engine() -> None:
    ours = row(OURS, None, openvino=(0.33, 5.0), onnxruntime=(0.34, 1.0))
    rows = [
        row(FLOAT, None, openvino=(0.34, 4.0)),
        ours,
        row("worse and slower", "nncf", openvino=(0.32, 6.0)),
        row("as slow", "nncf", openvino=(0.32, 5.0)),
        row("fast", "onnxruntime", onnxruntime=(0.1, 4.0), openvino=(0.1, 6.0)),
        row("equal", "nncf", openvino=(0.33, 6.0)),
        row("best", "modelopt", onnxruntime=(0.335, 4.9)),
        row("not timed", "modelopt", onnxruntime=(0.335, None)),
    ]
    assert exceptions(rows) == {
        "accuracy": ["equal in openvino", "best in onnxruntime", "not timed in onnxruntime"],
        "time": ["fast in onnxruntime", "best in onnxruntime"],
        "both": ["best in onnxruntime"],
    }


def test_figures_of_another_file_are_not_shown(tmp_path: Path) -> None:
    one = subject(tmp_path / "a", photos(tmp_path / "images"))
    plain = next(contender for contender in CONTENDERS if contender.key == FLOAT)
    make(one, [plain], images=None, pythons={}, say=lambda text: None)
    model = one.model(plain)
    assert model is not None
    digest = file_digest(model)
    figures = {"AP": 0.4321, "AP50": 0.5, "int8": 0, "weighted": 7, "request": {"sha256": digest}}
    write_json(one.of(plain) / "ap.openvino.json", figures)
    timed = {"p50": 1.5, "ratio_of_medians": 1.0, "lowest_round": 0.9, "highest_round": 1.1}
    times = {
        "device": "a machine",
        "threads": 1,
        "rounds": 2,
        "calls": 3,
        "entries": {f"{FLOAT} openvino": {**timed, "sha256": digest}},
    }
    write_json(one.folder / "times.json", times)
    assert "0.4321" in markdown(gather([one], [plain]))
    assert "1.00 (0.90 to 1.10)" in markdown(gather([one], [plain]))

    write_json(one.folder / "times.json", {**times, "entries": {f"{FLOAT} openvino": {**timed, "sha256": "other"}}})
    table = markdown(gather([one], [plain]))
    assert "0.4321" in table
    assert "1.00" not in table
    model.write_bytes(b"another")
    assert "0.4321" not in markdown(gather([one], [plain]))


def test_every_contender_has_its_own_name_and_tool() -> None:
    assert len({contender.key for contender in CONTENDERS}) == len(CONTENDERS)
    assert {contender.tool for contender in CONTENDERS} == {None, *TOOLS}
    assert all((making.PEERS / script).is_file() for script in TOOLS.values())

"""What a bundle says of its own verification: passed, refused, stale or nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_onnx

from edgedet import Detector
from edgedet.bundle import (
    InputSpec,
    LogitsBoxes,
    add_file,
    add_json,
    add_model,
    load_model_json,
    name_model,
    write_bundle,
)
from edgedet.cli import main
from edgedet.verdict import FORMAT, VERSION, Verdict, read_verdict, spec_digests

INPUT = InputSpec(width=tiny_onnx.SIZE, height=tiny_onnx.SIZE)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    model = tiny_onnx.logits_model(tmp_path / "source.onnx")
    made = write_bundle(
        tmp_path / "bundle", model, name="tiny", input=INPUT, output=LogitsBoxes(top_k=3), classes=tiny_onnx.CLASSES
    )
    add_model(made, "int8", "openvino", model)
    return made


def report(bundle: Path, candidate: str = "int8", **changes: Any) -> dict[str, Any]:
    """A report that fits the bundle as it is now."""
    spec = load_model_json(bundle)
    files = {precision: next(iter(spec["models"][precision].values())) for precision in ("fp32", candidate)}
    return {
        "format": FORMAT,
        "version": VERSION,
        "backend": "openvino",
        "candidate": candidate,
        "device": "a processor, OpenVINO 1",
        "models": {key: {"file": file, "sha256": spec["files"][file]["sha256"]} for key, file in files.items()},
        "spec_sha256": spec_digests(spec),
        "evaluation": {"images": 328},
        "ap": {"fp32": {"AP": 0.341}, candidate: {"AP": 0.338}},
        "latency_ratio": 0.71,
        "verdict": {"passed": True, "reasons": []},
        **changes,
    }


def verdict(bundle: Path, device: str = "") -> Verdict:
    return read_verdict(bundle, load_model_json(bundle), "openvino", device=device)


def test_no_report_verifies_nothing(bundle: Path) -> None:
    assert verdict(bundle) == Verdict("unverified", "not verified; run `python -m calibration verify`")


def test_a_pass_says_what_was_found_and_where(bundle: Path) -> None:
    add_json(bundle, "report.json", report(bundle))
    found = verdict(bundle, "a processor, OpenVINO 1")
    assert found.passed
    assert str(found) == "passed: int8, AP 0.341 -> 0.338 on 328 images, time x0.71 on a processor, OpenVINO 1"
    elsewhere = verdict(bundle, "another, OpenVINO 2")
    assert elsewhere.passed
    assert "which is not this device (another, OpenVINO 2)" in elsewhere.text


def test_a_report_about_one_precision_says_nothing_of_another(bundle: Path) -> None:
    add_json(bundle, "report.json", report(bundle))
    spec = load_model_json(bundle)
    states = {name: read_verdict(bundle, spec, "openvino", precision=name).state for name in ("int8", "fp32", "bf16")}
    assert states == {"int8": "passed", "fp32": "passed", "bf16": "unverified"}


def test_a_refusal_gives_its_reasons(bundle: Path) -> None:
    add_json(bundle, "report.json", report(bundle, verdict={"passed": False, "reasons": ["AP falls", "it is slow"]}))
    assert verdict(bundle) == Verdict("refused", "refused: int8, because AP falls; it is slow")


def change_json(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads((bundle / "model.json").read_text())
    change(document)
    (bundle / "model.json").write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda v: v["input"].update(channels="bgr"), '"input"'),
        (lambda v: v["input"].update(mean=[0.485, 0.456, 0.406]), '"input"'),
        (lambda v: v["input"].update(resize="letterbox"), '"input"'),
        (lambda v: v["output"].update(top_k=2), '"output"'),
        (lambda v: v.update(classes=v["classes"][::-1]), '"classes"'),
        (lambda v: v.update(category_ids=[3, 2, 1]), '"category_ids"'),
    ],
)
def test_another_model_json_makes_it_stale(change: Callable[[dict[str, Any]], object], word: str, bundle: Path) -> None:
    add_json(bundle, "report.json", report(bundle))
    change_json(bundle, change)
    found = verdict(bundle)
    assert found.state == "stale"
    assert found.text.startswith(f"stale: {word} in model.json")


def test_what_does_not_matter_does_not_make_it_stale(bundle: Path) -> None:
    add_json(bundle, "report.json", report(bundle))
    change_json(bundle, lambda v: v.update(name="renamed", comment="mine", best={"openvino": "int8"}))
    assert verdict(bundle).passed


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_another_model_makes_it_stale(precision: Any, bundle: Path, tmp_path: Path) -> None:
    add_json(bundle, "report.json", report(bundle))
    other = tiny_onnx.logits_model(tmp_path / "other.onnx")
    other.write_bytes(other.read_bytes() + b"\x72\x00")  # an empty training_info: other bytes, the same model
    add_model(bundle, precision, "*" if precision == "fp32" else "openvino", other)
    assert verdict(bundle).text.startswith(f"stale: the {precision} model is not the one that was verified")


@pytest.mark.parametrize(
    "content",
    ["", "[]", "null", "{}", '{"format": 1}', "[" * 100_000, '{"format": "edgedet.report", "version": 3}'],
)
def test_a_report_that_cannot_be_read_verifies_nothing(content: str, bundle: Path) -> None:
    add_json(bundle, "report.json", {})
    add_file(bundle, "report.json", content.encode())
    assert verdict(bundle).state == "unverified"
    assert Detector(bundle, precision="int8", threads=1).info.verified.state == "unverified"


def test_a_half_type_is_judged_under_its_name(bundle: Path) -> None:
    name_model(bundle, "bf16", "openvino", "model.onnx")
    add_json(bundle, "report.json", report(bundle, "bf16"))
    assert verdict(bundle).text.startswith("passed: bf16, AP 0.341 -> 0.338 on 328 images")
    change_json(bundle, lambda v: v["models"].pop("bf16"))
    assert verdict(bundle).text.startswith("stale: the bf16 model is not the one that was verified")


@pytest.mark.parametrize("candidate", [None, True, 8, "", "fp32", "int4", "\x1b[2J", ["int8"], {"int8": "int8"}])
def test_a_candidate_that_is_none_verifies_nothing(candidate: object, bundle: Path) -> None:
    content = report(bundle)
    add_json(bundle, "report.json", {**content, "candidate": candidate})
    assert verdict(bundle).state == "unverified"
    del content["candidate"]
    add_json(bundle, "report.json", content)
    assert verdict(bundle).state == "unverified"


def test_figures_out_of_range_verify_nothing(bundle: Path) -> None:
    add_json(bundle, "report.json", report(bundle, latency_ratio=10**400))
    assert verdict(bundle).state == "unverified"


@pytest.mark.parametrize("key", ["models", "spec_sha256", "verdict", "ap", "evaluation", "backend"])
@pytest.mark.parametrize("value", [None, True, "text", [], {}])
def test_hostile_values_do_no_harm(key: str, value: object, bundle: Path) -> None:
    add_json(bundle, "report.json", report(bundle, **{key: value}))
    assert not verdict(bundle).passed


def test_of_another_version_or_backend(bundle: Path) -> None:
    add_json(bundle, "report.json", report(bundle, version=1))
    assert "of another version" in verdict(bundle).text
    add_json(bundle, "report.json", report(bundle, backend="tensorrt"))
    assert verdict(bundle).text.startswith("not verified on openvino")


def test_control_characters_do_not_reach_the_terminal(bundle: Path) -> None:
    add_json(bundle, "report.json", report(bundle, device="\x1b[2J\rnice\u202e"))
    assert verdict(bundle).text.endswith("on [2Jnice")


def test_the_detector_shows_it(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    detector = Detector(bundle, precision="int8", threads=1)
    assert detector.info.verified.state == "unverified"
    assert repr(detector).endswith("openvino int8, unverified)")
    add_json(bundle, "report.json", report(bundle, device=detector.info.device))
    detector = Detector(bundle, precision="int8", threads=1)
    assert detector.info.verified.passed
    assert "not this device" not in detector.info.verified.text
    assert repr(detector).endswith("openvino int8, passed)")
    assert main(["info", str(bundle)]) == 0
    assert "verified   passed: int8, AP 0.341 -> 0.338 on 328 images" in capsys.readouterr().out

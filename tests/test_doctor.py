"""`edgedet doctor`: the machine from made-up files, findings with remedies, and a bundle on every TensorRT."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cell_world import make_bundle, make_model

from edgedet import _core
from edgedet.bundle import add_model
from edgedet.cli import main
from edgedet.doctor.bundle import examine
from edgedet.doctor.installation import installation_findings, read_installation
from edgedet.doctor.machine import machine_findings, read_machine

MEMINFO = "MemTotal:        4056000 kB\nMemAvailable:     500000 kB\nSwapTotal:             0 kB\n"


def make_root(root: Path, **files: str) -> Path:
    places = {
        "meminfo": "proc/meminfo",
        "limit": "sys/fs/cgroup/memory.max",
        "nvpmodel": "var/lib/nvpmodel/status",
        "release": "etc/nv_tegra_release",
        "governor": "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor",
    }
    for name, content in files.items():
        place = root / places[name]
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(content)
    return root


def test_a_small_machine(tmp_path: Path) -> None:
    release = "# R36 (release), REVISION: 4.0\nmore\n"
    root = make_root(
        tmp_path, meminfo=MEMINFO, limit="max\n", nvpmodel="pmode:0002\n", release=release, governor="powersave\n"
    )
    machine = read_machine(root)
    assert machine.memory_bytes == 4056000 * 1024
    assert (machine.swap_bytes, machine.limit_bytes) == (0, None)
    findings = {finding.name: finding for finding in machine_findings(machine, None)}
    assert list(findings) == ["low-memory", "no-swap", "governor"]
    assert "sudo mkswap" in findings["no-swap"].remedy
    assert all(finding.remedy for finding in findings.values())


def test_a_machine_that_says_nothing(tmp_path: Path) -> None:
    machine = read_machine(tmp_path)
    assert set(machine.to_json().values()) == {None}
    assert machine_findings(machine, None) == []
    make_root(tmp_path, meminfo="MemTotal: lots\n\x00:::\nMemTotal\n", limit="123\n", nvpmodel="??")
    machine = read_machine(tmp_path)
    assert (machine.memory_bytes, machine.limit_bytes) == (None, 123)


def test_a_machine_that_is_well(tmp_path: Path) -> None:
    meminfo = "MemTotal: 64000000 kB\nMemAvailable: 60000000 kB\nSwapTotal: 0 kB\n"
    release = "# R36\n"
    root = make_root(tmp_path, meminfo=meminfo, governor="performance", release=release, nvpmodel="pmode:0000")
    assert machine_findings(read_machine(root), None) == []


def test_findings_of_an_installation() -> None:
    facts = read_installation()
    assert installation_findings(facts) == []
    cuda = {**facts["cuda"], "driver": 11040, "runtime": 13000}
    away = [{**entry, "available": False} for entry in facts["backends"]]
    packages = {**facts["packages"], "pillow": None}
    found = installation_findings({**facts, "cuda": cuda, "backends": away, "packages": packages})
    assert [finding.name for finding in found] == ["no-pillow", "old-driver", "no-backend"]
    assert found[1].text == "the driver is for CUDA 11.4, edgedet was built with CUDA 13.0"
    newer = {**facts, "cuda": {**cuda, "driver": 13010}}
    assert installation_findings(newer) == []


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "cells", make_model(tmp_path / "model.onnx", "sampled"))


def test_a_bundle_on_every_tensorrt(bundle: Path) -> None:
    about, findings = examine(bundle, _core.backends())
    assert findings == []
    assert about["networks"]["model.onnx"]["operators"]["GridSample"] == 1
    rows = {row["precision"]: row for row in about["tensorrt"]}
    assert list(rows) == ["fp32", "fp16"]
    doubted = [version for version, cell in rows["fp32"]["versions"].items() if cell["warned"]]
    assert doubted == ["10.13", "10.16", "11.1"]
    assert rows["fp16"]["versions"]["11.1"]["refused"] == ["fp16-by-choice-11"]
    assert set(about["notes"]) == {"grid-sample-miscompiled", "fp16-by-choice-11"}


def test_what_is_installed_decides_on_findings(bundle: Path) -> None:
    here = {"name": "tensorrt", "available": True, "detail": "TensorRT 11.1.0 on a GPU", "precisions": ["fp32"]}
    _, findings = examine(bundle, [here])
    assert [finding.name for finding in findings] == ["grid-sample-miscompiled"]
    assert findings[0].text.startswith("model.onnx in fp32 on tensorrt 11.1: GridSample")


def test_by_command(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "doctor.json"
    assert main(["doctor", str(bundle), "--json", str(target)]) == 0
    said = capsys.readouterr().out
    assert "cells on versions of TensorRT" in said
    assert "no: 2" in said
    assert "findings" in said
    report: dict[str, Any] = json.loads(target.read_text())
    assert set(report) == {"installation", "machine", "bundle", "findings"}
    assert report["installation"]["backends"] == _core.backends()


def test_a_damaged_network_is_an_error(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "no.onnx").write_bytes(b"\x3a\x02\xff\xff")  # a graph that is none
    add_model(bundle, "fp16", "tensorrt", tmp_path / "no.onnx")
    assert main(["doctor", str(bundle)]) == 2
    assert "model.tensorrt.fp16.onnx: expected an ONNX file" in capsys.readouterr().err


def test_signed_activations_are_a_finding_on_openvino(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was made for TensorRT, run on OpenVINO all the same."""
    model = onnx.load(str(bundle / "model.onnx"))
    scale = onnx.numpy_helper.from_array(np.float32(0.1), "s")
    zero = onnx.numpy_helper.from_array(np.int8(0), "z")
    model.graph.initializer.extend([scale, zero])
    model.graph.node.append(onnx.helper.make_node("QuantizeLinear", ["images", "s", "z"], ["unused"]))
    onnx.save(model, str(tmp_path / "int8.onnx"))
    add_model(bundle, "int8", "openvino", tmp_path / "int8.onnx")
    assert main(["doctor", str(bundle)]) == 0
    assert "on x86 convolutions of signed activations stay in float" in capsys.readouterr().out

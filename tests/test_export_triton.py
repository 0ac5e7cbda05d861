"""Triton model repositories: configurations that protobuf parses, and the Python model in a stand-in of its backend.

Not run: Triton itself.
"""

from __future__ import annotations

import importlib.util
import io
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime
import pytest
import tiny_onnx
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from PIL import Image

import edgedet
from edgedet.bundle import InputSpec, LabelsBoxesScores, LogitsBoxes, load_model_json, write_bundle
from edgedet.cli import main
from edgedet.exporting.triton import TritonOptions, export_triton

# The part of Triton's schema that we write (numbers do not show in text), for where its client is not installed.
SCHEMA = {
    "Tensor": {"name": "string", "data_type": "DataType", "dims": "int64*"},
    "Group": {"count": "int32", "kind": "Kind"},
    "Batching": {},
    "Text": {"string_value": "string"},
    "Parameter": {"key": "string", "value": "Text"},
    "ModelConfig": {
        "name": "string",
        "backend": "string",
        "default_model_filename": "string",
        "max_batch_size": "int32",
        "input": "Tensor*",
        "output": "Tensor*",
        "instance_group": "Group*",
        "dynamic_batching": "Batching",
        "parameters": "Parameter*",
    },
}
ENUMS = {
    "DataType": ("TYPE_INVALID", "TYPE_INT32", "TYPE_INT64", "TYPE_FP16", "TYPE_FP32", "TYPE_STRING"),
    "Kind": ("KIND_AUTO", "KIND_GPU", "KIND_CPU"),
}


def model_config() -> Any:
    """An empty ModelConfig: Triton's own, else of the schema above."""
    try:
        from tritonclient.grpc import model_config_pb2
    except ImportError:
        pass
    else:
        return model_config_pb2.ModelConfig()
    file = descriptor_pb2.FileDescriptorProto(name="triton.proto", package="t", syntax="proto3")
    for name, values in ENUMS.items():
        enum = file.enum_type.add(name=name)
        for number, value in enumerate(values):
            enum.value.add(name=value, number=number)
    kinds = descriptor_pb2.FieldDescriptorProto
    plain = {"string": kinds.TYPE_STRING, "int32": kinds.TYPE_INT32, "int64": kinds.TYPE_INT64}
    for name, fields in SCHEMA.items():
        message = file.message_type.add(name=name)
        for number, (field, kind) in enumerate(fields.items(), 1):
            base = kind.rstrip("*")
            added = message.field.add(name=field, number=number)
            added.label = kinds.LABEL_REPEATED if kind.endswith("*") else kinds.LABEL_OPTIONAL
            added.type = plain.get(base, kinds.TYPE_ENUM if base in ENUMS else kinds.TYPE_MESSAGE)
            if base not in plain:
                added.type_name = f".t.{base}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("t.ModelConfig"))()


def read_config(folder: Path) -> dict[str, Any]:
    """config.pbtxt, parsed by protobuf, with enumerators by name."""
    config = text_format.Parse((folder / "config.pbtxt").read_text(encoding="utf-8"), model_config())

    def enumerator(message: Any, field: str) -> str:
        number = getattr(message, field)
        return str(message.DESCRIPTOR.fields_by_name[field].enum_type.values_by_number[number].name)

    def ports(tensors: Any) -> dict[str, tuple[str, list[int]]]:
        return {one.name: (enumerator(one, "data_type"), list(one.dims)) for one in tensors}

    parameters = config.parameters
    return {
        "name": config.name,
        "backend": config.backend,
        "file": config.default_model_filename,
        "max_batch": config.max_batch_size,
        "input": ports(config.input),
        "output": ports(config.output),
        "kinds": [enumerator(group, "kind") for group in config.instance_group],
        "batching": config.HasField("dynamic_batching"),
        "parameters": {key: parameters[key].string_value for key in parameters}
        if hasattr(parameters, "keys")
        else {one.key: one.value.string_value for one in parameters},
    }


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return tiny_onnx.logits_bundle(tmp_path)


def test_the_repository(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "triton", str(bundle), "--out", str(tmp_path / "models"), "--max-batch", "4"]) == 0
    detector, network = tmp_path / "models" / "tiny", tmp_path / "models" / "tiny_network"
    assert f"detector {detector}\nnetwork  {network}\n" in capsys.readouterr().out
    assert sorted(path.relative_to(tmp_path / "models").as_posix() for path in (tmp_path / "models").rglob("*.*")) == [
        "tiny/1/bundle/model.json",
        "tiny/1/bundle/model.onnx",
        "tiny/1/model.py",
        "tiny/config.pbtxt",
        "tiny/labels.txt",
        "tiny_network/1/model.onnx",
        "tiny_network/config.pbtxt",
        "tiny_network/labels.txt",
    ]
    config = read_config(detector)
    assert json.loads(config.pop("parameters")["classes"]) == ["red", "green", "blue"]
    assert config == {
        "name": "tiny",
        "backend": "python",
        "file": "",
        "max_batch": 4,
        "input": {"image": ("TYPE_STRING", [1])},
        "output": {
            "num_detections": ("TYPE_INT32", [1]),
            "boxes": ("TYPE_FP32", [9, 4]),
            "scores": ("TYPE_FP32", [9]),
            "labels": ("TYPE_INT32", [9]),
        },
        "kinds": ["KIND_CPU"],
        "batching": True,
    }
    config = read_config(network)
    assert json.loads(config.pop("parameters")["input"])["filter"] == "bilinear"
    assert config == {
        "name": "tiny_network",
        "backend": "onnxruntime",
        "file": "model.onnx",
        "max_batch": 4,
        "input": {"images": ("TYPE_FP32", [3, 32, 32])},
        "output": {"logits": ("TYPE_FP32", [3, 3]), "boxes": ("TYPE_FP32", [3, 4])},
        "kinds": ["KIND_CPU"],
        "batching": True,
    }
    assert (network / "labels.txt").read_text() == "red\ngreen\nblue\n"


def test_ports_are_those_that_onnxruntime_sees(tmp_path: Path) -> None:
    """With a size input, so with two data types."""
    folder = write_bundle(
        tmp_path / "bundle",
        tiny_onnx.scored_model(tmp_path / "scored.onnx"),
        name="scored",
        input=InputSpec(width=32, height=32),
        output=LabelsBoxesScores(top_k=3, size_input="orig_target_sizes"),
        classes=tiny_onnx.CLASSES,
    )
    _, network = export_triton(folder, tmp_path / "models")
    session = onnxruntime.InferenceSession(network / "1" / "model.onnx", providers=["CPUExecutionProvider"])
    kinds = {"tensor(float)": "TYPE_FP32", "tensor(int64)": "TYPE_INT64"}
    config = read_config(network)
    for said, ports in ((config["input"], session.get_inputs()), (config["output"], session.get_outputs())):
        assert said == {port.name: (kinds[port.type], port.shape[1:]) for port in ports}
    assert config["max_batch"] == 8


def test_a_fixed_batch_is_no_batch_of_tritons(tmp_path: Path) -> None:
    shapes: dict[str, tuple[int, tuple[int, ...]]] = {"logits": (1, (1, 5, 3)), "boxes": (1, (1, 5, 4))}
    folder = write_bundle(
        tmp_path / "bundle",
        tiny_onnx.free_model(tmp_path / "fixed.onnx", {"images": (1, (1, 3, "H", "W"))}, shapes),
        name='a "fixed"\\ model/../x',
        input=InputSpec(width=64, height=48),
        output=LogitsBoxes(top_k=3),
        classes=['"quoted"', "back\\slash", "zwei\nZeilen, größer"],
    )
    detector, network = export_triton(folder, tmp_path / "models")
    assert sorted(path.name for path in (tmp_path / "models").iterdir()) == [
        "a__fixed___model_.._x",
        "a__fixed___model_.._x_network",
    ]
    config = read_config(network)
    assert (config["max_batch"], config["batching"]) == (0, False)
    assert config["input"] == {"images": ("TYPE_FP32", [1, 3, 48, 64])}
    assert json.loads(read_config(detector)["parameters"]["classes"])[2] == "zwei\nZeilen, größer"
    assert (detector / "labels.txt").read_text(encoding="utf-8").splitlines()[2] == "zwei Zeilen, größer"


def test_an_engine_takes_the_networks_place(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "my.plan").write_bytes(b"engine")
    options = TritonOptions(network="tensorrt", plan=tmp_path / "my.plan", gpu=True)
    detector, network = export_triton(bundle, tmp_path / "models", options=options)
    assert (network / "1" / "model.plan").read_bytes() == b"engine"
    config = read_config(network)
    assert (config["backend"], config["file"], config["kinds"]) == ("tensorrt", "model.plan", ["KIND_GPU"])
    config = read_config(detector)
    assert (config["kinds"], config["parameters"]["backend"]) == (["KIND_GPU"], "tensorrt")
    _, network = export_triton(bundle, tmp_path / "cpu", options=TritonOptions(network="openvino"))
    assert read_config(network)["backend"] == "openvino"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"network": "tensorrt", "gpu": True}, "--plan"),
        ({"plan": Path("x.plan")}, "--plan"),
        ({"network": "tensorrt", "plan": Path("x.plan")}, "--gpu"),
        ({"network": "openvino", "gpu": True}, "CPU instances"),
        ({"network": "keras"}, "network: expected one of"),
        ({"max_batch": 0}, "max_batch"),
        ({"score_threshold": 1.5}, "score_threshold"),
    ],
)
def test_options_that_contradict_each_other(options: dict[str, Any], message: str) -> None:
    with pytest.raises(edgedet.InvalidInputError, match=message):
        TritonOptions(**options)


def test_nothing_of_others_is_replaced(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "models" / "tiny").mkdir(parents=True)
    (tmp_path / "models" / "tiny" / "mine.txt").write_text("precious")
    with pytest.raises(edgedet.InvalidInputError, match=r"tiny: exists; allow overwriting"):
        export_triton(bundle, tmp_path / "models")
    with pytest.raises(edgedet.InvalidInputError, match=r"tiny: exists; and has no config\.pbtxt"):
        export_triton(bundle, tmp_path / "models", overwrite=True)
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["tiny"]
    shutil.rmtree(tmp_path / "models" / "tiny")
    export_triton(bundle, tmp_path / "models")
    export_triton(bundle, tmp_path / "models", overwrite=True)
    missing = TritonOptions(network="tensorrt", plan=tmp_path / "no.plan", gpu=True)
    with pytest.raises(edgedet.InvalidInputError, match=r"no\.plan: expected an engine"):
        export_triton(bundle, tmp_path / "other", options=missing)


class Tensor:
    def __init__(self, name: str, values: Any) -> None:
        self.name, self.values = name, values

    def as_numpy(self) -> Any:
        return self.values


class InferenceResponse:
    def __init__(self, output_tensors: list[Tensor], error: Any = None) -> None:
        self.tensors = {one.name: one.values for one in output_tensors}
        self.error = error


@pytest.fixture
def model(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, Path]]:
    """model.py of an exported repository, started as Triton starts it, and its folder."""
    utils = ModuleType("triton_python_backend_utils")
    vars(utils).update(
        Tensor=Tensor,
        InferenceResponse=InferenceResponse,
        TritonError=str,
        get_input_tensor_by_name=lambda request, name: request[name],
    )
    monkeypatch.setitem(sys.modules, utils.__name__, utils)
    folder, _ = export_triton(bundle, tmp_path / "models", options=TritonOptions(score_threshold=0.2))
    found = importlib.util.spec_from_file_location("model", folder / "1" / "model.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    made = module.TritonPythonModel()
    parameters = {key: {"string_value": value} for key, value in read_config(folder)["parameters"].items()}
    made.initialize(
        {
            "model_config": json.dumps({"parameters": parameters}),
            "model_repository": str(folder),
            "model_version": "1",
            "model_name": folder.name,
            "model_instance_kind": "CPU",
            "model_instance_device_id": "0",
        }
    )
    yield made, folder
    made.finalize()


def image_file(colour: tuple[int, int, int], size: tuple[int, int], kind: str) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, kind)
    return out.getvalue()


def request(*files: bytes) -> dict[str, Tensor]:
    return {"image": Tensor("image", np.array([[file] for file in files], object).reshape(-1, 1))}


def test_the_python_model_is_the_detector(model: tuple[Any, Path], bundle: Path) -> None:
    made, _ = model
    files = [
        image_file((255, 40, 0), (60, 20), "PNG"),
        image_file((0, 0, 0), (10, 10), "PNG"),
        image_file((10, 200, 90), (33, 47), "JPEG"),
    ]
    broken = request(files[0], b"no image")
    answers = made.execute([request(files[0], files[1]), broken, request(files[2]), request()])
    assert len(answers) == 4
    assert "no image" not in str(answers[1].error)
    assert "expected" in str(answers[1].error)
    good = [answers[0], answers[2]]
    assert [answer.error for answer in good] == [None, None]
    tensors = {name: np.concatenate([one.tensors[name] for one in good]) for name in good[0].tensors}
    shapes = {name: (array.dtype.name, array.shape) for name, array in tensors.items()}
    assert shapes == {
        "num_detections": ("int32", (3, 1)),
        "boxes": ("float32", (3, 9, 4)),
        "scores": ("float32", (3, 9)),
        "labels": ("int32", (3, 9)),
    }
    with edgedet.Detector(bundle, score_threshold=0.2) as detector:
        wanted = [detector(edgedet.read_image(file)) for file in files]
    assert [len(one) for one in wanted] == tensors["num_detections"][:, 0].tolist()
    assert min(len(wanted[0]), len(wanted[2])) > 0
    assert len(wanted[1]) < 9
    for place, one in enumerate(wanted):
        rows = len(one)
        for name in ("boxes", "scores", "labels"):
            np.testing.assert_array_equal(tensors[name][place, :rows], getattr(one, name))
        assert (tensors["labels"][place, rows:] == -1).all()
        assert not tensors["scores"][place, rows:].any()
    assert answers[3].tensors["boxes"].shape == (0, 9, 4)


def test_a_network_that_fails_answers_every_request(model: tuple[Any, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    made, folder = model
    made.detector.close()
    answers = made.execute([request(image_file((1, 2, 3), (5, 5), "PNG")), request(b"")])
    assert all(answer.error for answer in answers)
    assert load_model_json(folder / "1" / "bundle")["name"] == "tiny"

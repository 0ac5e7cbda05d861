"""Exported graphs beside those that Hugging Face transformers gives, of the same networks with random weights.

    python -m benchmarks.export_speed [--model rtdetrv2-r18 dfine-s] [--runs 20] [--threads 2]

Both graphs come from `torch.onnx.export` at opset 17, for one image of 640 x 640, and run in onnxruntime and OpenVINO
in float32. They take turns, so that a busy machine slows both alike; the ratio is of medians.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import openvino
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.export import export_onnx
from training.models.detector import build
from training.models.zoo import detector_config

transformers: Any = importlib.import_module("transformers")  # its configurations take more than their types say

SIDE = 640
Run = Callable[[NDArray[np.float32]], object]


def rtdetrv2_r18() -> nn.Module:
    backbone = transformers.RTDetrResNetConfig(
        depths=[2, 2, 2, 2], hidden_sizes=[64, 128, 256, 512], layer_type="basic", out_indices=[2, 3, 4]
    )
    model: nn.Module = transformers.RTDetrV2ForObjectDetection(
        transformers.RTDetrV2Config(
            backbone_config=backbone,
            encoder_in_channels=[128, 256, 512],
            hidden_expansion=0.5,
            decoder_layers=3,
            num_labels=80,
        )
    )
    return model


def dfine_s() -> nn.Module:
    backbone = transformers.HGNetV2Config(
        stem_channels=[3, 16, 16],
        stage_in_channels=[16, 64, 256, 512],
        stage_mid_channels=[16, 32, 64, 128],
        stage_out_channels=[64, 256, 512, 1024],
        stage_num_blocks=[1, 1, 2, 1],
        stage_downsample=[False, True, True, True],
        stage_light_block=[False, False, True, True],
        stage_kernel_size=[3, 3, 5, 5],
        stage_numb_of_layers=[3, 3, 3, 3],
        use_learnable_affine_block=True,
        out_indices=[2, 3, 4],
    )
    model: nn.Module = transformers.DFineForObjectDetection(
        transformers.DFineConfig(
            backbone_config=backbone,
            encoder_in_channels=[256, 512, 1024],
            hidden_expansion=0.5,
            depth_mult=0.34,
            decoder_layers=3,
            decoder_n_points=[3, 6, 3],
            num_labels=80,
        )
    )
    return model


THEIRS: dict[str, Callable[[], nn.Module]] = {"rtdetrv2-r18": rtdetrv2_r18, "dfine-s": dfine_s}


class _Outputs(nn.Module):
    """Images to logits and boxes."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        found = self.model(pixel_values=images)
        return found.logits, found.pred_boxes


def export_theirs(model: nn.Module, path: Path) -> Path:
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _Outputs(model).eval(),
            (torch.rand(1, 3, SIDE, SIDE),),
            path,
            dynamo=False,
            opset_version=17,
            input_names=["images"],
            output_names=["logits", "boxes"],
        )
    return path


def in_onnxruntime(file: Path, threads: int) -> Run:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"images": images})


def in_openvino(file: Path, threads: int) -> Run:
    settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    core = openvino.Core()
    network = core.read_model(str(file))
    network.reshape({"images": [1, 3, SIDE, SIDE]})
    request = core.compile_model(network, "CPU", settings).create_infer_request()
    return lambda images: request.infer({"images": images}, share_inputs=True, share_outputs=True)


def medians(contenders: dict[str, Run], images: NDArray[np.float32], runs: int) -> dict[str, float]:
    """Milliseconds; one call each to warm up, then turns."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(runs + 1):
        for name, run in contenders.items():
            start = time.perf_counter()
            run(images)
            if turn > 0:
                times[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", default=list(THEIRS), choices=list(THEIRS))
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    images = np.random.default_rng(0).random((1, 3, SIDE, SIDE), dtype=np.float32)
    print("| network | runtime | transformers, ms | gather, ms | ratio | grid_sample, ms | ratio |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.model:
            torch.manual_seed(0)
            model = build(detector_config(name))
            files = {"transformers": export_theirs(THEIRS[name](), Path(folder) / f"{name}.onnx")}
            for form in ("gather", "grid_sample"):
                files[form] = export_onnx(model, Path(folder) / f"{name}.{form}.onnx", sampling=form)
            nodes = {form: len(onnx.load(file).graph.node) for form, file in files.items()}
            for runtime, start in (("onnxruntime", in_onnxruntime), ("openvino", in_openvino)):
                contenders = {form: start(file, arguments.threads) for form, file in files.items()}
                ms = medians(contenders, images, arguments.runs)
                cells = [f"{ms['transformers']:.1f}"]
                for form in ("gather", "grid_sample"):
                    cells += [f"{ms[form]:.1f}", f"{ms[form] / ms['transformers']:.2f}"]
                print(f"| {name} | {runtime} | {' | '.join(cells)} |", flush=True)
            print(f"nodes of {name}: {nodes}")


if __name__ == "__main__":
    main()

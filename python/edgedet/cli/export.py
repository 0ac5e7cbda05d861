"""``edgedet export``: a bundle in the form of another server or pipeline."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from edgedet.cli.common import add_bundle, fraction, positive_number
from edgedet.terminal.json_output import add_json

if TYPE_CHECKING:
    from edgedet.terminal.parser import Commands


def add_parser(commands: Commands) -> None:
    """Adds the command with one sub-command for each form."""
    parser = commands.add_parser(
        "export",
        help="write a bundle for Triton or DeepStream",
        description="Write a bundle in the form of another server or pipeline.",
        examples=("edgedet export triton femto --out models", "edgedet export deepstream femto --out femto_deepstream"),
    )
    forms = parser.add_subparsers(
        title="forms", metavar="FORM", required=True, help="edgedet export FORM --help says more"
    )
    _add_triton(forms)
    _add_deepstream(forms)


def _add_triton(forms: Commands) -> None:
    parser = forms.add_parser(
        "triton",
        help="a model repository of NVIDIA Triton",
        description="Write a bundle into a model repository of NVIDIA Triton, as two models: the whole detector, image "
        "files in and detections out, by Triton's Python backend (its environment needs edgedet); and the bare "
        "network, with _network behind the name.",
        examples=(
            "edgedet export triton femto --out models",
            "edgedet export triton femto --out models --gpu",
        ),
    )
    add_bundle(parser)
    parser.add_argument(
        "--out", required=True, metavar="REPOSITORY", type=Path, help="folder of models; may hold others"
    )
    parser.add_argument(
        "--network",
        default="onnxruntime",
        choices=["onnxruntime", "openvino", "tensorrt"],
        help="Triton's backend of the bare network (default: onnxruntime)",
    )
    parser.add_argument("--plan", metavar="FILE", type=Path, help="engine for --network tensorrt, built on this GPU")
    parser.add_argument("--gpu", action="store_true", help="instances on GPUs (default: on the CPU)")
    parser.add_argument(
        "--max-batch", type=positive_number, default=8, metavar="N", help="images in a batch at the most (default: 8)"
    )
    parser.add_argument(
        "--score", type=fraction, default=0.0, metavar="S", help="lowest score of an object (default: 0)"
    )
    parser.add_argument("--force", action="store_true", help="replace models of these names")
    add_json(parser, "what was written")
    parser.set_defaults(run=_triton)


def _add_deepstream(forms: Commands) -> None:
    parser = forms.add_parser(
        "deepstream",
        help="a configuration of DeepStream's nvinfer",
        description="Write a bundle as the configuration of DeepStream's Gst-nvinfer, with the ONNX file and the "
        "labels beside it. The parser that it names is built from examples/deepstream.",
        examples=("edgedet export deepstream femto --out femto_deepstream",),
    )
    add_bundle(parser)
    parser.add_argument("--out", required=True, metavar="FOLDER", type=Path, help="folder to make")
    parser.add_argument(
        "--batch", type=positive_number, default=1, metavar="N", help="frames in a batch, one a stream (default: 1)"
    )
    parser.add_argument(
        "--score", type=fraction, default=0.3, metavar="S", help="lowest score of an object (default: 0.3)"
    )
    parser.add_argument("--force", action="store_true", help="replace an earlier export")
    add_json(parser, "what was written, and what nvinfer does in another way")
    parser.set_defaults(run=_deepstream)


def _triton(arguments: argparse.Namespace) -> int:
    from edgedet.exporting.triton import TritonOptions, export_triton

    options = TritonOptions(
        network=arguments.network,
        plan=arguments.plan,
        gpu=arguments.gpu,
        max_batch=arguments.max_batch,
        score_threshold=arguments.score,
    )
    detector, network = export_triton(arguments.bundle, arguments.out, options=options, overwrite=arguments.force)
    print(f"detector {detector}\nnetwork  {network}\nnext: tritonserver --model-repository={arguments.out}")
    if arguments.json is not None:
        arguments.json.write({"repository": str(arguments.out), "detector": str(detector), "network": str(network)})
    return 0


def _deepstream(arguments: argparse.Namespace) -> int:
    from edgedet.exporting.deepstream import CONFIG, export_deepstream

    notes = export_deepstream(
        arguments.bundle,
        arguments.out,
        batch=arguments.batch,
        score_threshold=arguments.score,
        overwrite=arguments.force,
    )
    print(arguments.out / CONFIG)
    for note in notes:
        print(f"note: {note}")
    if arguments.json is not None:
        arguments.json.write({"config": str(arguments.out / CONFIG), "notes": list(notes)})
    return 0

"""``edgedet export``: a bundle in the form of another server or pipeline."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from edgedet.cli.common import add_bundle, positive_number

if TYPE_CHECKING:
    from edgedet.cli.common import Commands

_TRITON = """Write a bundle into a model repository of NVIDIA Triton, as two models: the whole detector, image files
in and detections out, by Triton's Python backend (its environment needs edgedet); and the bare
network, with _network behind the name."""
_DEEPSTREAM = """Write a bundle as the configuration of DeepStream's Gst-nvinfer, with the ONNX file and the labels
beside it. The parser that it names is built from examples/deepstream."""


def add_parser(commands: Commands) -> None:
    """Adds the command with one sub-command for each form."""
    parser = commands.add_parser(
        "export",
        help="write a bundle for Triton or DeepStream",
        description="Write a bundle in the form of another server or pipeline.",
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
        description=_TRITON,
        epilog="example:\n  edgedet export triton femto --out models\n  tritonserver --model-repository=models",
        formatter_class=argparse.RawDescriptionHelpFormatter,
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
        "--threshold", type=float, default=0.0, metavar="S", help="lowest score of an object (default: 0)"
    )
    parser.add_argument("--force", action="store_true", help="replace models of these names")
    parser.set_defaults(run=_triton)


def _add_deepstream(forms: Commands) -> None:
    parser = forms.add_parser(
        "deepstream",
        help="a configuration of DeepStream's nvinfer",
        description=_DEEPSTREAM,
        epilog="example:\n  edgedet export deepstream femto --out femto_deepstream",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_bundle(parser)
    parser.add_argument("--out", required=True, metavar="FOLDER", type=Path, help="folder to make")
    parser.add_argument(
        "--batch", type=positive_number, default=1, metavar="N", help="frames in a batch, one a stream (default: 1)"
    )
    parser.add_argument(
        "--threshold", type=float, default=0.3, metavar="S", help="lowest score of an object (default: 0.3)"
    )
    parser.add_argument("--force", action="store_true", help="replace an earlier export")
    parser.set_defaults(run=_deepstream)


def _triton(arguments: argparse.Namespace) -> int:
    from edgedet.exporting.triton import TritonOptions, export_triton

    options = TritonOptions(
        network=arguments.network,
        plan=arguments.plan,
        gpu=arguments.gpu,
        max_batch=arguments.max_batch,
        score_threshold=arguments.threshold,
    )
    detector, network = export_triton(arguments.bundle, arguments.out, options=options, overwrite=arguments.force)
    print(f"detector {detector}\nnetwork  {network}\nnext: tritonserver --model-repository={arguments.out}")
    return 0


def _deepstream(arguments: argparse.Namespace) -> int:
    from edgedet.exporting.deepstream import CONFIG, export_deepstream

    notes = export_deepstream(
        arguments.bundle,
        arguments.out,
        batch=arguments.batch,
        score_threshold=arguments.threshold,
        overwrite=arguments.force,
    )
    print(arguments.out / CONFIG)
    for note in notes:
        print(f"note: {note}")
    return 0

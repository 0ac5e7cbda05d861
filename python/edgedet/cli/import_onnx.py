"""``edgedet import``: an ONNX detector becomes a bundle."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from edgedet.bundle import load_model_json
from edgedet.cli.common import pixel_size
from edgedet.labels import read_labels
from edgedet.onnx_import import import_model
from edgedet.terminal.json_output import add_json

if TYPE_CHECKING:
    from edgedet.terminal.parser import Commands


def add_parser(commands: Commands) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "import",
        help="wrap an ONNX model into a bundle",
        description="Wrap a DETR-style ONNX model into a bundle. Input size and output form are read from the graph: "
        "raw logits and boxes, or labels, boxes and scores (the RT-DETR, D-FINE, DEIM lineage). How images were "
        "prepared in training is not in the graph: a file that came out of a bundle says it, of others say it below; "
        "the defaults are those of DEIMv2. The bundle is run once before it appears.",
        examples=(
            "edgedet import deimv2_femto.onnx --labels coco80 --out femto",
            "edgedet import rtdetr.onnx --labels names.txt --filter antialias --size 640x640 --out rtdetr",
            "edgedet import femto/model.onnx --out again",
        ),
    )
    parser.add_argument("model", metavar="MODEL.onnx", type=Path, help="the model, weights inside the file")
    parser.add_argument(
        "--labels",
        metavar="coco80|FILE",
        help="class names: coco80, a text file with one name per line, or a COCO .json with categories; "
        "needed unless the file says them",
    )
    parser.add_argument("--out", required=True, metavar="BUNDLE", type=Path, help="folder to make")
    parser.add_argument("--force", action="store_true", help="replace a bundle that exists")

    add_json(parser, "model.json")

    group = parser.add_argument_group("how images were prepared in training")
    group.add_argument(
        "--resize",
        choices=["stretch", "letterbox"],
        help="stretch both sides to the input size (default), or keep the aspect ratio and pad",
    )
    group.add_argument(
        "--filter",
        choices=["bilinear", "antialias"],
        help="bilinear: as OpenCV shrinks (default); antialias: as Pillow and torchvision shrink",
    )
    group.add_argument(
        "--channels",
        "--colour",
        "--color",
        dest="channels",
        choices=["rgb", "bgr"],
        help="colour order of the network (default: rgb)",
    )
    for option, neutral, imagenet in (("--mean", 0.0, "0.485 0.456 0.406"), ("--std", 1.0, "0.229 0.224 0.225")):
        group.add_argument(
            option,
            nargs=3,
            type=float,
            metavar=("C0", "C1", "C2"),
            help=f"per channel, of pixels in 0..1 (default: {neutral:g} {neutral:g} {neutral:g}; ImageNet: {imagenet})",
        )
    group.add_argument("--pad-value", type=_grey, metavar="0..255", help="grey of letterbox borders (default: 114)")
    group.add_argument(
        "--size", type=pixel_size, metavar="WxH", help="input size, needed only where the graph leaves it open"
    )

    group = parser.add_argument_group("what the bundle says about itself")
    group.add_argument("--name", help="name of the model (default: what the file says, or its name)")
    group.add_argument("--licence", metavar="TEXT", help="licence of the weights")
    group.add_argument("--data-licence", metavar="TEXT", help="licence of the training data")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Imports, then says what was found and what to do next."""
    licences = {"weights": arguments.licence, "data": arguments.data_licence}
    out = import_model(
        arguments.model,
        arguments.out,
        labels=None if arguments.labels is None else read_labels(arguments.labels),
        name=arguments.name,
        size=arguments.size,
        resize=arguments.resize,
        filter=arguments.filter,
        channels=arguments.channels,
        mean=None if arguments.mean is None else tuple(arguments.mean),
        std=None if arguments.std is None else tuple(arguments.std),
        pad_value=arguments.pad_value,
        licence={key: text for key, text in licences.items() if text is not None},
        overwrite=arguments.force,
    )
    spec = load_model_json(out)
    image, head = spec["input"], spec["output"]
    print(f"{out}: {spec['name']}")
    print(f"  input   {image['name']} {image['width']}x{image['height']}, {image['resize']}, {image['filter']}", end="")
    print(f", {image['channels']}")
    print(f"  head    {head['form'].replace('_', ', ')}; {head['top_k']} rows at the most")
    print(f"  classes {len(spec['classes'])}: {', '.join(spec['classes'][:6])}{', ...' * (len(spec['classes']) > 6)}")
    print(f"next: edgedet predict {out} IMAGE --out drawn")
    if arguments.json is not None:
        arguments.json.write({"bundle": str(out), **spec})
    return 0


def _grey(text: str) -> int:
    if not text.isdecimal() or int(text) > 255:
        raise argparse.ArgumentTypeError(f"expected 0..255, got {text!r}")
    return int(text)

"""`finetune`: train the weights under an INT8 model to give what the float model gives."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from calibration.collect import CollectOptions
from calibration.commands.quantize import add_quantize_options, made_json, quantize_options
from edgedet import command
from edgedet.cli.common import whole_number
from edgedet.extras import needs_extra
from edgedet.terminal.json_output import add_json
from edgedet.terminal.progress import progress

if TYPE_CHECKING:
    from edgedet.terminal.parser import Commands


def add_parser(commands: Commands) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser(
        "finetune",
        help="quantise and fine-tune on the calibration images, with the float model as teacher",
        description="Train the weights under an INT8 model to give what the float model gives, on the calibration "
        "images and without labels. Nothing is proven by it: verify is next.",
        examples=(
            "python -m calibration finetune bundle",
            "python -m calibration finetune bundle --like bundle.calibration/search/search.json --epochs 20",
        ),
    )
    add_quantize_options(parser)
    parser.add_argument("--epochs", type=int, default=10, metavar="N", help="passes over the images (default: 10)")
    parser.add_argument(
        "--lr", type=float, default=1e-4, metavar="R", help="largest step, as a share of the weights (default: 1e-4)"
    )
    parser.add_argument("--batch", type=int, default=4, metavar="N", help="images per step (default: 4)")
    parser.add_argument(
        "--seed", type=whole_number, default=0, metavar="N", help="of the order and the flips (default: 0)"
    )
    parser.add_argument("--no-flip", action="store_true", help="never mirror an image")
    add_json(parser, "what was made")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command and say what it did."""
    with needs_extra("train"):
        from calibration.qat.bundle import finetune_bundle
        from calibration.qat.finetune import FinetuneOptions

    settings = FinetuneOptions(
        epochs=options.epochs,
        rate=options.lr,
        batch=options.batch,
        flip=not options.no_flip,
        seed=options.seed,
        threads=options.threads,
    )
    collect = CollectOptions(memory_mb=options.memory_mb, threads=options.threads)
    with progress() as tell:
        made, tuned = finetune_bundle(
            options.bundle,
            backend=options.backend,
            quantize_options=quantize_options(options, collect),
            options=settings,
            images=options.images,
            progress=tell,
        )
    print(f"{made.file}: {len(made.placement.layers)} layers in int8, trained on {tuned.images[0]} images")
    print(f"loss on {tuned.images[1]} more images:")
    for epoch, terms in enumerate(tuned.losses):
        print(f"  {epoch:3d}  {terms['total']:.4f}{'  kept' if epoch == tuned.best else ''}")
    if tuned.best == 0:
        print("no epoch is better than the start, whose weights are kept; try a smaller --lr")
    print(f"nothing is proven yet; next: python -m calibration verify {options.bundle}")
    if options.json is not None:
        kept = tuned.best
        options.json.write(
            {**made_json(made), "losses": [terms["total"] for terms in tuned.losses], "kept_epoch": kept}
        )
    return command.DONE

"""`finetune`: train the weights under an INT8 model to give what the float model gives."""

from __future__ import annotations

import argparse

from calibration.collect import CollectOptions
from calibration.commands.progress import PASSED, progress_bar, stages
from calibration.commands.quantize import add_quantize_options, quantize_options
from edgedet.extras import needs_extra


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser(
        "finetune", help="quantise and fine-tune on the calibration images, with the float model as teacher"
    )
    add_quantize_options(parser)
    parser.add_argument("--epochs", type=int, default=10, metavar="N", help="passes over the images (default: 10)")
    parser.add_argument(
        "--lr", type=float, default=1e-4, metavar="R", help="largest step, as a share of the weights (default: 1e-4)"
    )
    parser.add_argument("--batch", type=int, default=4, metavar="N", help="images per step (default: 4)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the order and the flips (default: 0)")
    parser.add_argument("--no-flip", action="store_true", help="never mirror an image")
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
    with progress_bar() as bar:
        made, tuned = finetune_bundle(
            options.bundle,
            backend=options.backend,
            quantize_options=quantize_options(options, collect),
            options=settings,
            images=options.images,
            progress=stages(bar),
        )
    print(f"{made.file}: {len(made.placement.layers)} layers in int8, trained on {tuned.images[0]} images")
    print(f"loss on {tuned.images[1]} more images:")
    for epoch, terms in enumerate(tuned.losses):
        print(f"  {epoch:3d}  {terms['total']:.4f}{'  kept' if epoch == tuned.best else ''}")
    if tuned.best == 0:
        print("no epoch is better than the start, whose weights are kept; try a smaller --lr")
    print("nothing is proven yet; next: python -m calibration verify")
    return PASSED

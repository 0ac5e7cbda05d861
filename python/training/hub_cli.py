"""The command line of hub folders: `python -m training push` and `pull`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from edgedet.bundle import UNSTATED
from edgedet.terminal.json_output import add_json

if TYPE_CHECKING:
    from edgedet.terminal.parser import Commands


def add_hub_commands(commands: Commands, add_foreign: Callable[[argparse.ArgumentParser], None]) -> None:
    """Adds `push` and `pull`. add_foreign: adds the options for weights that training did not write."""
    push = commands.add_parser(
        "push",
        help="write weights as a folder of the Hugging Face hub's layout",
        description="Write config.json, preprocessor_config.json, model.safetensors and a model card. RT-DETR, "
        "RT-DETRv2 and D-FINE load with transformers. Nothing is uploaded: `hf upload OWNER/NAME FOLDER` does that.",
        examples=("python -m training push runs/mine mine-hub --licence Apache-2.0 --bundle mine",),
    )
    push.add_argument("weights", type=Path, help="run folder (its best weights) or checkpoint made by training")
    push.add_argument("folder", type=Path, metavar="FOLDER", help="folder to make")
    push.add_argument("--bundle", type=Path, help="bundle of these weights, to go with them and to lend its figures")
    add_foreign(push)
    push.add_argument(
        "--categories", type=Path, metavar="JSON", help="for weights from elsewhere: COCO json that lists the classes"
    )
    card = push.add_argument_group("what the card says", "What is not given is taken from the bundle, if there is one.")
    card.add_argument("--name", help="name of the model (default: the architecture's)")
    card.add_argument("--licence", default=UNSTATED, metavar="TEXT", help="licence of the weights")
    card.add_argument("--data-licence", default=UNSTATED, metavar="TEXT", help="licence of the training data")
    card.add_argument(
        "--dataset", action="append", default=[], metavar="ID", help="data set on the hub it was trained on; repeatable"
    )
    card.add_argument("--base-model", metavar="ID", help="model on the hub that training started from")
    add_json(push, "what was written")
    push.set_defaults(run=_push)

    pull = commands.add_parser(
        "pull",
        help="read weights from a folder of the Hugging Face hub's layout",
        description="Write the weights of a folder, or of a model of the hub, as a checkpoint that every command "
        "takes. Only safetensors and JSON are read.",
        examples=(
            "python -m training pull mine-hub --out weights.safetensors",
            f"python -m training pull hub:me/femto --revision {'3f0c' * 10} --out my.safetensors",
        ),
    )
    pull.add_argument("source", metavar="FOLDER|hub:OWNER/NAME", help="a folder, or a model of the hub")
    pull.add_argument("--out", type=Path, required=True, metavar="FILE.safetensors", help="file to make")
    pull.add_argument("--revision", metavar="COMMIT", help="for the hub: the commit to take, all 40 digits")
    add_json(pull, "what was read")
    pull.set_defaults(run=_pull)


def _push(arguments: argparse.Namespace) -> int:
    from training.hub import CardFacts, push_checkpoint
    from training.publish import Foreign

    folder = push_checkpoint(
        arguments.weights,
        arguments.folder,
        foreign=Foreign(model=arguments.model, categories=arguments.categories, filter=arguments.filter),
        facts=CardFacts(
            name=arguments.name,
            licence={"weights": arguments.licence, "data": arguments.data_licence},
            datasets=tuple(arguments.dataset),
            base_model=arguments.base_model,
        ),
        bundle=arguments.bundle,
    )
    print(f"folder: {folder}\nnext:   read {folder / 'README.md'}, then hf upload OWNER/NAME {folder}")
    if arguments.json is not None:
        arguments.json.write({"folder": str(folder)})
    return 0


def _pull(arguments: argparse.Namespace) -> int:
    from training.hub import pull_checkpoint

    loaded = pull_checkpoint(arguments.source, arguments.out, revision=arguments.revision)
    print(f"weights: {arguments.out}, {loaded.name} with {len(loaded.categories.names)} classes")
    print(f"next:    python -m training export {arguments.out} --out BUNDLE")
    if arguments.json is not None:
        arguments.json.write(
            {"weights": str(arguments.out), "model": loaded.name, "classes": list(loaded.categories.names)}
        )
    return 0

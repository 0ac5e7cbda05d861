"""The command line of training: train, eval, export. Options of `train` are the fields of TrainConfig."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import Field, asdict, fields
from pathlib import Path
from typing import Any

from edgedet import InvalidInputError
from edgedet.bundle import UNSTATED
from edgedet.cli.common import positive_number
from edgedet.terminal.json_output import add_json
from edgedet.terminal.parser import Parser, program, run_program
from training.config import TrainConfig
from training.data_cli import add_data_commands
from training.distil_cli import add_distil_commands
from training.hub_cli import add_hub_commands
from training.models_cli import add_models_command
from training.study_cli import add_study_commands

_OPTION_GROUPS = {
    "data": ("train_json", "val_json"),
    "network": ("model", "recipe", "weights", "backbone_weights", "size", "denoising"),
    "optimisation": (
        "epochs", "batch", "lr", "backbone_lr", "backbone_norm_lr", "weight_decay", "no_decay", "clip", "schedule",
        "warmup", "warmup_steps", "flat", "tail", "final_lr", "milestones", "ema_decay", "ema_warmup", "restart_epochs",
        "restart_decay", "freeze", "freeze_norm", "iou_match_epochs", "compile",
    ),
    "augmentation": (
        "flip", "vertical_flip", "photometric", "channel_shuffle", "crop", "zoom_out", "zoom_limit", "mosaic", "mixup",
        "copy_blend", "fill", "min_box", "multi_scale", "plain_epochs", "mix_epochs", "gentle_epochs",
    ),
    "distillation": (
        "teacher", "distil", "teacher_ap", "teacher_images", "teacher_cache", "cache_bits", "views",
    ),
    "machine": (
        "seed", "device", "precision", "threads", "workers", "cache_mb", "eval_every", "eval_batch", "micro_batch",
        "vram_budget",
    ),
    "safety": ("save_every", "max_bad_steps", "max_rollbacks"),
}  # fmt: skip
_SAMPLINGS = ("gather", "grid_sample", "discrete")  # the values of `Sampling`, whose module loads torch


def build_parser() -> Parser:
    """The whole command line."""
    parser = program("python -m training", "Train small DETR detectors on COCO json and export them as bundles.")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    train = commands.add_parser(
        "train",
        help="train a detector",
        usage="%(prog)s [DATA] [options], or %(prog)s --resume RUN",
        description="Train a detector; the run folder gets checkpoints and curves.",
        examples=(
            "python -m training train data --out runs/first --model femto",
            "python -m training train data --weights femto.safetensors --epochs 30 --batch 16",
            "python -m training train data --model atto --teacher runs/big --distil logit",
            "python -m training train --resume runs/first",
        ),
    )
    train.add_argument(
        "--resume", type=Path, metavar="RUN", help="continue this run as configured, without other options"
    )
    add_train_options(train)
    train.set_defaults(run=_train)

    evaluate = commands.add_parser(
        "eval",
        help="measure average precision of a run or checkpoint",
        description="Evaluate weights with torch. Figures are between 0 and 1; -1 means no object of that size.",
        examples=(
            "python -m training eval runs/first",
            "python -m training eval runs/first data --json ap.json",
            "python -m training eval deimv2_femto.pth --val-json coco/val/instances.json",
        ),
    )
    evaluate.add_argument(
        "weights", metavar="WEIGHTS", type=Path, help="run folder (its best weights) or checkpoint made by training"
    )
    evaluate.add_argument(
        "data", metavar="DATA", nargs="?", type=Path, help="dataset folder with val/; the run's own if not given"
    )
    evaluate.add_argument(
        "--val-json", type=Path, metavar="FILE", help="COCO json to evaluate on, instead of DATA/val/instances.json"
    )
    _add_foreign(evaluate)
    add_json(evaluate, "the figures")
    _add_device(evaluate)
    evaluate.add_argument(
        "--batch", type=positive_number, default=16, metavar="N", help="images per step (default: 16)"
    )
    evaluate.set_defaults(run=_evaluate)

    export = commands.add_parser(
        "export",
        help="write weights as a bundle",
        description="Write weights as a bundle that edgedet runs and calibrates.",
        examples=(
            "python -m training export runs/first --out bundle",
            "python -m training export deimv2_femto.pth --out femto --licence Apache-2.0",
        ),
    )
    export.add_argument(
        "weights", metavar="WEIGHTS", type=Path, help="run folder (its best weights) or checkpoint made by training"
    )
    export.add_argument("--out", type=Path, required=True, metavar="BUNDLE", help="folder to make")
    add_json(export, "where the bundle is")
    _add_foreign(export)
    export.add_argument(
        "--categories", type=Path, metavar="JSON", help="for weights from elsewhere: COCO json that lists the classes"
    )
    export.add_argument(
        "--sampling",
        choices=_SAMPLINGS,
        help="how deformable attention reads its maps in the graph; the model's own default if not given",
    )
    export.add_argument("--name", help="name of the model in the bundle; the architecture's if not given")
    export.add_argument("--licence", default=UNSTATED, metavar="TEXT", help="licence of the weights")
    export.add_argument("--data-licence", default=UNSTATED, metavar="TEXT", help="licence of the training data")
    export.set_defaults(run=_export)

    recipes = commands.add_parser(
        "recipes",
        help="list the hyper-parameters of every detector",
        description="List every detector with the recipe it is trained by.",
        examples=("python -m training recipes", "python -m training recipes --recipe fine-tune --json"),
    )
    recipes.add_argument(
        "--recipe", choices=_field("recipe").metadata["choices"], default="published", help="default: published"
    )
    add_json(recipes, "the recipes")
    recipes.set_defaults(run=_recipes)
    add_data_commands(commands)
    add_models_command(commands)
    add_hub_commands(commands, _add_foreign)
    add_study_commands(commands)
    add_distil_commands(commands, add_train_options, given_options)

    replay = commands.add_parser(
        "replay",
        help="find the cause of a step that was skipped",
        description="Do a step again whose loss or gradient was not finite, and name the first module to blame.",
        examples=(
            "python -m training replay runs/first 1200",
            "python -m training replay runs/first 1200 --device cpu",
        ),
    )
    replay.add_argument("folder", metavar="RUN", type=Path, help="run folder")
    replay.add_argument("step", metavar="STEP", type=int, help="number of the step, as the run said when it skipped it")
    _add_device(replay)
    add_json(replay, "what was found")
    replay.add_argument(
        "--precision", choices=("fp32", "bf16", "fp16"), help="of the forward pass; the run's own if not given"
    )
    replay.set_defaults(run=_replay)
    return parser


def add_train_options(parser: argparse.ArgumentParser) -> None:
    """The fields of TrainConfig as options."""
    parser.add_argument("data", metavar="DATA", nargs="?", type=Path, help=_field("data").metadata["help"])
    _add_option(parser, _field("out"))
    for title, names in _OPTION_GROUPS.items():
        group = parser.add_argument_group(title)
        for name in names:
            _add_option(group, _field(name))


def given_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options of `add_train_options` that were given, as TrainConfig takes them."""
    given = {f.name: getattr(arguments, f.name) for f in fields(TrainConfig)}
    return {
        name: tuple(value) if isinstance(value, list) else value for name, value in given.items() if value is not None
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its code, see `run_command`."""
    return run_program(build_parser(), argv, extra="train")


def _train(arguments: argparse.Namespace) -> int:
    # Read when torch loads. Threads that spin while they wait for each other make steps several times slower on a
    # machine that is busy with something else, and hardly faster on an idle one.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from training.trainer import resume, train

    given = given_options(arguments)
    if arguments.resume is not None:
        if given:
            raise InvalidInputError(
                f"--resume: expected no other option, because a run continues as it was configured; "
                f"got {', '.join(sorted(given))}"
            )
        result = resume(arguments.resume)
    else:
        result = train(TrainConfig(**given))
    if result.signal:
        return 128 + result.signal
    if not result.first:
        return 0
    print(f"best AP {result.best['AP']:.4f} at step {result.best['step']:.0f}, {result.seconds:.0f} s of training")
    print(f"weights: {result.run / 'best.safetensors'}\nnext:    python -m training export {result.run} --out BUNDLE")
    return 0


def _replay(arguments: argparse.Namespace) -> int:
    from training.replay import replay

    lines = replay(arguments.folder, arguments.step, device=arguments.device, precision=arguments.precision)
    print(*lines, sep="\n")
    if arguments.json is not None:
        arguments.json.write({"step": arguments.step, "processes": lines})
    return 0


def _evaluate(arguments: argparse.Namespace) -> int:
    from training.publish import evaluate_checkpoint

    metrics = evaluate_checkpoint(
        arguments.weights,
        data=arguments.data,
        val_json=arguments.val_json,
        device=arguments.device,
        batch=arguments.batch,
        model=arguments.model,
        filter=arguments.filter,
    )
    for name, value in metrics.items():
        print(f"{name:10} {value:.4f}")
    if arguments.json is not None:
        arguments.json.write(metrics)
    return 0


def _export(arguments: argparse.Namespace) -> int:
    from training.publish import Foreign, export_checkpoint

    bundle = export_checkpoint(
        arguments.weights,
        arguments.out,
        name=arguments.name,
        foreign=Foreign(model=arguments.model, categories=arguments.categories, filter=arguments.filter),
        sampling=arguments.sampling,
        licence={"weights": arguments.licence, "data": arguments.data_licence},
    )
    print(f"bundle: {bundle}\nnext:   edgedet predict {bundle} IMAGE, or python -m calibration --help")
    if arguments.json is not None:
        arguments.json.write({"bundle": str(bundle)})
    return 0


def _recipes(arguments: argparse.Namespace) -> int:
    from training.recipes import PUBLISHED, recipe_for, recipe_table

    published = arguments.recipe == "published"
    print(recipe_table(published=published))
    if arguments.json is not None:
        arguments.json.write([{"model": name, **asdict(recipe_for(name, published=published))} for name in PUBLISHED])
    return 0


def _field(name: str) -> Field[Any]:
    return next(f for f in fields(TrainConfig) if f.name == name)


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="auto", help=_field("device").metadata["help"] + " (default: auto)")


def _add_foreign(parser: argparse.ArgumentParser) -> None:
    """Options for weights that training did not write."""
    parser.add_argument(
        "--model", metavar="NAME", help="for weights from elsewhere: what they are of, as `recipes` lists it"
    )
    parser.add_argument(
        "--filter",
        choices=("bilinear", "antialias"),
        help="for weights from elsewhere: how images are shrunk (default: as their authors validate)",
    )


def _add_option(group: argparse._ActionsContainer, option: Field[Any]) -> None:
    """One command-line option for a field. None means not given, so that defaults stay in one place."""
    flag, about = "--" + option.name.replace("_", "-"), option.metadata["help"]
    kind = str(option.type)
    if kind == "bool":
        group.add_argument(flag, action="store_true", default=None, help=about)
    else:
        choices, several = option.metadata["choices"], kind.startswith("tuple")
        parse = str if choices else next((_TYPES[name] for name in _TYPES if name in kind), str)
        default = "" if option.default in (None, ()) else f" (default: {option.default})"
        group.add_argument(
            flag, type=parse, nargs="*" if several else None, choices=choices or None, help=about + default
        )


_TYPES: dict[str, type] = {"Path": Path, "int": int, "float": float}

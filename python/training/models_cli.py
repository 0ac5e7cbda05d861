"""The command line of models: `python -m training models`."""

from __future__ import annotations

import argparse
from typing import Any


def add_models_command(commands: argparse._SubParsersAction[Any]) -> None:
    """Adds `models`, which sets `command` to a function from its arguments to an exit code."""
    models = commands.add_parser(
        "models",
        help="list the detectors with their size and cost",
        description="Lists detectors: input size, parameters, and GFLOPs of one image when deployed, a multiplication "
        "and an addition being two.",
    )
    models.add_argument("names", nargs="*", metavar="NAME", help="only these; all if not given")
    models.add_argument("--classes", type=int, default=80, help="number of classes (default: 80)")
    models.set_defaults(command=_models)


def _models(arguments: argparse.Namespace) -> int:
    from training.models.complexity import complexity
    from training.models.zoo import MODELS, detector_config

    configs = [detector_config(name, num_classes=arguments.classes) for name in arguments.names or MODELS]
    print(f"{'model':18} {'input':>9} {'parameters':>11} {'deployed':>9} {'GFLOPs':>7}")
    for config in configs:
        figures = complexity(config)
        size = "x".join(map(str, config.input_size))
        print(
            f"{config.name:18} {size:>9} {figures.parameters / 1e6:9.2f} M {figures.deployed_parameters / 1e6:7.2f} M "
            f"{figures.flops / 1e9:7.2f}"
        )
    return 0

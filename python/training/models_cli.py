"""The command line of models: `python -m training models`."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING

from edgedet.terminal.json_output import add_json
from edgedet.terminal.table import print_table

if TYPE_CHECKING:
    from edgedet.terminal.parser import Commands


def add_models_command(commands: Commands) -> None:
    """Adds `models`."""
    models = commands.add_parser(
        "models",
        help="list the detectors with their size and cost",
        description="List detectors: input size, parameters, and GFLOPs of one image when deployed, a multiplication "
        "and an addition being two.",
        examples=("python -m training models", "python -m training models atto femto --classes 3"),
    )
    models.add_argument("names", nargs="*", metavar="NAME", help="only these; all if not given")
    models.add_argument("--classes", type=int, default=80, metavar="N", help="number of classes (default: 80)")
    add_json(models, "the list")
    models.set_defaults(run=_models)


def _models(arguments: argparse.Namespace) -> int:
    from training.models.complexity import complexity
    from training.models.zoo import MODELS, detector_config

    configs = [detector_config(name, num_classes=arguments.classes) for name in arguments.names or MODELS]
    figures = {config.name: complexity(config) for config in configs}
    print_table(
        [
            {
                "model": config.name,
                "input": "x".join(map(str, config.input_size)),
                "parameters": f"{figures[config.name].parameters / 1e6:.2f} M",
                "deployed": f"{figures[config.name].deployed_parameters / 1e6:.2f} M",
                "GFLOPs": f"{figures[config.name].flops / 1e9:.2f}",
            }
            for config in configs
        ],
        left=("model",),
    )
    if arguments.json is not None:
        arguments.json.write(
            [
                {
                    "model": config.name,
                    "height": config.input_size[0],
                    "width": config.input_size[1],
                    **asdict(figures[config.name]),
                    "flops": figures[config.name].flops,
                }
                for config in configs
            ]
        )
    return 0

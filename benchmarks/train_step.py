"""Seconds of one training step (forward, loss, backward, AdamW), beside the official code's.

    python benchmarks/train_step.py --model atto --batch 16 --threads 2 [--official FILE] [--profile]

FILE is a Python file around the official repository with `build(variant, num_classes, size)` returning its network and
`criterion(num_classes)` returning its loss; the two take turns, so that a busy machine disturbs both alike.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from training.memory import keep_freed_memory
from training.models.deimv2 import deimv2_config
from training.models.detector import build
from training.recipes import build_criterion

Step = Callable[[Tensor, list[dict[str, Tensor]]], None]


def random_targets(batch: int, classes: int, objects: int) -> list[dict[str, Tensor]]:
    return [
        {
            "labels": torch.randint(0, classes, (objects,)),
            "boxes": torch.cat([torch.rand(objects, 2) * 0.6 + 0.2, torch.rand(objects, 2) * 0.2 + 0.05], dim=1),
        }
        for _ in range(batch)
    ]


def optimiser(model: nn.Module, *, fused: bool) -> torch.optim.Optimizer:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(parameters, lr=1e-4, weight_decay=1e-4, fused=fused)


def our_step(variant: str, classes: int, size: int) -> Step:
    model = build(deimv2_config(variant, num_classes=classes, input_size=(size, size))).train()  # type: ignore[arg-type]
    criterion, adamw = build_criterion(), optimiser(model, fused=True)

    def step(images: Tensor, targets: list[dict[str, Tensor]]) -> None:
        adamw.zero_grad(set_to_none=True)
        torch.stack(list(criterion(model(images, targets), targets).values())).sum().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        adamw.step()

    return step


def official_step(file: Path, variant: str, classes: int, size: int) -> Step:
    spec = importlib.util.spec_from_file_location("official", file)
    if spec is None or spec.loader is None:
        raise SystemExit(f"error: {file}: expected a Python file")
    official = importlib.util.module_from_spec(spec)
    sys.modules["official"] = official
    spec.loader.exec_module(official)
    model, criterion = official.build(variant, classes, (size, size)).train(), official.criterion(classes)
    adamw = optimiser(model, fused=False)

    def step(images: Tensor, targets: list[dict[str, Tensor]]) -> None:
        adamw.zero_grad()
        sum(criterion(model(images, targets), targets, epoch=0).values()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        adamw.step()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["atto", "femto", "pico"], default="atto")
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--classes", type=int, default=3)
    parser.add_argument("--objects", type=int, default=13, help="per image")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--official", type=Path, help="Python file around the official code")
    parser.add_argument("--profile", action="store_true", help="print where one of our steps spends its time")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    keep_freed_memory()
    steps = {"edgedet": our_step(arguments.model, arguments.classes, arguments.size)}
    if arguments.official is not None:
        steps["official"] = official_step(arguments.official, arguments.model, arguments.classes, arguments.size)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    cpu: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(arguments.steps + 1):
        images = torch.rand(arguments.batch, 3, arguments.size, arguments.size)
        targets = random_targets(arguments.batch, arguments.classes, arguments.objects)
        for name, step in steps.items():
            wall, process = time.perf_counter(), time.process_time()
            step(images, targets)
            if turn:  # the first is warm-up
                seconds[name].append(time.perf_counter() - wall)
                cpu[name].append(time.process_time() - process)
    result = {
        name: {
            "median_s": round(statistics.median(values), 4),
            "min_s": round(min(values), 4),
            "median_cpu_s": round(statistics.median(cpu[name]), 4),
        }
        for name, values in seconds.items()
    }
    print(json.dumps(result, indent=2))
    if "official" in result:
        ours, theirs = result["edgedet"], result["official"]
        ratios = {key: round(ours[key] / theirs[key], 3) for key in ours}
        print(f"edgedet / official: {ratios}")
        result["ratio"] = ratios
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    if arguments.profile:
        with torch.profiler.profile() as profile:
            steps["edgedet"](images, targets)
        print(profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=25, max_name_column_width=50))


if __name__ == "__main__":
    main()

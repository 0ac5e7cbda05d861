"""Seconds of one training step (forward, loss, backward, clip, AdamW), beside the official code's and transformers'.

    python -m benchmarks.train_step rtdetrv2-r18 --data COCO --official RT-DETR/rtdetrv2_pytorch
    python -m benchmarks.train_step dfine-s --data COCO --official D-FINE
    python -m benchmarks.train_step atto --data COCO --official DEIMv2
    python -m benchmarks.train_step atto --data COCO --profile

Each adds its rows to benchmarks/results/train_step.json and train_step.md. COCO: a dataset folder, of which real images
with their boxes are taken. The official code needs what its own requirements.txt asks for.

All contenders live in one process and take turns in an order that rotates, so that a machine that slows down for a
while slows all of them; ratios are of medians. They see the same images and boxes, so that they make the same number
of denoising queries, and train with AdamW and gradients clipped to a norm of 0.1. The settings of the C library's
allocator that `python -m training train` uses hold for the process, hence for all.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.train_step_peers import Official, Targets, Transformers
from training.boxes import box_xyxy_to_cxcywh
from training.data.batches import validation_batches
from training.data.formats import find_splits, read_split
from training.files import write_json
from training.losses.criterion import Criterion
from training.memory import keep_freed_memory
from training.models.detector import build
from training.models.zoo import detector_config
from training.recipes import input_spec, recipe_for
from training.study.machine import cpu_name

OURS, OFFICIAL, TRANSFORMERS = "edgedet", "official", "transformers"
CLIP = 0.1


@dataclass(frozen=True)
class Case:
    """A model as it is measured: side of the input in pixels, images per step."""

    size: int
    batch: int


CASES = {"rtdetrv2-r18": Case(640, 2), "dfine-s": Case(640, 2), "atto": Case(320, 16)}


class Ours(nn.Module):
    """The network of this project and the loss of its recipe."""

    def __init__(self, model: str, size: int) -> None:
        super().__init__()
        self.network = build(detector_config(model, input_size=(size, size)))
        self.criterion = Criterion(recipe_for(model, published=True).criterion)

    def forward(self, images: Tensor, targets: Targets) -> Tensor:
        """The loss of a batch: images (B, 3, H, W) in [0, 1], targets with `labels` and cxcywh `boxes`."""
        return torch.stack(list(self.criterion(self.network(images, targets), targets).values())).sum()


def batches(data: Path, size: int, batch: int, count: int) -> list[tuple[Tensor, list[dict[str, Tensor]]]]:
    """Batches of the first images that have boxes, of the training split if the dataset is split."""
    splits = find_splits(data)
    dataset = read_split(splits.get("train") or next(iter(splits.values())))
    samples = [sample for sample in dataset.samples if len(sample.boxes)][: count * batch]
    return [
        (
            images,
            [
                {"labels": torch.from_numpy(s.labels), "boxes": box_xyxy_to_cxcywh(torch.from_numpy(s.boxes))}
                for s in chunk
            ],
        )
        for images, chunk in validation_batches(tuple(samples), spec=input_spec(size), batch=batch)
    ]


class Stepper:
    """A contender in training: `step` is what is timed."""

    def __init__(self, loss: nn.Module, *, fused: bool) -> None:
        self.loss = loss.train()
        self.parameters = [parameter for parameter in loss.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-4, weight_decay=1e-4, fused=fused)

    def step(self, images: Tensor, targets: Targets) -> None:
        self.optimizer.zero_grad()
        self.loss(images, targets).backward()
        nn.utils.clip_grad_norm_(self.parameters, CLIP)
        self.optimizer.step()


def measure(contenders: dict[str, Stepper], feed: list[tuple[Tensor, list[dict[str, Tensor]]]], steps: int) -> Any:
    """Seconds of each contender's steps, {name: {"wall": [...], "cpu": [...]}}; the first turn only warms up."""
    names = list(contenders)
    times: dict[str, dict[str, list[float]]] = {name: {"wall": [], "cpu": []} for name in names}
    for turn in range(steps + 1):
        images, targets = feed[turn % len(feed)]
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            wall, cpu = time.perf_counter(), time.process_time()
            contenders[name].step(images, targets)
            if turn:
                times[name]["wall"].append(time.perf_counter() - wall)
                times[name]["cpu"].append(time.process_time() - cpu)
    return times


def summary(times: dict[str, dict[str, list[float]]]) -> dict[str, Any]:
    """Medians and minima per contender, and what part of theirs our median is."""
    rows: dict[str, Any] = {
        name: {
            "median_s": round(statistics.median(of["wall"]), 4),
            "min_s": round(min(of["wall"]), 4),
            "median_cpu_s": round(statistics.median(of["cpu"]), 4),
        }
        for name, of in times.items()
    }
    for name, row in rows.items():
        if name != OURS:
            row["edgedet_takes"] = round(rows[OURS]["median_s"] / row["median_s"], 3)
    return rows


def table(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = [
        "# One training step",
        "",
        "Seconds, median of the steps (lowest in brackets); ratios are of medians. Made by benchmarks/train_step.py.",
        "",
        "| model | size | batch | edgedet | official code | ratio | transformers | ratio | threads, steps |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for model, result in results.items():
        cells = [model, f"{result['size']}", f"{result['batch']}"]
        for name in (OURS, OFFICIAL, TRANSFORMERS):
            row = result["seconds"].get(name)
            cells.append(f"{row['median_s']:.3f} ({row['min_s']:.3f})" if row else "-")
            if name != OURS:
                cells.append(f"**{row['edgedet_takes']:.2f}**" if row else "-")
        lines.append(f"| {' | '.join(cells)} | {result['threads']}, {result['steps']} |")
    machines = sorted({f"{r['machine']}, torch {r['versions']['torch']}" for r in results.values()})
    return "\n".join([*lines, "", f"Machine: {'; '.join(machines)}. No GPU.", ""])


def profile(stepper: Stepper, images: Tensor, targets: Targets) -> str:
    """Where a step spends its time, by operation."""
    stepper.step(images, targets)
    with torch.profiler.profile() as recorded:
        stepper.step(images, targets)
    return str(recorded.key_averages().table(sort_by="self_cpu_time_total", row_limit=40, max_name_column_width=50))


def main() -> None:
    """Measures one model and adds it to the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=CASES)
    parser.add_argument("--data", type=Path, required=True, help="dataset folder with real images")
    parser.add_argument("--official", type=Path, help="folder of the official code, with configs/ in it")
    parser.add_argument("--without-transformers", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--profile", action="store_true", help="only print where one of our steps spends its time")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    keep_freed_memory()
    case = CASES[arguments.model]
    feed = batches(arguments.data, case.size, case.batch, count=4)
    contenders = {OURS: Stepper(Ours(arguments.model, case.size), fused=True)}
    if arguments.profile:
        print(profile(contenders[OURS], *feed[0]))
        return
    if not arguments.without_transformers:
        contenders[TRANSFORMERS] = Stepper(Transformers(arguments.model), fused=False)
    if arguments.official is not None:
        contenders[OFFICIAL] = Stepper(Official(arguments.model, arguments.official), fused=False)
    seconds = summary(measure(contenders, feed, arguments.steps))
    print(json.dumps(seconds, indent=2))

    file = arguments.out / "train_step.json"
    results = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    results[arguments.model] = {
        "size": case.size,
        "batch": case.batch,
        "threads": arguments.threads,
        "steps": arguments.steps,
        "seconds": seconds,
        "parameters": {name: sum(p.numel() for p in c.parameters) for name, c in contenders.items()},
        "machine": cpu_name(),
        "versions": {"python": platform.python_version(), **{n: version(n) for n in ("torch", "transformers")}},
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    write_json(file, results)
    (arguments.out / "train_step.md").write_text(table(results), encoding="utf-8")


if __name__ == "__main__":
    main()

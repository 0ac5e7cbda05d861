"""What distillation adds to a training step: teachers cached and live, every method, adaptive weights.

    python -m benchmarks.distil_step DATA --teacher RUN [--turns 20] [--threads 2]

Atto at 320, batch 8, in one process; contenders take turns in an order that rotates, each on the same batches, so that
a machine that slows down for a while slows all of them. Ratios are of medians. A live teacher may cost its own forward
pass, which is measured beside. Writes benchmarks/results/distil_step.json and distil_step.md.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch

from training.config import TrainConfig
from training.distributed import Processes
from training.files import write_json
from training.loop import train_step
from training.memory import keep_freed_memory
from training.publish import load_checkpoint
from training.recipes import resolve
from training.study.machine import cpu_name
from training.trainer import Run

BATCHES = 4
METHODS: dict[str, tuple[str, ...]] = {
    "logit": ("logit",),
    "feature": ("feature",),
    "cwd": ("cwd",),
    "mgd": ("mgd",),
    "query index": ("query:matching=index",),
    "query hungarian": ("query",),
    "localisation": ("localisation",),
    "stage-adaptive": ("stage-adaptive",),
    "dsi": ("dsi",),
    "dsi + gam": ("dsi:rho=0.2,every=10",),
    "logit + dsi + gam": ("logit", "dsi:rho=0.2,every=10"),
}


def contender(data: Path, folder: Path, threads: int, **changes: Any) -> Callable[[int], None]:
    """A function that does a step on the batch of a number."""
    config = TrainConfig(
        data=data, out=folder / "run", model="atto", batch=8, epochs=2, threads=threads, workers=0, teacher_images=0,
        **changes,
    )  # fmt: skip
    run = Run(resolve(config), Processes(), fresh=True)
    run.learner.model.train()
    batches = list(islice(run.batches.epoch(0), BATCHES))

    def step(number: int) -> None:
        train_step(run.learner, batches[number % BATCHES], epoch=0, step=number)

    return step


def forward_of(teacher: str) -> Callable[[int], None]:
    """A forward pass of the teacher's network as it was trained, on a batch of its own size."""
    loaded = load_checkpoint(Path(teacher))
    images = torch.rand(8, 3, loaded.spec.height, loaded.spec.width)

    def forward(number: int) -> None:
        with torch.no_grad():
            loaded.model(images)

    return forward


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--teacher", required=True, help="run folder or checkpoint")
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        common = {"data": arguments.data, "folder": folder, "threads": arguments.threads}
        cached = {"teacher": (arguments.teacher,), "teacher_cache": folder / "cache", "views": 1}
        contenders = {
            "plain": contender(**common),
            "plain, again": contender(**common),
            "teacher's forward pass": forward_of(arguments.teacher),
            "logit, live teacher": contender(**common, teacher=(arguments.teacher,), distil=("logit",)),
            **{f"{method}, cached": contender(**common, **cached, distil=distil) for method, distil in METHODS.items()},
        }
        seconds: dict[str, list[float]] = {each: [] for each in contenders}
        names = cycle(contenders)
        for turn in range(-BATCHES, arguments.turns):
            for each in [*islice(names, len(contenders) + 1)][:-1]:  # the next turn begins one later
                started = time.perf_counter()
                contenders[each](turn + BATCHES)
                if turn >= 0:
                    seconds[each].append(time.perf_counter() - started)
    medians = {each: statistics.median(values) for each, values in seconds.items()}
    plain = statistics.median(seconds["plain"] + seconds["plain, again"])
    lines = ["| step | ms | to plain |", "|---|---|---|"]
    lines += [f"| {each} | {1e3 * value:.0f} | {value / plain:.3f} |" for each, value in medians.items()]
    print("\n".join(lines))
    gam = medians["dsi + gam, cached"] / medians["dsi, cached"]
    live = 1 + medians["teacher's forward pass"] / plain
    print(f"gam to dsi without: {gam:.3f}; a live teacher may cost {live:.3f}")
    write_json(
        arguments.out / "distil_step.json",
        {
            "command": "python -m benchmarks.distil_step",
            "cpu": cpu_name(), "threads": arguments.threads, "turns": arguments.turns, "model": "atto 320, batch 8",
            "versions": {"python": platform.python_version(), "torch": version("torch")},
            "seconds": seconds, "medians": medians, "gam": gam, "live_limit": live,
            "torch_threads": torch.get_num_threads(),
        },
    )  # fmt: skip
    (arguments.out / "distil_step.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

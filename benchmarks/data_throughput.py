"""How much of training a small detector goes into waiting for images.

    python -m benchmarks.data_throughput DATA [DATA ...] --threads 2

Trains atto at 320 with batches of 16 and clocks, per epoch, the wait for each batch and the step that follows. The
first epoch decodes every image, later ones find them in memory. With the fine-tuning augmentation (flips, colours) and
with the published one at its strongest (mosaic, colours, zoom-out, crop; mixup as DEIM has it is the third row).
Writes benchmarks/results/data_throughput.json and .md.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from benchmarks.train_step import Ours, Stepper
from training.config import TrainConfig
from training.data.batches import Batch, TrainingBatches
from training.data.dataset import CocoDataset
from training.data.formats import find_splits, read_split
from training.data.policy import Augmentation, Policy
from training.files import write_json
from training.memory import keep_freed_memory
from training.recipes import input_spec, resolve
from training.study.machine import cpu_name

MODEL, SIZE, BATCH = "atto", 320, 16
CENTRE = torch.tensor([[0.5, 0.5, 0.5, 0.5]])
RESULTS = Path(__file__).parent / "results" / "data_throughput.json"


@dataclass(frozen=True)
class Row:
    """One epoch. wait, step: medians in seconds per batch; busy, busy_cpu: the network's share of their sums.

    The share of CPU time is steadier where other programs compete for the cores, but counts workers that run beside
    the network as if it waited for them.
    """

    data: str
    augmentation: str
    epoch: str
    batches: int
    wait: float
    step: float
    busy: float
    busy_cpu: float


@dataclass(frozen=True)
class Turn:
    """Seconds of a batch: until it was there, and of the step on it; by the clock and of all CPU cores."""

    wait: float
    step: float
    wait_cpu: float
    step_cpu: float


def augmentations() -> dict[str, Augmentation]:
    """What is compared, by name."""
    settings = {
        recipe: resolve(TrainConfig(data=Path(), model=MODEL, recipe=recipe)).augmentation()
        for recipe in ("fine-tune", "published")
    }
    return {**settings, "published + mixup": replace(settings["published"], mosaic=0.5, mixup=0.5)}


def measure(dataset: CocoDataset, settings: Augmentation, *, threads: int, workers: int) -> dict[str, list[Turn]]:
    """Every batch of a first and of a later epoch."""
    torch.manual_seed(0)
    stepper = Stepper(Ours(MODEL, SIZE), fused=True)
    stepper.step(
        torch.rand(BATCH, 3, SIZE, SIZE), [{"labels": torch.zeros(1, dtype=torch.int64), "boxes": CENTRE}] * BATCH
    )
    batches = TrainingBatches(
        dataset,
        spec=input_spec(SIZE),
        policy=Policy(settings),
        batch=BATCH,
        seed=0,
        workers=workers,
        threads=threads,
        cache_bytes=2 << 30,
    )
    return {name: _epoch(stepper, batches.epoch(number)) for number, name in enumerate(("first", "later"))}


def _epoch(stepper: Stepper, feed: Iterator[Batch]) -> list[Turn]:
    turns = []
    started = time.perf_counter(), time.process_time()
    for batch in feed:
        waited = time.perf_counter(), time.process_time()
        stepper.step(batch.images, batch.targets)
        done = time.perf_counter(), time.process_time()
        turns.append(Turn(waited[0] - started[0], done[0] - waited[0], waited[1] - started[1], done[1] - waited[1]))
        started = done
    return turns


def summarise(data: str, augmentation: str, epoch: str, turns: list[Turn]) -> Row:
    """One row of an epoch's turns."""
    return Row(
        data=data,
        augmentation=augmentation,
        epoch=epoch,
        batches=len(turns),
        wait=statistics.median(turn.wait for turn in turns),
        step=statistics.median(turn.step for turn in turns),
        busy=sum(turn.step for turn in turns) / sum(turn.wait + turn.step for turn in turns),
        busy_cpu=sum(turn.step_cpu for turn in turns) / sum(turn.wait_cpu + turn.step_cpu for turn in turns),
    )


def table(rows: list[Row]) -> str:
    """The rows as Markdown."""
    lines = [
        "| images | augmentation | epoch | wait (ms) | step (ms) | time in the network | CPU time in the network |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.data} | {row.augmentation} | {row.epoch} | {1e3 * row.wait:.0f} | {1e3 * row.step:.0f} "
        f"| {row.busy:.1%} | {row.busy_cpu:.1%} |"
        for row in rows
    ]
    return "\n".join(lines)


def main() -> None:
    """Measures every data set with every augmentation and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", type=Path, help="dataset folders")
    parser.add_argument("--images", type=int, help="the first so many images of each; all if not given")
    parser.add_argument("--threads", type=int, default=2, help="of the network, and of the data where it has no own")
    parser.add_argument("--workers", type=int, default=0, help="threads that prepare batches ahead")
    parser.add_argument("--out", type=Path, default=RESULTS, help="json file; a .md file is written beside it")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    rows = []
    for folder in arguments.data:
        splits = find_splits(folder)
        dataset = read_split(splits.get("train") or next(iter(splits.values())))
        dataset = replace(dataset, samples=dataset.samples[: arguments.images])
        for name, settings in augmentations().items():
            epochs = measure(dataset, settings, threads=arguments.threads, workers=arguments.workers)
            for epoch, turns in epochs.items():
                rows.append(summarise(folder.name, name, epoch, turns))
                print(table(rows[-1:]).splitlines()[-1], flush=True)
    about = {"cpu": cpu_name(), "threads": arguments.threads, "workers": arguments.workers, "torch": torch.__version__}
    setting = {"model": MODEL, "size": SIZE, "batch": BATCH}
    write_json(arguments.out, {"machine": about, "setting": setting, "rows": [asdict(row) for row in rows]})
    arguments.out.with_suffix(".md").write_text(table(rows) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""`killed_run.py DATA RUN SEED`: a run that is killed, at random, again and again, until it is done.

Half of the kills come at a random moment, half in the middle of writing a file. Each process is a fork of this one,
which never computes anything itself; it prints the step from which each of them had to go on.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch
from training_data import tiny_config

from training import trainer

KILLS = 6
write_bytes = Path.write_bytes


def live(data: Path, run: Path, die_at_write: int) -> None:
    """Starts or resumes the run, which dies when half of that write is done."""
    writes = 0

    def dying(file: Path, content: bytes) -> int:
        nonlocal writes
        writes += 1
        if writes == die_at_write:
            write_bytes(file, content[: len(content) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return write_bytes(file, content)

    Path.write_bytes = dying  # type: ignore[method-assign,assignment]
    torch.set_num_threads(1)
    sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if (run / "config.json").exists():
        trainer.resume(run)
    else:
        trainer.train(tiny_config(data, run, save_every=1))


def step_of(run: Path) -> int:
    state = run / "state.json"
    return int(json.loads(state.read_text())["step"]) if state.exists() else -1


def main() -> None:
    data, run, rng = Path(sys.argv[1]), Path(sys.argv[2]), random.Random(int(sys.argv[3]))
    for life in range(KILLS + 1):
        in_a_write = rng.randrange(5, 9) if life % 2 == 0 and life < KILLS else -1
        child = os.fork()
        if child == 0:
            live(data, run, in_a_write)
            os._exit(0)
        if in_a_write < 0 and life < KILLS:
            before = step_of(run)
            while step_of(run) == before and before < 9:
                time.sleep(0.01)
            time.sleep(rng.uniform(0, 0.2))
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        print(status, step_of(run), flush=True)


if __name__ == "__main__":
    main()

"""What the scripts beside this share: a job read from JSON, and the record of how it went. Needs NumPy only.

A script runs in the environment of one peer, is given the path of `job.json` and leaves beside it the model
(`model.onnx` or `model.xml`) and `made.json`.
"""

from __future__ import annotations

import json
import platform
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Feed = dict[str, npt.NDArray[np.generic]]


@dataclass(frozen=True)
class Job:
    """One quantiser's task.

    Attributes:
        folder: where the results go.
        model: the float ONNX file.
        inputs: (N, 3, H, W) float32, the calibration images as the network sees them, read from disk on demand.
        image_input: name of the network's image input.
        size_input: name of its (N, 2) int64 width and height, or None.
        settings: the contender's own.
    """

    folder: Path
    model: Path
    inputs: npt.NDArray[np.float32]
    image_input: str
    size_input: str | None
    settings: dict[str, Any]

    @property
    def shapes(self) -> dict[str, list[int]]:
        """Shape of every input for one image."""
        shapes = {self.image_input: [1, *self.inputs.shape[1:]]}
        if self.size_input is not None:
            shapes[self.size_input] = [1, 2]
        return shapes

    def feed(self, images: npt.NDArray[np.float32]) -> Feed:
        """Every input of the network for (N, 3, H, W) images."""
        feed: Feed = {self.image_input: np.ascontiguousarray(images)}
        if self.size_input is not None:
            height, width = images.shape[2:]
            feed[self.size_input] = np.tile(np.array([width, height], np.int64), (len(images), 1))
        return feed

    def feeds(self, start: int = 0, end: int | None = None) -> Iterator[Feed]:
        """The images from `start` to `end`, one at a time."""
        for index in range(start, len(self.inputs) if end is None else end):
            yield self.feed(self.inputs[index : index + 1])


def run_job(quantise: Callable[[Job], None], packages: tuple[str, ...]) -> None:
    """Do the job named on the command line and record seconds and versions.

    Args:
        quantise: writes the model into the job's folder.
        packages: distributions whose versions are recorded.
    """
    source = Path(sys.argv[1])
    described = json.loads(source.read_text(encoding="utf-8"))
    job = Job(
        folder=source.parent,
        model=Path(described["model"]),
        inputs=np.load(described["inputs"], mmap_mode="r"),
        image_input=described["image_input"],
        size_input=described["size_input"],
        settings=described["settings"],
    )
    start = time.perf_counter()
    quantise(job)
    record = {
        "seconds": round(time.perf_counter() - start, 1),
        "versions": {**{name: version(name) for name in packages}, "python": platform.python_version()},
    }
    (job.folder / "made.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")

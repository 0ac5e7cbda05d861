"""Run the float model over the calibration images and keep statistics of the tensors that will be quantised."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

from calibration.graph import static_shapes
from calibration.observers import Histogram
from edgedet import InvalidInputError, ModelError

Batch = Mapping[str, npt.NDArray[np.generic]]


class Statistics:
    """What is kept of one tensor: a histogram of its values and the sum of every channel.

    Channels are axis 1 of a rank-4 tensor (NCHW) and the last axis of any other.
    """

    def __init__(self, name: str) -> None:
        self.histogram = Histogram()
        self._name = name
        self._sums: npt.NDArray[np.float64] | None = None
        self._count = 0

    @property
    def channel_means(self) -> npt.NDArray[np.float64]:
        """Mean of every channel over all values seen, (C,)."""
        if self._sums is None:
            raise InvalidInputError("expected statistics with values, got none; check the calibration set")
        return self._sums / self._count

    def update(self, values: npt.NDArray[np.float32], *, images: int = 1) -> None:
        """Add one batch.

        Args:
            values: any shape.
            images: number of images in the batch; they are told apart where they are the first axis.

        Raises:
            ModelError: the tensor holds NaN or infinity.
        """
        try:
            self.histogram.update(values, groups=images if values.shape[:1] == (images,) else 1)
        except InvalidInputError as cause:
            raise ModelError(f"tensor '{self._name}': {cause}; the float model is broken on this set") from cause
        channel = 1 if values.ndim == 4 else values.ndim - 1
        others = tuple(axis for axis in range(values.ndim) if axis != channel)
        sums = values.sum(axis=others, dtype=np.float64)
        self._sums = sums if self._sums is None else self._sums + sums
        self._count += values.size // max(len(sums), 1)

    def state(self) -> dict[str, npt.NDArray[np.generic]]:
        """Everything, as arrays, for `restore`."""
        counts, numbers = self.histogram.state()
        sums = np.zeros(0) if self._sums is None else self._sums
        return {"counts": counts, "numbers": numbers, "sums": sums, "count": np.array(self._count)}

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Continue from what `state` gave."""
        self.histogram.restore(state["counts"], state["numbers"])
        self._sums = state["sums"] if state["sums"].size else None
        self._count = int(state["count"])


@dataclass(frozen=True, kw_only=True)
class CollectOptions:
    """How much is held at a time.

    Attributes:
        batch: images per run of the model, >= 1; models with a fixed batch axis use that instead.
        memory_mb: bound on the intermediate tensors one run may return; the tensors are split into passes to keep to
            it.
        threads: onnxruntime threads, 0 for its own choice.
    """

    batch: int = 4
    memory_mb: int = 512
    threads: int = 0

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.batch < 1 or self.memory_mb < 1 or self.threads < 0:
            raise InvalidInputError(f"expected batch >= 1, memory_mb >= 1 and threads >= 0, got {self}")


class Memory(Protocol):
    """What survives an interrupted `collect`.

    Attributes:
        images: number of images in all batches together.
    """

    images: int

    def restore(self, statistics: Mapping[str, Statistics]) -> int:
        """Fill in what is known of these tensors; returns the number of images it covers, 0 for nothing."""

    def keep(self, statistics: Mapping[str, Statistics], images: int, *, last: bool = False) -> None:
        """Take note of the statistics of the first `images` images."""


def with_outputs(model: onnx.ModelProto, tensors: Sequence[str]) -> onnx.ModelProto:
    """Copy of a model that returns `tensors` (float32) and nothing else."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    copy.graph.output.extend(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in tensors)
    return copy


def session(model: onnx.ModelProto, *, threads: int = 0) -> onnxruntime.InferenceSession:
    """A CPU session for a model held in memory."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def passes(model: onnx.ModelProto, tensors: Sequence[str], options: CollectOptions) -> list[list[str]]:
    """Split tensors into groups whose values for one batch fit the memory bound.

    A tensor of unknown shape counts as the largest known one.
    """
    shapes = static_shapes(model, batch=options.batch)
    sizes = {name: 4 * int(np.prod(shapes[name])) for name in tensors if name in shapes}
    largest = max(sizes.values(), default=0)
    limit = options.memory_mb << 20
    groups: list[list[str]] = [[]]
    used = 0
    for name in tensors:
        size = sizes.get(name, largest)
        if groups[-1] and used + size > limit:
            groups.append([])
            used = 0
        groups[-1].append(name)
        used += size
    return groups


def collect(
    model: onnx.ModelProto,
    tensors: Sequence[str],
    batches: Callable[[], Iterable[Batch]],
    *,
    options: CollectOptions,
    advance: Callable[[int], None] = lambda images: None,
    memory: Memory | None = None,
) -> dict[str, Statistics]:
    """Statistics of `tensors` over all batches. Raw values are never stored.

    Args:
        model: float model.
        tensors: names of float tensors in it.
        batches: returns a fresh iterable of model inputs; called once per pass.
        options: memory bound and threads.
        advance: told the number of images after each run.
        memory: where statistics are kept while they grow; what is there already is not computed again.

    Raises:
        InvalidInputError: there is no batch.
        ModelError: a tensor turns NaN or infinite.
    """
    statistics = {name: Statistics(name) for name in tensors}
    for group in passes(model, tensors, options):
        held = {name: statistics[name] for name in group}
        known = memory.restore(held) if memory is not None else 0
        if memory is not None and known >= memory.images:
            advance(known)
            continue
        runner: onnxruntime.InferenceSession | None = None
        seen = 0
        for batch in batches():
            count = len(next(iter(batch.values())))
            seen += count
            if seen > known:
                runner = runner or session(with_outputs(model, group), threads=options.threads)
                wanted = {value.name for value in runner.get_inputs()}
                feed = {name: value for name, value in batch.items() if name in wanted}
                for name, values in zip(group, runner.run(group, feed), strict=True):
                    statistics[name].update(values, images=count)
                if memory is not None:
                    memory.keep(held, seen)
            advance(count)
        if not seen:
            raise InvalidInputError("expected at least one calibration image, got none; run `sample` first")
        if memory is not None:
            memory.keep(held, seen, last=True)
    return statistics


def batched(images: Iterable[npt.NDArray[np.float32]], size: int) -> Iterator[npt.NDArray[np.float32]]:
    """Stack images (3, H, W) into arrays (at most `size`, 3, H, W)."""
    held: list[npt.NDArray[np.float32]] = []
    for image in images:
        held.append(image)
        if len(held) == size:
            yield np.stack(held)
            held = []
    if held:
        yield np.stack(held)


def channel_extents(
    model: onnx.ModelProto,
    tensors: Sequence[str],
    batches: Callable[[], Iterable[Batch]],
    *,
    options: CollectOptions,
    advance: Callable[[int], None] = lambda images: None,
) -> dict[str, npt.NDArray[np.float64]]:
    """Largest magnitude of every channel of rank-4 tensors, averaged over images: (C,) each.

    The mean over images keeps one odd image from deciding.
    """
    sums: dict[str, npt.NDArray[np.float64]] = {}
    images = 0
    for position, group in enumerate(passes(model, tensors, options)):
        runner = session(with_outputs(model, group), threads=options.threads)
        wanted = {value.name for value in runner.get_inputs()}
        for batch in batches():
            count = len(next(iter(batch.values())))
            images += count if position == 0 else 0
            feed = {name: value for name, value in batch.items() if name in wanted}
            for name, values in zip(group, runner.run(group, feed), strict=True):
                if values.ndim == 4:
                    peak = np.abs(values).max(axis=(2, 3)).astype(np.float64).sum(axis=0)
                    sums[name] = sums.get(name, 0.0) + peak
            advance(count)
    return {name: total / images for name, total in sums.items()}

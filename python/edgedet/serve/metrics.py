"""Counters, gauges and histograms in the text format of Prometheus (exposition format 0.0.4)."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from typing import Tuple

_Labels = Tuple[str, ...]

#: Upper bounds of latencies, seconds.
SECONDS = (0.0005, 0.001, 0.002, 0.004, 0.006, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
#: Upper bounds of batch sizes, images.
IMAGES = (1, 2, 4, 8, 16, 32, 64)


class Counter:
    """What only grows, by label values."""

    kind = "counter"

    def __init__(self, name: str, text: str, labels: Sequence[str] = ()) -> None:
        self.name, self.text, self.labels = name, text, tuple(labels)
        self._values: dict[_Labels, float] = {} if labels else {(): 0.0}

    def add(self, *labels: str, amount: float = 1.0) -> None:
        """labels: a value for each name, from a set that is small whatever clients send."""
        self._values[labels] = self._values.get(labels, 0.0) + amount

    def value(self, *labels: str) -> float:
        """What was added so far."""
        return self._values.get(labels, 0.0)

    def lines(self) -> Iterator[str]:
        """The samples."""
        for values, amount in sorted(self._values.items()):
            yield f"{self.name}{_braces(self.labels, values)} {_number(amount)}"


class Gauge:
    """A value that is asked for when the metrics are."""

    kind = "gauge"

    def __init__(self, name: str, text: str, read: Callable[[], float]) -> None:
        self.name, self.text, self._read = name, text, read

    def lines(self) -> Iterator[str]:
        """The sample."""
        yield f"{self.name} {_number(self._read())}"


class Histogram:
    """How often values fell below each bound, by label values."""

    kind = "histogram"

    def __init__(self, name: str, text: str, labels: Sequence[str], bounds: Sequence[float]) -> None:
        self.name, self.text, self.labels, self._bounds = name, text, tuple(labels), tuple(bounds)
        self._counts: dict[_Labels, list[int]] = {}
        self._sums: dict[_Labels, float] = {}

    def observe(self, value: float, *labels: str) -> None:
        """Counts one value."""
        counts = self._counts.get(labels)
        if counts is None:
            counts = self._counts[labels] = [0] * (len(self._bounds) + 1)
            self._sums[labels] = 0.0
        counts[bisect_left(self._bounds, value)] += 1
        self._sums[labels] += value

    def lines(self) -> Iterator[str]:
        """Cumulative buckets, sum and count."""
        for values, counts in sorted(self._counts.items()):
            total = 0
            for bound, count in zip((*map(_number, self._bounds), "+Inf"), counts):
                total += count
                yield f"{self.name}_bucket{_braces((*self.labels, 'le'), (*values, bound))} {total}"
            braces = _braces(self.labels, values)
            yield f"{self.name}_sum{braces} {_number(self._sums[values])}"
            yield f"{self.name}_count{braces} {total}"


class Metrics:
    """All that the server counts."""

    def __init__(
        self,
        *,
        queued: Callable[[], float],
        in_flight: Callable[[], float],
        ready: Callable[[], float],
        buffered: Callable[[], float],
    ) -> None:
        """Each argument is asked for its value when the metrics are."""
        self.requests = Counter(
            "edgedet_http_requests_total", "Requests answered, by route and status.", ("route", "status")
        )
        self.rejects = Counter("edgedet_rejects_total", "Requests that were not run, by reason.", ("reason",))
        self.accepted = Counter("edgedet_accepted_total", "Requests for detections that were let into the queue.")
        self.answered = Counter("edgedet_answered_total", "Of those, the ones that were answered, well or badly.")
        self.images = Counter("edgedet_images_total", "Images that were run.", ("model",))
        self.restarts = Counter("edgedet_worker_restarts_total", "Workers that had to be replaced.")
        self.stages = Histogram(
            "edgedet_stage_seconds",
            "Time of a request by stage: queue, read (parse and decode), wait (for a batch), preprocess, inference, "
            "decode, total.",
            ("model", "stage"),
            SECONDS,
        )
        self.batches = Histogram("edgedet_batch_images", "Images that ran together.", ("model",), IMAGES)
        self._all = (
            self.requests,
            self.rejects,
            self.accepted,
            self.answered,
            self.images,
            self.restarts,
            self.stages,
            self.batches,
            Gauge("edgedet_queue_depth", "Requests that wait for the worker.", queued),
            Gauge("edgedet_in_flight", "Requests that the worker has.", in_flight),
            Gauge("edgedet_ready", "1 where requests are taken and a worker is there to run them.", ready),
            Gauge("edgedet_buffered_bytes", "Bodies in memory, whole pages.", buffered),
        )

    def text(self) -> str:
        """All of them, as Prometheus reads them."""
        lines: list[str] = []
        for metric in self._all:
            lines += (f"# HELP {metric.name} {metric.text}", f"# TYPE {metric.name} {metric.kind}", *metric.lines())
        return "\n".join(lines) + "\n"


def _braces(names: Sequence[str], values: Sequence[str]) -> str:
    pairs = ",".join(f'{name}="{_escaped(value)}"' for name, value in zip(names, values))
    return f"{{{pairs}}}" if pairs else ""


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(float(value))

"""Model cards: README.md with the front matter that Hugging Face's hub reads. Figures are measured ones or none."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from edgedet.bundle import UNSTATED

# Licences by the hub's names, which are those of SPDX in lower case; any other is "other" there.
_LICENCES: Final = frozenset((
    "agpl-3.0", "apache-2.0", "bsd-2-clause", "bsd-3-clause", "cc-by-4.0", "cc-by-nc-4.0", "cc-by-nc-nd-4.0",
    "cc-by-nc-sa-4.0", "cc-by-nd-4.0", "cc-by-sa-4.0", "cc0-1.0", "gpl-3.0", "mit", "mpl-2.0", "unlicense",
))  # fmt: skip
_NOT_MEASURED: Final = "Not measured."
_SHOWN_CLASSES: Final = 100


@dataclass(frozen=True)
class Card:
    """What a card says.

    Attributes:
        spec: model.json, or its keys name, input, classes and licence.
        library: What loads the model, by the hub's name.
        usage: Code that loads it: language and text of each block.
        datasets: What it was trained on, ids on the hub; empty if not stated.
        base_model: What its training started from, an id on the hub; None if not stated.
        validation: AP and the like that training measured of the checkpoint; None if it did not.
        report: Of a verified bundle, see ``calibration verify``, if it still holds; else None.
    """

    spec: Mapping[str, Any]
    library: str
    usage: Sequence[tuple[str, str]]
    datasets: Sequence[str] = ()
    base_model: str | None = None
    validation: Mapping[str, float] | None = None
    report: Mapping[str, Any] | None = None

    def __str__(self) -> str:
        return "\n".join(["---", *self._front(), "---", "", *self._body()]) + "\n"

    def _front(self) -> list[str]:
        """YAML, whose values are JSON, which YAML understands."""
        licence = self.spec["licence"]["weights"]
        front: dict[str, Any] = {"library_name": self.library, "pipeline_tag": "object-detection"}
        if licence != UNSTATED:
            known = re.sub(r"\s+", "-", licence.strip().lower())
            free = {"license": "other", "license_name": " ".join(licence.split())}
            front.update({"license": known} if known in _LICENCES else free)
        if self.datasets:
            front["datasets"] = list(self.datasets)
        if self.base_model:
            front["base_model"] = self.base_model
        metrics = [{"type": "mAP", "name": name, "value": value} for name, value in self._accuracy()]
        if metrics:
            dataset = self.datasets[0] if self.datasets else UNSTATED
            result = {
                "task": {"type": "object-detection"},
                "dataset": {"type": dataset, "name": dataset},
                "metrics": metrics,
            }
            front["model-index"] = [{"name": self.spec["name"], "results": [result]}]
        return [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in front.items()]

    def _accuracy(self) -> list[tuple[str, float]]:
        rows = [] if self.validation is None else [("AP, validation of the training", self.validation["AP"])]
        if self.report is not None:
            where = f"{self.report['backend']}, {self.report['evaluation']['images']} images"
            rows += [(f"AP, {precision} on {where}", figures["AP"]) for precision, figures in self.report["ap"].items()]
        return rows

    def _body(self) -> list[str]:
        image, licence, classes = self.spec["input"], self.spec["licence"], self.spec["classes"]
        some = ", ".join(map(_line, classes[:_SHOWN_CLASSES]))
        more = f", and {len(classes) - _SHOWN_CLASSES} more" if len(classes) > _SHOWN_CLASSES else ""
        lines = [
            f"# {_line(self.spec['name'])}",
            "",
            f"An object detector for images scaled to {image['width']} x {image['height']} pixels ({image['resize']}, "
            f"{image['filter']}, {image['channels'].upper()}, mean {_numbers(image['mean'])}, "
            f"deviation {_numbers(image['std'])}).",
            "",
            "## Intended use",
            "",
            f"Finding objects of {len(classes)} classes in photographs like those it was trained on: {some}{more}.",
            "It was not examined for any use where a missed or invented object does harm.",
            "",
            "## Data and licences",
            "",
            f"- Weights: {_line(licence['weights'])}",
            f"- Training data: {_line(licence['data'])}" + (f" ({', '.join(self.datasets)})" if self.datasets else ""),
            f"- Trained from: {self.base_model or UNSTATED}",
            "",
            "## Accuracy",
            "",
        ]
        accuracy = self._accuracy()
        lines += _table(("", "AP (IoU 0.50 to 0.95)"), [(_line(name), f"{value:.4f}") for name, value in accuracy])
        lines += ["", "## Latency", ""]
        latency = self.report["latency_ms"] if self.report else {}
        lines += _table(
            ("one frame, image in memory to detections", "median ms", "p99 ms"),
            [(name, f"{row['p50']:.2f}", f"{row['p99']:.2f}") for name, row in latency.items()],
        )
        if self.report is not None:
            lines += ["", _line(f"On {self.report['device']}, {self.report['threads']} threads.")]
        lines += ["", "## How to use", ""]
        for language, code in self.usage:
            lines += [f"```{language}", code, "```", ""]
        return lines[:-1]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    if not rows:
        return [_NOT_MEASURED]
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{value:g}" for value in values)


def _line(text: str) -> str:
    """On one line, and nothing in it that Markdown or HTML would act on: names come with data sets, from anywhere."""
    return re.sub(r"([\\`*_{}\[\]<>|#])", r"\\\1", " ".join(str(text).split()))

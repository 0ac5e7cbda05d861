"""What ``python -m calibration verify`` found out about a bundle, and whether that still holds.

A report is evidence, not a signature: who can write the bundle can write the report.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

FORMAT: Final = "edgedet.report"
VERSION: Final = 3

State = Literal["passed", "refused", "stale", "unverified"]
Half = Literal["bf16", "fp16"]
Candidate = Literal["int8", "bf16", "fp16"]  # not in terms of Half: Python 3.8 would nest them

#: Types in which a float32 file may run as well.
HALVES: Final[tuple[Half, ...]] = get_args(Half)
#: Precisions that a report may judge against fp32.
CANDIDATES: Final[tuple[Candidate, ...]] = get_args(Candidate)

# Keys of model.json that decide what a network's numbers mean: a verdict is about these values.
_BINDING: Final = ("input", "output", "classes", "category_ids")
_ADVICE: Final = "run `python -m calibration verify`"


@dataclass(frozen=True)
class Verdict:
    """The state of a bundle's report on one backend.

    Attributes:
        state: "passed" and "refused" are the report's own words. "stale": the report is about other models or another
            model.json. "unverified": there is no report that could be read.
        text: The state and its reason in one line, for people.
    """

    state: State
    text: str

    @property
    def passed(self) -> bool:
        """Whether a verification was passed and still holds."""
        return self.state == "passed"

    def __str__(self) -> str:
        return self.text


def spec_digests(spec: Mapping[str, Any]) -> dict[str, str]:
    """Sha256 of each part of model.json that a verdict depends on: preprocessing, outputs, classes and their ids.

    Args:
        spec: From :func:`edgedet.bundle.load_model_json`, so that defaults are filled in.
    """
    return {key: hashlib.sha256(json.dumps(spec[key], sort_keys=True).encode()).hexdigest() for key in _BINDING}


def model_file(spec: Mapping[str, Any], precision: str, backend: str) -> str | None:
    """Name of the file that a backend runs at a precision, None where the bundle has none."""
    files: Mapping[str, str] = spec["models"].get(precision, {})
    return files.get(backend, files.get("*"))


def read_verdict(
    bundle: str | os.PathLike[str], spec: Mapping[str, Any], backend: str, *, device: str = "", precision: str = ""
) -> Verdict:
    """The verdict of a bundle's report.json, checked against what is in the bundle now.

    Args:
        bundle: The bundle folder.
        spec: Its model.json, from :func:`edgedet.bundle.load_model_json`, which has checked every sha256.
        backend: Whose verdict.
        device: Where it runs now; a pass on another device or version is said to be one. Not compared if empty.
        precision: That runs now; a report about another one is not about it. Not compared if empty or "fp32", which is
            part of every report.

    Returns:
        A verdict in every case: a report that cannot be read verifies nothing.
    """
    if "report.json" not in spec["files"]:
        return Verdict("unverified", f"not verified; {_ADVICE}")
    try:
        report = json.loads((Path(bundle) / "report.json").read_text(encoding="utf-8"))
        if report["format"] != FORMAT or report["version"] != VERSION:
            return Verdict("unverified", f"not verified: report.json is of another version; {_ADVICE} again")
        if precision not in ("", "fp32", report["candidate"]):
            return Verdict("unverified", f"{precision} is not verified, another precision is; {_ADVICE} again")
        return _judge(report, spec, backend, device)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return Verdict("unverified", f"not verified: report.json cannot be read; {_ADVICE} again")


def read_report(bundle: str | os.PathLike[str], spec: Mapping[str, Any]) -> dict[str, Any] | None:
    """The report of a bundle, passed or refused, if it can be read and is about what is there now; else None."""
    try:
        report: dict[str, Any] = json.loads((Path(bundle) / "report.json").read_text(encoding="utf-8"))
        backend = str(report["backend"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return report if read_verdict(bundle, spec, backend).state in ("passed", "refused") else None


def _judge(report: Mapping[str, Any], spec: Mapping[str, Any], backend: str, device: str) -> Verdict:
    if report["backend"] != backend:
        return Verdict("unverified", f"not verified on {backend}; {_ADVICE}")
    candidate = report["candidate"]
    if candidate not in CANDIDATES:
        raise ValueError(f"no precision that could be judged: {candidate!r}")
    for precision in ("fp32", candidate):
        file = model_file(spec, precision, backend)
        if file is None or spec["files"][file]["sha256"] != report["models"][precision]["sha256"]:
            return _stale(f"the {precision} model is not the one that was verified")
    for key, digest in spec_digests(spec).items():
        if report["spec_sha256"][key] != digest:
            return _stale(f'"{key}" in model.json is not what was verified')
    verdict = report["verdict"]
    if verdict["passed"] is not True:
        return Verdict("refused", _line(f"refused: {candidate}, because {'; '.join(verdict['reasons'])}"))
    ap, images = report["ap"], report["evaluation"]["images"]
    text = (
        f"passed: {candidate}, AP {ap['fp32']['AP']:.3f} -> {ap[candidate]['AP']:.3f} on {images:d} images, "
        f"time x{report['latency_ratio']:.2f} on {report['device']}"
    )
    if device and report["device"] != device:
        text += f", which is not this device ({device}); {_ADVICE} here"
    return Verdict("passed", _line(text))


def _stale(reason: str) -> Verdict:
    return Verdict("stale", f"stale: {reason}; {_ADVICE} again")


def _line(text: str) -> str:
    """Without what could move a terminal's cursor: reports come with bundles, from anywhere."""
    return "".join(letter for letter in text if letter.isprintable())

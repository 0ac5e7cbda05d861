"""The rule: what must hold for a candidate to pass, each check with what was found and what was asked.

AP on a few hundred images is uncertain, and a verdict that hangs on the third digit would be a lottery. So the loss may
exceed `max_drop` by its own standard error, and by no more than `max_drop` however uncertain it is:

    refused if drop > max_drop + min(standard error, max_drop)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from calibration.gate.binding import Binding
from calibration.gate.evidence import Evidence
from calibration.gate.options import VerifyOptions
from edgedet.coco_compare import Accuracy, ClassDrop, allowed_drop
from edgedet.matching import Confusion, Drift

# A class is lost if it had enough objects to tell and loses most of a real AP, far beyond its own noise.
_CLASS_OBJECTS: Final = 10
_CLASS_SHARE: Final = 0.5
_CLASS_DROP: Final = 0.1
_CLASS_ERRORS: Final = 2.0
_LISTED: Final = 5


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: what.
        found: the figure.
        asked: the limit.
        reason: why the candidate is refused, empty where the check is passed.
    """

    name: str
    found: str
    asked: str
    reason: str = ""

    @property
    def passed(self) -> bool:
        """Whether it holds."""
        return not self.reason

    def to_json(self) -> dict[str, Any]:
        """Plain values for report.json."""
        return {**asdict(self), "passed": self.passed}


def time_ratio(evidence: Evidence, field: str) -> float:
    """Candidate against float, medians over the images; `field` is "total_ms" or "inference_ms"."""
    candidate, reference = evidence.runs[evidence.precision], evidence.runs["fp32"]
    return float(np.median(getattr(candidate, field)) / np.median(getattr(reference, field)))


def judge(
    *,
    accuracy: Accuracy,
    found: Drift,
    confused: Sequence[Confusion],
    classes: Sequence[str],
    evidence: Evidence,
    binding: Binding | None,
    options: VerifyOptions,
) -> list[Check]:
    """Hold everything against its limit.

    Args:
        accuracy: AP of both engines.
        found: how the float engine's confident detections were found again.
        confused: classes that come out as others.
        classes: class names by label.
        evidence: what both engines did.
        binding: whether the INT8 model belongs to the bundle; None for a candidate that was not calibrated.
        options: the limits.
    """
    checks = [
        *([] if binding is None else [_calibrated(binding)]),
        *_float_ap(accuracy, options),
        _drop(accuracy, options),
        _lost_classes(accuracy.classes),
        _labels(confused, classes),
        _matched(found, options),
        _layers(evidence, options),
        *([_norms(evidence.execution["norms"])] if evidence.precision == "int8" else []),
        _latency(evidence, options),
        Check(
            "same image, same detections",
            "yes" if evidence.deterministic else "no",
            "yes",
            "" if evidence.deterministic else "the same image gives different detections",
        ),
    ]
    if evidence.reference is not None:
        found_again = evidence.reference
        figure = f"{found_again.matched:.1%} found again, moved by {found_again.moved_px:.2f} px"
        checks.append(Check("float engine against its ONNX file", figure, "the same", found_again.reason))
    for batch in evidence.batches:
        sizes = ", ".join(str(size) for size in batch.sizes)
        where = "on the engine" if batch.where == "engine" else "in the ONNX file"
        figure = (
            batch.note
            or f"{batch.matched:.1%} found again, moved by {batch.moved_px:.2f} px, scores by {batch.score:.3f}"
        )
        checks.append(Check(f"{sizes or 'several'} images at a time, {where}", figure, "as one by one", batch.reason))
    return checks


def _calibrated(binding: Binding) -> Check:
    found = "no" if binding.reason else "unknown" if binding.note else "yes"
    return Check("calibrated for this bundle", found, "yes", binding.reason)


def _float_ap(accuracy: Accuracy, options: VerifyOptions) -> list[Check]:
    reason = ""
    if accuracy.fp32 <= options.max_drop:
        reason = (
            f"the float model has AP {accuracy.fp32:.4f} on these images, too little to see a loss; "
            "check images, annotations and class names"
        )
    figure = f"{accuracy.fp32:.4f} ± {accuracy.fp32_se:.4f}"
    checks = [Check("AP of the float engine", figure, f"more than {options.max_drop:g}", reason)]
    if options.expect_ap is not None:
        least = options.expect_ap - options.max_drop - accuracy.fp32_se
        reason = ""
        if accuracy.fp32 < least:
            reason = (
                f"the float engine itself is wrong: AP {figure} where {options.expect_ap:.4f} is expected; check "
                "normalisation, channel order, resizing and the order of the classes in model.json"
            )
        checks.append(Check("AP expected of the float engine", figure, f"at least {least:.4f}", reason))
    return checks


def _drop(accuracy: Accuracy, options: VerifyOptions) -> Check:
    figure = f"{accuracy.drop:+.4f} ± {accuracy.drop_se:.4f}"
    limit = allowed_drop(options.max_drop, accuracy.drop_se)
    reason = f"AP falls by {accuracy.drop:.4f} ± {accuracy.drop_se:.4f}, accepted are {options.max_drop:.4f}"
    return Check("loss of AP", figure, f"up to {limit:.4f}", reason if accuracy.drop > limit else "")


def _lost_classes(classes: Sequence[ClassDrop]) -> Check:
    lost = [
        entry
        for entry in classes
        if entry.objects >= _CLASS_OBJECTS
        and entry.drop > max(_CLASS_DROP, _CLASS_SHARE * entry.fp32)
        and (entry.drop_se is None or entry.drop > _CLASS_ERRORS * entry.drop_se)
    ]
    named = [f"'{entry.name}' falls from AP {entry.fp32:.3f} to {entry.candidate:.3f}" for entry in lost[:_LISTED]]
    return Check(
        "classes that are lost",
        str(len(lost)),
        "none",
        f"{len(lost)} classes are lost: {', '.join(named)}{', …' if len(lost) > _LISTED else ''}" if lost else "",
    )


def _labels(confused: Sequence[Confusion], classes: Sequence[str]) -> Check:
    named = [
        f"'{classes[entry.label]}' comes out as '{classes[entry.other]}' ({entry.confused} of {entry.detections})"
        for entry in confused[:_LISTED]
    ]
    reason = f"labels are mixed up: {', '.join(named)}{', …' if len(confused) > _LISTED else ''}" if confused else ""
    return Check("classes that come out as another", str(len(confused)), "none", reason)


def _matched(found: Drift, options: VerifyOptions) -> Check:
    reason = f"only {found.matched:.1%} of confident detections are found again, {options.min_matched:.0%} are asked"
    figure = f"{found.matched:.1%} of {found.detections}"
    asked = f"at least {options.min_matched:.0%}"
    name = "confident detections found again"
    return Check(name, figure, asked, reason if found.matched < options.min_matched else "")


def _layers(evidence: Evidence, options: VerifyOptions) -> Check:
    precision, execution = evidence.precision, evidence.execution
    count, weighted, share = execution[precision], execution["weighted"], execution["time_share"]
    figure = f"{count} of {weighted}" + ("" if share is None else f", {share:.0%} of the network's time")
    if not weighted and options.backend == "tensorrt":  # all of it fused into blocks that say nothing
        return Check(f"layers on {precision} kernels", "the engine does not say", "at least one")
    reason = "" if count else f"the engine runs no layer in {precision}"
    return Check(f"layers on {precision} kernels", figure, "at least one", reason)


def _norms(norms: Sequence[str]) -> Check:
    shown = ", ".join(norms[:_LISTED]) + (", …" if len(norms) > _LISTED else "")
    reason = f"the engine runs LayerNorm or softmax in int8: {shown}" if norms else ""
    return Check("LayerNorm and softmax on int8 kernels", str(len(norms)), "none", reason)


def _latency(evidence: Evidence, options: VerifyOptions) -> Check:
    ratio = time_ratio(evidence, "total_ms")
    reason = ""
    if ratio >= options.max_time_ratio:
        reason = (
            f"it is not fast enough: x{ratio:.2f} of the float time, less than x{options.max_time_ratio:.2f} is asked"
        )
    return Check("time against float", f"x{ratio:.2f}", f"less than x{options.max_time_ratio:.2f}", reason)

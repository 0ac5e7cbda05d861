"""A comparison as rows for people and as JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from edgedet import __version__
from edgedet.compare.run import ComparedImage, Comparison


def rows(found: Comparison) -> list[dict[str, str]]:
    """A fact a row, for a table with columns "", "A" and "B"."""
    (a, b), speed = found.facts, found.speed()
    table = [
        ("bundle", a["bundle"], b["bundle"]),
        ("model", a["name"], b["name"]),
        ("engine", f"{a['backend']} {a['precision']}", f"{b['backend']} {b['precision']}"),
        ("verified", a["verified"] or "-", b["verified"] or "-"),
        ("input", f"{a['input_width']}x{a['input_height']}", f"{b['input_width']}x{b['input_height']}"),
        ("classes", str(a["classes"]), str(b["classes"])),
        ("file MB", f"{a['file_bytes'] / 1e6:.2f}", f"{b['file_bytes'] / 1e6:.2f}"),
        ("p50 ms", f"{speed['a_p50_ms']:.2f}", f"{speed['b_p50_ms']:.2f}"),
    ]
    if found.accuracy is not None:
        table.append(("AP", f"{found.accuracy.fp32:.4f}", f"{found.accuracy.candidate:.4f}"))
    return [{"": name, "A": first, "B": second} for name, first, second in table]


def sentences(found: Comparison) -> list[str]:
    """What follows from it, a line each."""
    speed, agreement, classes = found.speed(), found.agreement, found.classes
    error = "" if math.isnan(speed["ratio_se"]) else f" ± {speed['ratio_se']:.3f}"
    lines = [f"time       B takes x{speed['ratio']:.3f}{error} of the time of A, by turns"]
    if found.accuracy is not None:
        gain = -found.accuracy.drop
        lines.append(f"AP         B {gain:+.4f} ± {found.accuracy.drop_se:.4f} against A, {len(found.images)} images")
    lines.append(
        f"agreement  {agreement.share:.1%} of {agreement.objects} objects with a score of {agreement.score:g} or more: "
        f"{agreement.agreed} agreed, {agreement.only_a} only A, {agreement.only_b} only B, "
        f"{agreement.renamed} under another name"
    )
    if agreement.agreed:
        lines.append(
            f"agreed on  boxes differ by {agreement.box_mean_px:.2f} px (p95 {agreement.box_p95_px:.2f}), "
            f"scores by {agreement.score_mean:.3f} (p95 {agreement.score_p95:.3f})"
        )
    for side, names in (("A", classes.only_a), ("B", classes.only_b)):
        if names:
            lines.append(f"classes    only {side} knows {_some(names)}: not compared")
    if found.not_judged:
        lines.append(f"classes    not in the AP, for a side does not know them: {_some(found.not_judged)}")
    return lines


def differences(image: ComparedImage) -> list[str]:
    """What differs in an image, a phrase each: "only A: person 0.92, dog 0.41"."""
    a, b, agreement = image.a, image.b, image.agreement
    phrases = []
    for side, found, places in (("A", a, agreement.only_a), ("B", b, agreement.only_b)):
        if places:
            names = ", ".join(f"{found.names[place]} {found.scores[place]:.2f}" for place in places)
            phrases.append(f"only {side}: {names}")
    if agreement.renamed:
        names = ", ".join(
            f"{a.names[i]} {a.scores[i]:.2f} / {b.names[j]} {b.scores[j]:.2f}" for i, j in agreement.renamed
        )
        phrases.append(f"A / B: {names}")
    return phrases


def as_json(found: Comparison, worst: Sequence[ComparedImage]) -> dict[str, Any]:
    """Everything but the pictures. Times are in milliseconds, boxes x0, y0, x1, y1 in pixels."""
    speed, accuracy, classes = found.speed(), found.accuracy, found.classes
    return {
        "edgedet": __version__,
        "a": found.facts[0],
        "b": found.facts[1],
        "images": len(found.images),
        "unreadable": list(found.unreadable),
        "classes": {
            "compared": list(classes.names),
            "only_a": list(classes.only_a),
            "only_b": list(classes.only_b),
            "not_judged": list(found.not_judged),
        },
        "speed": {
            "turns": int(found.milliseconds.shape[1]),
            **{key: None if math.isnan(value) else round(value, 5) for key, value in speed.items()},
        },
        "agreement": found.agreement.to_json(),
        "accuracy": None
        if accuracy is None
        else {
            "a_ap": round(accuracy.fp32, 5),
            "b_ap": round(accuracy.candidate, 5),
            "drop": round(accuracy.drop, 5),
            "drop_se": round(accuracy.drop_se, 5),
            "classes": [
                {"name": each.name, "objects": each.objects, "a_ap": each.fp32, "b_ap": each.candidate}
                for each in accuracy.classes
            ],
        },
        "worst": [_image(image) for image in worst],
    }


def _image(image: ComparedImage) -> dict[str, Any]:
    a, b, agreement = list(image.a), list(image.b), image.agreement

    def plain(found: Any) -> dict[str, Any]:
        return {"name": found.name, "score": round(found.score, 5), "box": [round(side, 2) for side in found.box]}

    return {
        "image": str(image.path),
        "severity": round(image.severity, 5),
        "agreed": len(agreement.pairs),
        "only_a": [plain(a[place]) for place in agreement.only_a],
        "only_b": [plain(b[place]) for place in agreement.only_b],
        "renamed": [{"a": plain(a[i]), "b": plain(b[j])} for i, j in agreement.renamed],
    }


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")

"""What the verdict asks for."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from calibration.render import BackendName
from edgedet import InvalidInputError
from edgedet.verdict import CANDIDATES


@dataclass(frozen=True, kw_only=True)
class VerifyOptions:
    """What the verdict asks for.

    Attributes:
        backend: where both models run.
        precision: which is judged; empty for the first of int8, bf16 and fp16 that the bundle has for the backend.
        max_drop: accepted loss of AP against the float model, in [0, 1]; see `calibration.gate.checks`.
        expect_ap: AP that the float model is known to have, in [0, 1]; None where it is not known.
        min_matched: smallest accepted share of confident float detections that the candidate finds too, in [0, 1].
        max_time_ratio: the candidate must need less than this share of the float time, end to end.
        limit: first images of the annotation file only, 0 for all.
        threads: CPU threads for both, 0 for the backend's choice.
        pictures: put the worst images into report.html.
    """

    backend: BackendName = "openvino"
    precision: str = ""
    max_drop: float = 0.01
    expect_ap: float | None = None
    min_matched: float = 0.9
    max_time_ratio: float = 1.0
    limit: int = 0
    threads: int = 0
    pictures: bool = True

    def __post_init__(self) -> None:
        """Check names and ranges."""
        if self.precision not in ("", *CANDIDATES):
            raise InvalidInputError(f"expected a precision among {', '.join(CANDIDATES)}, got {self.precision!r}")
        if not (0.0 <= self.max_drop <= 1.0 and 0.0 <= self.min_matched <= 1.0):
            raise InvalidInputError(f"expected max_drop and min_matched in [0, 1], got {self}")
        if self.expect_ap is not None and not 0.0 <= self.expect_ap <= 1.0:
            raise InvalidInputError(f"expected expect_ap in [0, 1], got {self.expect_ap}")
        if not self.max_time_ratio > 0.0:
            raise InvalidInputError(f"expected max_time_ratio > 0, got {self.max_time_ratio}")
        if self.limit < 0 or self.threads < 0:
            raise InvalidInputError(f"expected limit >= 0 and threads >= 0, got {self}")

    def limits(self) -> dict[str, float | None]:
        """The limits as they stand in report.json."""
        kept = ("max_drop", "expect_ap", "min_matched", "max_time_ratio")
        return {key: value for key, value in asdict(self).items() if key in kept}

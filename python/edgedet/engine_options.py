"""How engines are built for a device, and what became of one."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edgedet import _core
from edgedet._core import InvalidInputError
from edgedet.calibration_set import CalibrationFeed

_MAX_MB = 1 << 20
_MAX_BATCH = 4096


@dataclass(frozen=True)
class EngineOptions:
    """How TensorRT builds and runs an engine. OpenVINO builds none, and uses none of these.

    Attributes:
        device: Index of the GPU.
        workspace_mb: What layers may work in, MiB; less where less than twice of it is free.
        batch: Images in a call of the engine as (min, opt, max): what it must take (1, as detectors run single images),
            is tuned for, and takes at the most. None: as the mode says.
        dla_core: Of a Jetson; None: the GPU.
        memory_limit_mb: MiB of device memory that a build and, after it, a detector may take; None: no limit.
        calibrator: "entropy" or "minmax": int8 of a float model, with ranges from the bundle's calibration images.
            TensorRT before 11; an int8 model of ``python -m calibration quantize`` needs none.
        calibration_images: Folder of those images, where it is not the recorded one.
    """

    device: int = 0
    workspace_mb: int = 1024
    batch: tuple[int, int, int] | None = None
    dla_core: int | None = None
    memory_limit_mb: int | None = None
    calibrator: Literal["entropy", "minmax"] | None = None
    calibration_images: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        """Checks types and ranges."""
        _check_number("device", self.device, 0, 1024)
        _check_number("workspace_mb", self.workspace_mb, 1, _MAX_MB)
        if self.dla_core is not None:
            _check_number("dla_core", self.dla_core, 0, 1024)
        if self.memory_limit_mb is not None:
            _check_number("memory_limit_mb", self.memory_limit_mb, 1, _MAX_MB)
        if self.batch is not None:
            _check_batch(self.batch)
        if self.calibrator not in (None, "entropy", "minmax"):
            raise InvalidInputError(f"calibrator: expected entropy, minmax or None, got {self.calibrator!r}")
        if self.calibration_images is not None and self.calibrator is None:
            raise InvalidInputError("calibration_images: expected a calibrator that reads them, got None")


@dataclass(frozen=True)
class EngineInfo:
    """An engine that was built for this device.

    Attributes:
        path: Its file; None if it is kept nowhere.
        built: It was built now; else it was there already.
        bytes: Of the engine.
        seconds: Spent on building or reading it.
        workspace_mb: What the build worked in, MiB; 0 if it was there already.
    """

    path: str | None
    built: bool
    bytes: int
    seconds: float
    workspace_mb: int


def core_options(options: EngineOptions, bundle: Path) -> _core.EngineOptions:
    """The compiled module's form of the options for a bundle; the images of a calibration are read when it asks."""
    feed = None
    if options.calibrator is not None:
        folder = None if options.calibration_images is None else Path(options.calibration_images)
        feed = CalibrationFeed(bundle, _core.load_spec(str(bundle)), folder)
    return _core.EngineOptions(
        device=options.device,
        workspace_mb=options.workspace_mb,
        batch=options.batch or (0, 0, 0),
        dla_core=-1 if options.dla_core is None else options.dla_core,
        memory_limit_mb=options.memory_limit_mb or 0,
        calibrator=options.calibrator or "none",
        calibration_digest="" if feed is None else feed.digest,
        next_images=feed,
    )


def engine_info(core: dict[str, Any]) -> EngineInfo | None:
    """From the compiled module's form; None where the backend builds no engines."""
    if not core["bytes"]:
        return None
    return EngineInfo(core["path"] or None, core["built"], core["bytes"], core["seconds"], core["workspace_mb"])


def _check_number(name: str, value: object, least: int, most: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise InvalidInputError(f"{name}: expected a whole number from {least} to {most}, got {value!r}")


def _check_batch(batch: object) -> None:
    if (
        not isinstance(batch, tuple)
        or len(batch) != 3
        or not all(isinstance(size, int) and not isinstance(size, bool) for size in batch)
        or not 1 == batch[0] <= batch[1] <= batch[2] <= _MAX_BATCH
    ):
        raise InvalidInputError(f"batch: expected (1, opt, max) with 1 <= opt <= max <= {_MAX_BATCH}, got {batch!r}")

"""IInt8EntropyCalibrator2, fed with a bundle's recorded set through the runtime's own preprocessing."""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from calibration.calibrate import work_folder
from calibration.collect import Batch
from calibration.inputs import float_model, sample_batches
from calibration.sampling import read_sample
from calibration.tensorrt.memory import Upload, device_memory
from edgedet import BackendError, InvalidInputError
from edgedet.bundle import load_model_json
from edgedet.files import write_atomically


def entropy_calibrator(
    bundle: Path, *, batch: int = 8, images: Path | None = None, upload: Upload | None = None
) -> Any:
    """A calibrator for `IBuilderConfig.int8_calibrator`, of a class made from the installed `tensorrt`.

    Its cache lies in the bundle's work folder, in a file named after the sha256 of the float model, those of the
    images, the input settings, the batch and the version of TensorRT: another model or set never finds it.

    Args:
        bundle: bundle with a float model and a recorded sample.
        batch: images per call, >= 1; the model and the calibration profile must allow it. Images that do not fill the
            last batch are left out.
        images: folder of the calibration images, where it is not the recorded one.
        upload: copies an array to the device, `device_memory()` where not given.

    Raises:
        BackendError: TensorRT is not installed, or is 11 or newer, which has no calibrators.
        InvalidInputError: no sample, or fewer images than one batch.
    """
    tensorrt = _tensorrt()
    spec = load_model_json(bundle)
    sample = read_sample(bundle)
    count = len(sample.images) // batch if batch >= 1 else 0
    if count < 1:
        raise InvalidInputError(f"expected a batch from 1 to the {len(sample.images)} images of the set, got {batch}")
    folder = images or Path(sample.directory)
    depends_on = {
        "model": spec["files"][float_model(spec, "tensorrt")]["sha256"],
        "images": [image.sha256 for image in sample.images],
        "input": spec["input"],
        "batch": batch,
        "tensorrt": tensorrt.__version__,
    }
    digest = hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()
    cache = work_folder(bundle) / f"tensorrt-{digest[:20]}.cache"
    wide = int(tensorrt.__version__.split(".")[0]) >= 10
    feeds = islice(sample_batches(folder, sample, spec, batch=batch), count)
    return _make_class(tensorrt)(feeds, batch=batch, cache=cache, upload=upload or device_memory(), wide=wide)


def _make_class(tensorrt: Any) -> Any:
    class EntropyCalibrator(tensorrt.IInt8EntropyCalibrator2):  # type: ignore[misc]
        """TensorRT calls the four methods below."""

        def __init__(self, feeds: Iterator[Batch], *, batch: int, cache: Path, upload: Upload, wide: bool) -> None:
            tensorrt.IInt8EntropyCalibrator2.__init__(self)  # its bindings want the base named, not super()
            self.cache = cache
            self._feeds, self._batch, self._upload, self._wide = feeds, batch, upload, wide

        def get_batch_size(self) -> int:
            return self._batch

        def get_batch(self, names: list[str]) -> list[int] | None:
            """Device addresses of the next batch's inputs, in the order asked for; None where there is none left."""
            feed = next(self._feeds, None)
            if feed is None:
                return None
            missing = [name for name in names if name not in feed]
            if missing:
                raise InvalidInputError(
                    f"expected an engine of this bundle, got one with an input '{missing[0]}'; give the right ONNX file"
                )
            return [self._upload(_for_device(feed[name], wide=self._wide), name) for name in names]

        def read_calibration_cache(self) -> bytes | None:
            """What an earlier build wrote for the same model and set."""
            return self.cache.read_bytes() if self.cache.is_file() else None

        def write_calibration_cache(self, cache: Any) -> None:
            self.cache.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.cache, bytes(cache))

    return EntropyCalibrator


def _for_device(values: npt.NDArray[np.generic], *, wide: bool) -> npt.NDArray[np.generic]:
    """TensorRT before 10 has no int64: its parser makes such inputs int32."""
    narrow = values.astype(np.int32) if values.dtype == np.int64 and not wide else values
    return np.ascontiguousarray(narrow)


def _tensorrt() -> Any:
    try:
        tensorrt = importlib.import_module("tensorrt")
    except ImportError as cause:
        raise BackendError(
            "expected TensorRT's Python package, got none; install the one of your device's TensorRT "
            "(pip install 'edgedet[tensorrt]', on Jetson the package of JetPack)"
        ) from cause
    if not hasattr(tensorrt, "IInt8EntropyCalibrator2"):
        raise BackendError(
            f"expected TensorRT 8 to 10, got {tensorrt.__version__}, which has no calibrators; use the Q/DQ model "
            "that `quantize --backend tensorrt` makes"
        )
    return tensorrt

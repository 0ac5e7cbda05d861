"""Small object detectors, proven on the device they run on.

from edgedet import Detector
detections = Detector("femto.bundle")("street.jpg")
"""

from __future__ import annotations

try:
    from edgedet import _core
except ImportError as error:
    raise ImportError(
        f"the compiled module of edgedet does not load ({error}); it belongs to one release of openvino, so install "
        "edgedet again: pip install --force-reinstall",
    ) from error

from edgedet._core import (
    BackendError,
    BundleError,
    Error,
    ImageError,
    InvalidInputError,
    ModelError,
    backends,
    decode_logits,
    decode_scored,
    preprocess,
)
from edgedet.detections import Detection, Detections, StageTimes
from edgedet.detector import Detector
from edgedet.development import c_library, cmake_dir
from edgedet.engine_options import EngineInfo, EngineOptions
from edgedet.images import read_image
from edgedet.pipeline import DetectorInfo
from edgedet.tensorrt_libraries import library_folders
from edgedet.verdict import Verdict

__version__: str = _core.build_info()["version"]

# Before anything asks for a backend; they are opened when one does.
_core.set_library_folders(library_folders())

__all__ = [
    "BackendError",
    "BundleError",
    "Detection",
    "Detections",
    "Detector",
    "DetectorInfo",
    "EngineInfo",
    "EngineOptions",
    "Error",
    "ImageError",
    "InvalidInputError",
    "ModelError",
    "StageTimes",
    "Verdict",
    "__version__",
    "backends",
    "c_library",
    "cmake_dir",
    "decode_logits",
    "decode_scored",
    "preprocess",
    "read_image",
]

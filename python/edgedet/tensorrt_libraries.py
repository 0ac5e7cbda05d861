"""Where pip puts TensorRT's libraries, found without importing anything of theirs."""

from __future__ import annotations

import importlib.util
import os
from typing import Final

# Modules whose folders hold libnvinfer.so: by wheels of one CUDA version, of 8.6 and later, of 8.5.
_MODULES: Final = ("tensorrt_cu13_libs", "tensorrt_cu12_libs", "tensorrt_cu11_libs", "tensorrt_libs", "tensorrt")


def library_folders() -> list[str]:
    """Places to look for TensorRT in, in this order; an empty name is where the system's loader looks.

    That comes first: it is what JetPack and packages of the system have, what LD_LIBRARY_PATH overrides, and what the
    headers most likely came from. A place with another version is passed over, so a wheel of the right one is found.
    """
    folders = [""]
    for module in _MODULES:
        try:
            spec = importlib.util.find_spec(module)
        except (ImportError, ValueError):  # a stand-in in sys.modules without a spec
            continue
        places = [] if spec is None else (spec.submodule_search_locations or [])
        folders += [os.path.abspath(place) for place in places]
    return folders

// Tiles of large images in the Python module.
#pragma once

#include <pybind11/pybind11.h>

#include "edgedet/tiles.h"

namespace edgedet {

// Before what takes TileOptions.
void bind_tiles(pybind11::module_& module);

}  // namespace edgedet

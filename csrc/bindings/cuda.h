// The frame path in the Python module.
#pragma once

#include <pybind11/pybind11.h>

namespace edgedet {

void bind_cuda(pybind11::module_& module);

}  // namespace edgedet

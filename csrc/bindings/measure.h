// What `edgedet bench` needs of the module beside a detector: the sampler and what a report is made of.
#pragma once

#include <pybind11/pybind11.h>

namespace edgedet {

void bind_measure(pybind11::module_& module);

}  // namespace edgedet

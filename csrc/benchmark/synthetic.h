// A frame for when there is no image.
#pragma once

#include "benchmark/image.h"

namespace edgedet::bench {

// Coarse random patches, the same every time; an even grey would let caches look too good.
Image synthetic_frame(std::int32_t width, std::int32_t height);

}  // namespace edgedet::bench

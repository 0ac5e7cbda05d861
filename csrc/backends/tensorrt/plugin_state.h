// What a plan keeps of a plugin: words that are checked when they are read, for a plan comes from a file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/deformable_attention_cuda.h"

namespace edgedet::tensorrt {

// A version, heads, channels, layers, layer, the number of levels, and height, width and points of each.
std::vector<std::int32_t> write_state(const cuda::DeformableSpec& spec);

// From memory at any address. Throws Error(kBackend) on another version or size, or values out of range.
cuda::DeformableSpec read_state(const void* data, std::size_t bytes);

}  // namespace edgedet::tensorrt

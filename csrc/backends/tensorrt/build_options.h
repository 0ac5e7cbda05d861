// How an engine is built. Without TensorRT's headers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "edgedet/engine.h"

namespace edgedet::tensorrt {

enum class Precision : std::uint8_t {
  kFp32,
  kFp16,   // a float model, in half precision where TensorRT likes: before 11
  kInt8,   // a float model with a calibrator, or one with Q/DQ, in int8 where TensorRT likes: before 11
  kTyped,  // what the ONNX file says: strongly typed from 10 on, before with the flags that its types ask for
};

// Ranges for int8 from images: before 11.
struct Calibration {
  enum class Method : std::uint8_t { kEntropy, kMinMax };
  Method method = Method::kEntropy;
  int batch = 1;
  // Writes the next batch, (batch, 3, height, width) as preprocess gives, `values` numbers; false at the end.
  std::function<bool(float* images, std::size_t values)> next;
  // Ranges of an earlier calibration, empty if there are none. May be null.
  std::function<std::string()> read_cache;
  std::function<void(std::string_view cache)> write_cache;  // may be null
  // Of the images, e.g. their digest; part of the engine's key. Empty: there is no calibration.
  std::string identity;
};

struct BuildOptions {
  Precision precision = Precision::kFp32;
  bool tf32 = false;  // kFp32 and float32 layers may round what they multiply to 10 bits
  std::size_t workspace_bytes = std::size_t{1} << 30U;  // a build takes less where less is free
  std::size_t memory_limit = 0;                         // bytes of device memory; 0: none
  // Images in a batch; where the model's batch axis is free.
  int min_batch = 1;
  int opt_batch = 1;
  int max_batch = 1;
  int dla_core = -1;  // of a Jetson; -1: none
  int device = 0;
  std::vector<std::string> outputs;       // others are left out; empty: all
  std::vector<std::string> float_layers;  // before 10: kept in float32, by the names of the ONNX file's nodes
  Calibration calibration;
  // Not part of the engine's key.
  std::string timing_cache;  // a file that is read and written; empty: none
  BuildProgress progress;    // before 10 of calibration alone; may be null
};

// All that decides what the engine is, one form for equal options. Throws Error(kInvalidInput) on options out of range.
std::string canonical_text(const BuildOptions& options);

}  // namespace edgedet::tensorrt

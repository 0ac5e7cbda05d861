// TensorRT's libraries, opened when they are first needed: edgedet links none of them.
#pragma once

#include <memory>
#include <string>

#include "backends/tensorrt/nv.h"

namespace edgedet::tensorrt {

class Library {
 public:
  virtual ~Library() = default;

  virtual const std::string& version() const noexcept = 0;  // e.g. "8.6.1"
  virtual const std::string& path() const noexcept = 0;     // the file that was opened

  // Each throws Error(kBackend) if TensorRT gives none. They log to `logger()`.
  virtual std::unique_ptr<nvinfer1::IRuntime> make_runtime() const = 0;
  virtual std::unique_ptr<nvinfer1::IBuilder> make_builder() const = 0;
  // Opens the parser and what only a build needs.
  virtual std::unique_ptr<nvonnxparser::IParser> make_parser(nvinfer1::INetworkDefinition& network) const = 0;

  // Opens TensorRT's own plugins, which few plans need; whether they are there.
  virtual bool load_plugins() const = 0;
};

// Opened once, from the first of the places of set_library_folders that has one of the right version; a failure is
// tried again at the next call. Thread-safe. Throws Error(kBackend) if there is no CUDA device, no library, or none of
// the version of the headers that edgedet was built with.
const Library& library();

// Whether `library` would give one; `reason` (may be null) then says why not.
bool available(std::string* reason) noexcept;

}  // namespace edgedet::tensorrt

// The one exception type of the C++ API.
#pragma once

#include <stdexcept>
#include <string>

namespace edgedet {

// What went wrong, so that a caller (and the Python binding) can tell cases apart without parsing text.
enum class ErrorKind {
  kInvalidInput,  // an argument or an image the caller passed
  kBundle,        // model.json, a file of the bundle, its sha256, its version
  kModel,         // the network: shapes, names, NaN in its output
  kBackend,       // a backend that is unavailable or failed
  kImage,         // an image file that cannot be decoded
};

// Every message says what was expected, what was got and how to mend it.
class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& message) : std::runtime_error(message), kind_(kind) {}
  ErrorKind kind() const noexcept { return kind_; }

 private:
  ErrorKind kind_;
};

}  // namespace edgedet

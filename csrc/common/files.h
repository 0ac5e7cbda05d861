// Whole files: read within a limit, written so that no reader ever sees half of one.
#pragma once

#include <cstddef>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <unistd.h>

namespace edgedet {

// A file descriptor with one owner.
class Descriptor {
 public:
  explicit Descriptor(int number) : number_(number) {}
  ~Descriptor() {
    if (number_ >= 0) {
      static_cast<void>(::close(number_));
    }
  }
  Descriptor(Descriptor&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
  Descriptor& operator=(Descriptor&&) = delete;

  int get() const noexcept { return number_; }
  explicit operator bool() const noexcept { return number_ >= 0; }

 private:
  int number_;
};

// Nothing if it is not there, not a regular file, not readable or larger than `max_bytes`.
std::optional<std::vector<char>> read_file(const std::string& path, std::size_t max_bytes);

// `parts` one behind the other, on the disk before the file has its name. Throws Error(kBackend).
void write_file(const std::string& path, std::initializer_list<std::string_view> parts);

}  // namespace edgedet

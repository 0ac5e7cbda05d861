#include "common/files.h"

#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <system_error>

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "edgedet/error.h"

namespace edgedet {
namespace {

[[noreturn]] void fail(const std::string& path, const char* what) {
  throw Error(ErrorKind::kBackend, path + ": expected to " + what + ", got \"" +
                                       std::generic_category().message(errno) +
                                       "\"; check the folder's rights and the space on its disk");
}

// Removes a file unless it was renamed.
class Unfinished {
 public:
  explicit Unfinished(std::string path) : path_(std::move(path)) {}
  ~Unfinished() {
    if (!path_.empty()) {
      static_cast<void>(::unlink(path_.c_str()));
    }
  }
  Unfinished(const Unfinished&) = delete;
  Unfinished& operator=(const Unfinished&) = delete;

  void keep() { path_.clear(); }

 private:
  std::string path_;
};

void write_all(const Descriptor& file, std::string_view data, const std::string& path) {
  while (!data.empty()) {
    const ssize_t written = ::write(file.get(), data.data(), data.size());
    if (written < 0 && errno == EINTR) {
      continue;
    }
    if (written < 0) {
      fail(path, "write it");
    }
    data.remove_prefix(static_cast<std::size_t>(written));
  }
}

}  // namespace

std::optional<std::vector<char>> read_file(const std::string& path, std::size_t max_bytes) {
  // Non-blocking: a pipe in its place must not hold us up.
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  struct stat status{};
  if (!file || ::fstat(file.get(), &status) != 0 || !S_ISREG(status.st_mode) || status.st_size < 0 ||
      static_cast<std::size_t>(status.st_size) > max_bytes) {
    return std::nullopt;
  }
  std::vector<char> data(static_cast<std::size_t>(status.st_size));
  std::size_t filled = 0;
  while (filled < data.size()) {
    const ssize_t got = ::read(file.get(), data.data() + filled, data.size() - filled);
    if (got < 0 && errno == EINTR) {
      continue;
    }
    if (got <= 0) {
      return std::nullopt;  // it shrank while it was read, or cannot be read
    }
    filled += static_cast<std::size_t>(got);
  }
  return data;
}

void write_file(const std::string& path, std::initializer_list<std::string_view> parts) {
  std::string temporary = path + ".XXXXXX";
  const Descriptor file(::mkostemp(temporary.data(), O_CLOEXEC));
  if (!file) {
    fail(path, "create a file beside it");
  }
  Unfinished unfinished(temporary);
  for (const std::string_view part : parts) {
    write_all(file, part, path);
  }
  if (::fsync(file.get()) != 0) {
    fail(path, "write it to the disk");
  }
  if (std::rename(temporary.c_str(), path.c_str()) != 0) {
    fail(path, "put it in its place");
  }
  unfinished.keep();
  // The name, too. Not every file system can do that for a folder, and the file is whole in any case.
  const std::string folder = std::filesystem::path(path).parent_path().string();
  const Descriptor directory(::open(folder.empty() ? "." : folder.c_str(), O_RDONLY | O_CLOEXEC | O_DIRECTORY));
  if (directory) {
    static_cast<void>(::fsync(directory.get()));
  }
}

}  // namespace edgedet

#include "runtime/engine_cache.h"

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string_view>
#include <system_error>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "common/files.h"
#include "common/sha256.h"
#include "edgedet/error.h"

namespace edgedet {
namespace {

namespace fs = std::filesystem;

// An entry: the magic word, the key, the plan's size as 16 hexadecimal digits, its SHA-256, then the plan.
constexpr std::string_view kMagic = "edgedet engine 1\n";
constexpr std::size_t kDigestLength = 64;
constexpr std::size_t kSizeLength = 16;
constexpr std::size_t kHeaderLength = kMagic.size() + kDigestLength + kSizeLength + kDigestLength;
constexpr std::size_t kMaxEntryBytes = (std::size_t{4} << 30U) + kHeaderLength;

std::string sha256(std::string_view data) {
  Sha256 hash;
  hash.update(data.data(), data.size());
  return hash.hex_digest();
}

std::string hex(std::uint64_t value) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string text(kSizeLength, '0');
  for (std::size_t i = kSizeLength; i-- > 0; value >>= 4U) {
    text[i] = kDigits[value & 0xFU];
  }
  return text;
}

std::string header(const std::string& digest, std::string_view plan) {
  return std::string(kMagic) + digest + hex(plan.size()) + sha256(plan);
}

// The plan of the entry at `path`; nothing unless all of it is as it was written for `digest`.
std::optional<std::vector<char>> load(const std::string& path, const std::string& digest) {
  std::optional<std::vector<char>> entry = read_file(path, kMaxEntryBytes);
  if (!entry || entry->size() <= kHeaderLength) {
    return std::nullopt;
  }
  const std::string_view all(entry->data(), entry->size());
  // What the header must be follows from the rest: no length in the file is ever used.
  if (all.substr(0, kHeaderLength) != header(digest, all.substr(kHeaderLength))) {
    return std::nullopt;
  }
  entry->erase(entry->begin(), entry->begin() + static_cast<std::ptrdiff_t>(kHeaderLength));
  return entry;
}

[[noreturn]] void fail(const std::string& path, const std::string& what, const std::string& reason) {
  throw Error(ErrorKind::kBackend, path + ": expected " + what + " for engines, got \"" + reason +
                                       "\"; choose a folder that can be written to");
}

void make_folder(const std::string& folder) {
  std::error_code failed;
  const bool made = fs::create_directories(folder, failed);
  if (failed) {
    fail(folder, "a folder", failed.message());
  }
  if (made) {
    static_cast<void>(::chmod(folder.c_str(), S_IRWXU));
  }
}

// Sleeps until no other thread or process holds the lock, which closing ends.
Descriptor lock(const std::string& path) {
  Descriptor file(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, S_IRUSR | S_IWUSR));
  if (!file) {
    fail(path, "a lock file", std::generic_category().message(errno));
  }
  while (::flock(file.get(), LOCK_EX) != 0) {
    if (errno != EINTR) {
      fail(path, "a lock", std::generic_category().message(errno));
    }
  }
  return file;
}

// What a process that was killed has left of the entry at `path`: only who holds the lock writes one.
void remove_unfinished(const std::string& path) {
  const std::string start = fs::path(path).filename().string() + ".";
  std::error_code failed;
  for (fs::directory_iterator entry(fs::path(path).parent_path(), failed), end; !failed && entry != end;
       entry.increment(failed)) {
    const std::string name = entry->path().filename().string();
    std::error_code kept;  // then it is in nobody's way
    if (name.rfind(start, 0) == 0 && name != start + "lock") {
      fs::remove(entry->path(), kept);
    }
  }
}

}  // namespace

EngineKey& EngineKey::add(std::string_view name, std::string_view value) {
  // With its length: no value can pass for the end of one and the beginning of the next.
  text_.append(name).append(" ").append(std::to_string(value.size())).append(" ").append(value).append("\n");
  return *this;
}

std::string EngineKey::digest() const { return sha256(text_); }

std::string engine_path(const EngineKey& key, const std::string& folder) {
  return (fs::path(folder) / (key.digest() + ".engine")).string();
}

bool is_kept(const EngineKey& key, const std::string& folder) {
  const std::string path = engine_path(key, folder);
  std::error_code failed;
  const std::uintmax_t size = folder.empty() ? 0 : fs::file_size(path, failed);
  if (failed || size <= kHeaderLength) {
    return false;
  }
  const std::string expected = std::string(kMagic) + key.digest() + hex(size - kHeaderLength);
  std::string begin(expected.size(), '\0');
  std::ifstream(path, std::ios::binary).read(begin.data(), static_cast<std::streamsize>(begin.size()));
  return begin == expected;
}

std::vector<char> load_or_build(const EngineKey& key, const std::string& folder,
                                const std::function<std::vector<char>()>& build) {
  if (folder.empty()) {
    return build();
  }
  const std::string digest = key.digest();
  const std::string path = engine_path(key, folder);
  if (std::optional<std::vector<char>> plan = load(path, digest)) {
    return std::move(*plan);
  }
  make_folder(folder);
  const Descriptor held = lock(path + ".lock");
  if (std::optional<std::vector<char>> plan = load(path, digest)) {
    return std::move(*plan);  // by who held the lock before
  }
  remove_unfinished(path);
  std::vector<char> plan = build();
  const std::string_view view(plan.data(), plan.size());
  write_file(path, {header(digest, view), view});
  return plan;
}

}  // namespace edgedet

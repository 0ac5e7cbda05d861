// What is said of files under TensorRT's name that are no TensorRT, on host_cuda, which has a device.
// EDGEDET_BOGUS_NOTHING, EDGEDET_BOGUS_OLD: libraries of bogus_nvinfer.cpp.
#include <filesystem>
#include <fstream>
#include <string>

#include <unistd.h>

#include "backends/tensorrt/library.h"
#include "backends/tensorrt/tensorrt_backend.h"
#include "check.h"

using namespace edgedet;            // NOLINT(google-build-using-namespace)
using namespace edgedet::tensorrt;  // NOLINT(google-build-using-namespace)

namespace {

namespace fs = std::filesystem;

// A folder whose libnvinfer is `content`, or a copy of `library` where that is given.
class BogusFolder {
 public:
  BogusFolder(const std::string& name, const std::string& content, const std::string& library = "")
      : path_(fs::temp_directory_path() / ("edgedet_" + name + std::to_string(::getpid()))) {
    fs::create_directories(path_);
    const fs::path file = path_ / ("libnvinfer.so." + std::to_string(nv::kMajor));
    if (library.empty()) {
      std::ofstream(file, std::ios::binary) << content;
    } else {
      fs::copy_file(library, file, fs::copy_options::overwrite_existing);
    }
    set_library_folders({path_.string()});
  }
  ~BogusFolder() {
    set_library_folders({});
    fs::remove_all(path_);
  }
  BogusFolder(const BogusFolder&) = delete;
  BogusFolder& operator=(const BogusFolder&) = delete;

 private:
  fs::path path_;
};

bool says(const std::string& part) {
  std::string reason;
  if (available(&reason) || probe(0).available || reason.find('\n') != std::string::npos) {
    return false;
  }
  return reason.find(part) != std::string::npos && probe(0).detail == reason;
}

}  // namespace

TEST(an_empty_file_is_no_library) {
  const BogusFolder folder("empty", "");
  CHECK(says("file too short"));
  CHECK(says("install TensorRT"));
}

TEST(a_text_file_is_no_library) {
  const BogusFolder folder("text", "INPUT(libnvinfer.so)\n and more than a header has, which is sixty-four bytes\n");
  CHECK(says("invalid ELF header"));
}

TEST(a_library_without_the_symbols_is_refused) {
  const BogusFolder folder("nothing", "", EDGEDET_BOGUS_NOTHING);
  CHECK(says("expected TensorRT's function getInferLibVersion, got a library without it"));
}

TEST(a_library_of_another_version_is_refused) {
  const BogusFolder folder("old", "", EDGEDET_BOGUS_OLD);
  CHECK(says(" of TensorRT 7.0.0; install TensorRT"));
}

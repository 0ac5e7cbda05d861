#include "backends/tensorrt/library.h"

#include <cstdint>
#include <exception>
#include <filesystem>
#include <mutex>
#include <system_error>
#include <utility>
#include <vector>

#include <dlfcn.h>

#include "backends/tensorrt/logger.h"
#include "backends/tensorrt/plugins.h"
#include "edgedet/engine.h"
#include "edgedet/error.h"
#include "frame/device.h"

namespace edgedet::tensorrt {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void refuse(const std::string& message) { throw Error(ErrorKind::kBackend, message); }

struct Close {
  void operator()(void* handle) const noexcept { static_cast<void>(dlclose(handle)); }
};
using Handle = std::unique_ptr<void, Close>;

// `base` is "nvinfer" and the like; an empty folder is where the system's loader looks. Null if it is not there;
// `reason` (may be null) is then what the loader said first.
Handle open(const std::string& base, const std::string& folder, std::string* reason) {
  const std::string plain = "lib" + base + ".so";
  const std::string before = folder.empty() ? "" : folder + "/";
  std::string first;
  for (const std::string& name : {before + plain + "." + std::to_string(nv::kMajor), before + plain}) {
    // Lazily: the libraries of TensorRT 8 name functions of cuBLAS and cuDNN that are never called here.
    Handle handle(dlopen(name.c_str(), RTLD_LAZY | RTLD_GLOBAL));
    if (handle) {
      return handle;
    }
    const char* const error = dlerror();
    if (first.empty() && error != nullptr) {
      first = error;
    }
  }
  if (reason != nullptr) {
    *reason = first;
  }
  return nullptr;
}

// The file that `address` was loaded from.
std::string file_of(const void* address) {
  Dl_info info{};
  return dladdr(address, &info) != 0 && info.dli_fname != nullptr ? info.dli_fname : "an unknown place";
}

template <typename Function>
Function* function(const Handle& handle, const char* name) {
  void* const found = dlsym(handle.get(), name);
  if (found == nullptr) {
    refuse(std::string("expected TensorRT's function ") + name + ", got a library without it; install TensorRT " +
           std::to_string(nv::kMajor) + "." + std::to_string(nv::kMinor) + " again");
  }
  return reinterpret_cast<Function*>(found);
}

using Create = void*(void* logger, std::int32_t version);
using CreateParser = void*(void* network, void* logger, int version);
using GetRegistry = nvinfer1::IPluginRegistry*();
using InitPlugins = bool(void* logger, const char* plugin_namespace);

// A library of another minor version has other class layouts behind the same names.
std::string checked_version(const Handle& handle) {
  auto* const ask = function<std::int32_t()>(handle, "getInferLibVersion");
  const nv::Version found = nv::decode_version(ask());
  const std::string text =
      std::to_string(found.major) + "." + std::to_string(found.minor) + "." + std::to_string(found.patch);
  if (found.major != nv::kMajor || found.minor != nv::kMinor) {
    const std::string expected = std::to_string(nv::kMajor) + "." + std::to_string(nv::kMinor);
    refuse("expected TensorRT " + expected + ", which edgedet was built for, got " +
           file_of(reinterpret_cast<const void*>(ask)) + " of TensorRT " + text + "; install TensorRT " + expected +
           " or build edgedet with the headers of " + text);
  }
  return text;
}

// Never destroyed: TensorRT's threads and statics must not lose their code.
class OpenLibrary final : public Library {
 public:
  OpenLibrary(Handle infer, std::string folder)
      : infer_(std::move(infer)),
        folder_(std::move(folder)),
        version_(checked_version(infer_)),
        path_(file_of(dlsym(infer_.get(), "getInferLibVersion"))),
        create_runtime_(function<Create>(infer_, "createInferRuntime_INTERNAL")),
        // The library that only runs engines has no builder; make_builder says so.
        create_builder_(reinterpret_cast<Create*>(dlsym(infer_.get(), "createInferBuilder_INTERNAL"))) {
    nvinfer1::IPluginRegistry* const registry = function<GetRegistry>(infer_, "getPluginRegistry")();
    if (registry == nullptr) {
      refuse("expected TensorRT's plugin registry, got none; install TensorRT " + version_ + " again");
    }
    register_plugins(*registry);  // before anything is parsed or read
  }

  const std::string& version() const noexcept override { return version_; }
  const std::string& path() const noexcept override { return path_; }

  std::unique_ptr<nvinfer1::IRuntime> make_runtime() const override {
    return create<nvinfer1::IRuntime>(create_runtime_, "runtime");
  }

  std::unique_ptr<nvinfer1::IBuilder> make_builder() const override {
    if (create_builder_ == nullptr) {
      refuse("expected a TensorRT that builds engines, got one that only runs them; install the full TensorRT " +
             version_);
    }
    open_builder_resources();
    return create<nvinfer1::IBuilder>(create_builder_, "builder");
  }

  std::unique_ptr<nvonnxparser::IParser> make_parser(nvinfer1::INetworkDefinition& network) const override {
    load_plugins();  // what the parser needs of them it finds loaded, wherever they lie
    const std::uint64_t mark = logger().mark();
    void* const made = parser()(&network, &logger(), NV_ONNX_PARSER_VERSION);
    if (made == nullptr) {
      refuse("expected an ONNX parser, got none; check that libnvonnxparser is of TensorRT " + version_ +
             said_since(mark));
    }
    return std::unique_ptr<nvonnxparser::IParser>(static_cast<nvonnxparser::IParser*>(made));
  }

  bool load_plugins() const override {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!plugins_) {
      plugins_ = open("nvinfer_plugin", nullptr);
      if (plugins_) {
        static_cast<void>(function<InitPlugins>(plugins_, "initLibNvInferPlugins")(&logger(), ""));
      }
    }
    return plugins_ != nullptr;
  }

 private:
  template <typename Object>
  std::unique_ptr<Object> create(Create* make, const char* what) const {
    const std::uint64_t mark = logger().mark();
    void* const made = make(&logger(), NV_TENSORRT_VERSION);
    if (made == nullptr) {
      refuse(std::string("expected a TensorRT ") + what + ", got none; check the driver and the free memory" +
             said_since(mark));
    }
    return std::unique_ptr<Object>(static_cast<Object*>(made));
  }

  // From the same folder, or where the system's loader finds it.
  Handle open(const char* base, std::string* reason) const {
    Handle handle = tensorrt::open(base, folder_, reason);
    return handle || folder_.empty() ? std::move(handle) : tensorrt::open(base, "", nullptr);
  }

  CreateParser* parser() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!parser_) {
      std::string reason;
      parser_ = open("nvonnxparser", &reason);
      if (!parser_) {
        refuse("expected libnvonnxparser of TensorRT " + version_ + ", got: " + reason +
               "; install TensorRT's ONNX parser");
      }
    }
    return function<CreateParser>(parser_, "createNvOnnxParser_INTERNAL");
  }

  // The builder opens these by their bare names, which are not found in a folder that the system does not know.
  void open_builder_resources() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (folder_.empty() || !resources_.empty()) {
      return;
    }
    std::error_code failed;
    for (fs::directory_iterator entry(folder_, failed), end; !failed && entry != end; entry.increment(failed)) {
      if (entry->path().filename().string().rfind("libnvinfer_builder_resource", 0) == 0) {
        Handle handle(dlopen(entry->path().c_str(), RTLD_LAZY | RTLD_GLOBAL));
        if (handle) {
          resources_.push_back(std::move(handle));
        }
      }
    }
  }

  Handle infer_;
  std::string folder_;
  std::string version_;
  std::string path_;
  Create* create_runtime_;
  Create* create_builder_;
  mutable std::mutex mutex_;
  mutable Handle plugins_;
  mutable Handle parser_;
  mutable std::vector<Handle> resources_;
};

struct State {
  std::mutex mutex;
  std::vector<std::string> folders{""};
  const OpenLibrary* open = nullptr;
};

State& state() {
  static auto* instance = new State;
  return *instance;
}

}  // namespace

const Library& library() {
  State& here = state();
  const std::lock_guard<std::mutex> lock(here.mutex);
  if (here.open != nullptr) {
    return *here.open;
  }
  std::string reason;
  // First: without a driver some versions crash as soon as a runtime is made.
  if (frame::device_count(&reason) == 0) {
    refuse("expected a CUDA device for TensorRT, got none: " + reason +
           "; check the driver with nvidia-smi, or use openvino");
  }
  std::string wrong;   // the first of another version
  std::string absent;  // what the loader said of the first place
  for (const std::string& folder : here.folders) {
    Handle infer = open("nvinfer", folder, &reason);
    if (!infer) {
      absent = absent.empty() ? reason : absent;
      continue;
    }
    try {
      here.open = new OpenLibrary(std::move(infer), folder);
      return *here.open;
    } catch (const Error& error) {
      wrong = wrong.empty() ? error.what() : wrong;  // another place may have the right one
    }
  }
  const std::string version = std::to_string(nv::kMajor) + "." + std::to_string(nv::kMinor);
  refuse(!wrong.empty()
             ? wrong
             : "expected libnvinfer.so." + std::to_string(nv::kMajor) + ", got: " + absent + "; install TensorRT " +
                   version + " or add its folder to the places that the system's loader knows");
}

bool available(std::string* reason) noexcept {
  try {
    static_cast<void>(library());
    return true;
  } catch (const std::exception& error) {
    if (reason != nullptr) {
      try {
        *reason = error.what();
      } catch (const std::exception&) {
        reason->clear();  // out of memory
      }
    }
    return false;
  }
}

}  // namespace edgedet::tensorrt

void edgedet::set_library_folders(const std::vector<std::string>& folders) {
  tensorrt::State& here = tensorrt::state();
  const std::lock_guard<std::mutex> lock(here.mutex);
  here.folders = folders;
}

// The stand-in for TensorRT, opened for a test program. EDGEDET_FAKE_TENSORRT: the folder of its libraries.
#pragma once

#include <string>

#include <dlfcn.h>

#include "backends/tensorrt/library.h"
#include "edgedet/engine.h"
#include "fake_tensorrt.h"

namespace edgedet::test::fake {

// The library's side of the calls, with this program's CUDA in it.
inline Calls& opened() {
  static Calls* const instance = [] {
    set_library_folders({"/nowhere", EDGEDET_FAKE_TENSORRT});
    static_cast<void>(tensorrt::library());
    void* const handle =
        dlopen((std::string(EDGEDET_FAKE_TENSORRT) + "/libnvinfer.so.10").c_str(), RTLD_LAZY | RTLD_NOLOAD);
    auto* const found = reinterpret_cast<GetCalls*>(dlsym(handle, "edgedet_fake_calls"))();
    found->copy = cudaMemcpyAsync;
    found->fill = cudaMemsetAsync;
    return found;
  }();
  return *instance;
}

}  // namespace edgedet::test::fake

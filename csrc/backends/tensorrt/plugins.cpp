#include "backends/tensorrt/plugins.h"

#include "backends/tensorrt/attention_plugin.h"
#include "backends/tensorrt/plugin_nv.h"

namespace edgedet::tensorrt {

void register_plugins(nvinfer1::IPluginRegistry& registry) {
  // Never destroyed: the registry keeps it as long as the process lives.
  static auto* const attention = new nv::Creator<AttentionPlugin>;
  static_cast<void>(registry.registerCreator(*attention, ""));
}

}  // namespace edgedet::tensorrt

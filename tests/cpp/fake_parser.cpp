// A stand-in for libnvonnxparser.so.10: makes a network of a file that begins with "network", and refuses others.
#include <cstdlib>
#include <string_view>

#include <NvInfer.h>
#include <NvOnnxParser.h>

#include "fake_tensorrt.h"

namespace {

using namespace nvinfer1;             // NOLINT(google-build-using-namespace)
using namespace edgedet::test::fake;  // NOLINT(google-build-using-namespace)

class ParserError final : public nvonnxparser::IParserError {
  nvonnxparser::ErrorCode code() const override { return nvonnxparser::ErrorCode::kUNSUPPORTED_NODE; }
  const char* desc() const override { return "no such operator"; }
  const char* file() const override { return ""; }
  int line() const override { return 0; }
  const char* func() const override { return ""; }
  int node() const override { return 7; }
  const char* nodeName() const override { return "/decoder/sample"; }
  const char* nodeOperator() const override { return "GridSample"; }
  const char* const* localFunctionStack() const override { return nullptr; }
  int32_t localFunctionStackSize() const override { return 0; }
};

class Parser final : public nvonnxparser::IParser {
 public:
  explicit Parser(INetworkDefinition& network) : network_(network) {}

  bool parse(const void* model, std::size_t size, const char* /*path*/) noexcept override {
    failed_ = std::string_view(static_cast<const char*>(model), size).substr(0, 7) != "network";
    if (!failed_) {
      Dims dims{};
      dims.nbDims = 4;
      dims.d[0] = -1;
      dims.d[1] = 3;
      dims.d[2] = kHeight;
      dims.d[3] = kWidth;
      ITensor& images = *network_.addInput("images", DataType::kFLOAT, dims);
      for (const char* name : {"logits", "boxes", "aux"}) {
        ITensor& output = *network_.addIdentity(images)->getOutput(0);
        output.setName(name);
        network_.markOutput(output);
      }
    }
    return !failed_;
  }
  int getNbErrors() const noexcept override { return failed_ ? 1 : 0; }
  const nvonnxparser::IParserError* getError(int /*index*/) const noexcept override { return &error_; }

  bool parseFromFile(const char*, int) noexcept override { std::abort(); }
  bool supportsModel(const void*, std::size_t, SubGraphCollection_t&, const char*) noexcept override { std::abort(); }
  bool parseWithWeightDescriptors(const void*, std::size_t) noexcept override { std::abort(); }
  bool supportsOperator(const char*) const noexcept override { std::abort(); }
  void clearErrors() noexcept override { std::abort(); }
  const char* const* getUsedVCPluginLibraries(int64_t&) const noexcept override { std::abort(); }
  void setFlags(nvonnxparser::OnnxParserFlags) noexcept override { std::abort(); }
  nvonnxparser::OnnxParserFlags getFlags() const noexcept override { std::abort(); }
  void clearFlag(nvonnxparser::OnnxParserFlag) noexcept override { std::abort(); }
  void setFlag(nvonnxparser::OnnxParserFlag) noexcept override { std::abort(); }
  bool getFlag(nvonnxparser::OnnxParserFlag) const noexcept override { std::abort(); }
  const ITensor* getLayerOutputTensor(const char*, int64_t) noexcept override { std::abort(); }
  bool supportsModelV2(const void*, std::size_t, const char*) noexcept override { std::abort(); }
  int64_t getNbSubgraphs() noexcept override { std::abort(); }
  bool isSubgraphSupported(int64_t) noexcept override { std::abort(); }
  int64_t* getSubgraphNodes(int64_t, int64_t&) noexcept override { std::abort(); }
  bool loadModelProto(const void*, std::size_t, const char*) noexcept override { std::abort(); }
  bool loadInitializer(const char*, const void*, std::size_t) noexcept override { std::abort(); }
  bool parseModelProto() noexcept override { std::abort(); }
  bool setBuilderConfig(const IBuilderConfig*) noexcept override { std::abort(); }

 private:
  INetworkDefinition& network_;
  bool failed_ = false;
  ParserError error_;
};

}  // namespace

extern "C" __attribute__((visibility("default"))) void* createNvOnnxParser_INTERNAL(void* network, void* /*logger*/,
                                                                                    int /*version*/) noexcept {
  return new Parser(*static_cast<INetworkDefinition*>(network));
}

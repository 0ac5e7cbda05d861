// The plugin interfaces of TensorRT's versions around one operator: IPluginV2DynamicExt, all that there is before 10,
// and IPluginV3. As nv.h, it asks for versions so that no other file has to.
//
// `Operator` is a copyable class such as AttentionPlugin. Nothing throws across TensorRT's functions: what goes wrong
// is in the log, which messages of edgedet quote.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <string>
#include <utility>
#include <vector>

#include "backends/tensorrt/logger.h"
#include "backends/tensorrt/nv.h"

namespace edgedet::tensorrt::nv {

// What `body` returns, or `otherwise` after an exception.
template <typename Body, typename Result>
Result guarded(Body&& body, Result otherwise) noexcept {
  try {
    return body();
  } catch (const std::exception& error) {
    logger().log(nvinfer1::ILogger::Severity::kERROR, error.what());
  } catch (...) {
    logger().log(nvinfer1::ILogger::Severity::kERROR, "a plugin of edgedet failed");
  }
  return otherwise;
}

// 0, or 1 after an exception, as TensorRT counts.
template <typename Body>
std::int32_t status(Body&& body) noexcept {
  return guarded(
      [&] {
        body();
        return 0;
      },
      1);
}

// What TensorRT asks a creator for.
template <typename Operator>
const nvinfer1::PluginFieldCollection& attributes() {
  static const std::vector<nvinfer1::PluginField> fields = [] {
    std::vector<nvinfer1::PluginField> made;
    for (const char* const name : Operator::kAttributes) {
      made.emplace_back(name, nullptr, nvinfer1::PluginFieldType::kINT32, 0);
    }
    return made;
  }();
  static const nvinfer1::PluginFieldCollection collection{static_cast<std::int32_t>(fields.size()), fields.data()};
  return collection;
}

template <typename Operator>
class PluginV2 final : public nvinfer1::IPluginV2DynamicExt {
 public:
  explicit PluginV2(Operator op) : op_(std::move(op)) {}

  const char* getPluginType() const noexcept override { return Operator::kName; }
  const char* getPluginVersion() const noexcept override { return Operator::kVersion; }
  std::int32_t getNbOutputs() const noexcept override { return 1; }
  std::int32_t initialize() noexcept override { return 0; }
  void terminate() noexcept override {}
  void destroy() noexcept override { delete this; }
  std::size_t getSerializationSize() const noexcept override { return op_.state().size() * sizeof(std::int32_t); }
  void serialize(void* buffer) const noexcept override {
    std::memcpy(buffer, op_.state().data(), getSerializationSize());
  }
  void setPluginNamespace(const char* name) noexcept override {
    static_cast<void>(status([&] { namespace_ = name == nullptr ? "" : name; }));
  }
  const char* getPluginNamespace() const noexcept override { return namespace_.c_str(); }

  nvinfer1::DataType getOutputDataType(std::int32_t /*index*/, const nvinfer1::DataType* inputs,
                                       std::int32_t /*count*/) const noexcept override {
    return inputs[0];
  }
  nvinfer1::IPluginV2DynamicExt* clone() const noexcept override {
    return guarded([&] { return new PluginV2(*this); }, static_cast<PluginV2*>(nullptr));
  }
  nvinfer1::DimsExprs getOutputDimensions(std::int32_t /*index*/, const nvinfer1::DimsExprs* inputs, std::int32_t count,
                                          nvinfer1::IExprBuilder& builder) noexcept override {
    nvinfer1::DimsExprs none{};
    none.nbDims = -1;
    return guarded([&] { return op_.shape(inputs, count, builder); }, none);
  }
  bool supportsFormatCombination(std::int32_t position, const nvinfer1::PluginTensorDesc* tensors,
                                 std::int32_t /*inputs*/, std::int32_t /*outputs*/) noexcept override {
    return Operator::accepts(position, tensors[position], tensors[0]);
  }
  void configurePlugin(const nvinfer1::DynamicPluginTensorDesc* /*in*/, std::int32_t /*inputs*/,
                       const nvinfer1::DynamicPluginTensorDesc* /*out*/, std::int32_t /*outputs*/) noexcept override {
    // Could not refuse; enqueue does.
  }
  std::size_t getWorkspaceSize(const nvinfer1::PluginTensorDesc* /*in*/, std::int32_t /*inputs*/,
                               const nvinfer1::PluginTensorDesc* /*out*/,
                               std::int32_t /*outputs*/) const noexcept override {
    return 0;
  }
  std::int32_t enqueue(const nvinfer1::PluginTensorDesc* in, const nvinfer1::PluginTensorDesc* /*out*/,
                       const void* const* inputs, void* const* outputs, void* /*workspace*/,
                       cudaStream_t stream) noexcept override {
    return status([&] { op_.enqueue(in, inputs, outputs, stream); });
  }

 private:
  Operator op_;
  std::string namespace_;
};

template <typename Operator>
class CreatorV2 final : public nvinfer1::IPluginCreator {
 public:
  const char* getPluginName() const noexcept override { return Operator::kName; }
  const char* getPluginVersion() const noexcept override { return Operator::kVersion; }
  const nvinfer1::PluginFieldCollection* getFieldNames() noexcept override { return &attributes<Operator>(); }
  void setPluginNamespace(const char* /*name*/) noexcept override {}
  const char* getPluginNamespace() const noexcept override { return ""; }

  nvinfer1::IPluginV2* createPlugin(const char* /*name*/,
                                    const nvinfer1::PluginFieldCollection* fields) noexcept override {
    return make([&] { return Operator::from_attributes(*fields); });
  }
  nvinfer1::IPluginV2* deserializePlugin(const char* /*name*/, const void* data, std::size_t bytes) noexcept override {
    return make([&] { return Operator::from_state(data, bytes); });
  }

 private:
  template <typename Body>
  nvinfer1::IPluginV2* make(Body&& body) noexcept {
    return guarded([&]() -> nvinfer1::IPluginV2* { return new PluginV2<Operator>(body()); },
                   static_cast<nvinfer1::IPluginV2*>(nullptr));
  }
};

#if NV_TENSORRT_MAJOR >= 10

template <typename Operator>
class PluginV3 final : public nvinfer1::IPluginV3,
                       public nvinfer1::IPluginV3OneCore,
                       public nvinfer1::IPluginV3OneBuild,
                       public nvinfer1::IPluginV3OneRuntime {
 public:
  static constexpr const char* kState = "state";

  explicit PluginV3(Operator op) : op_(std::move(op)) {}

  nvinfer1::IPluginCapability* getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept override {
    switch (type) {
      case nvinfer1::PluginCapabilityType::kCORE:
        return static_cast<nvinfer1::IPluginV3OneCore*>(this);
      case nvinfer1::PluginCapabilityType::kBUILD:
        return static_cast<nvinfer1::IPluginV3OneBuild*>(this);
      case nvinfer1::PluginCapabilityType::kRUNTIME:
        return static_cast<nvinfer1::IPluginV3OneRuntime*>(this);
      default:
        return nullptr;
    }
  }
  nvinfer1::IPluginV3* clone() noexcept override {
    return guarded([&] { return new PluginV3(op_); }, static_cast<PluginV3*>(nullptr));
  }
  const char* getPluginName() const noexcept override { return Operator::kName; }
  const char* getPluginVersion() const noexcept override { return Operator::kVersion; }
  const char* getPluginNamespace() const noexcept override { return ""; }

  std::int32_t getNbOutputs() const noexcept override { return 1; }
  std::int32_t configurePlugin(const nvinfer1::DynamicPluginTensorDesc* in, std::int32_t inputs,
                               const nvinfer1::DynamicPluginTensorDesc* /*out*/,
                               std::int32_t /*outputs*/) noexcept override {
    return status([&] {
      std::vector<nvinfer1::PluginTensorDesc> tensors;
      for (std::int32_t i = 0; i < inputs; ++i) {
        tensors.push_back(in[i].desc);
      }
      op_.check(tensors.data(), inputs);
    });
  }
  std::int32_t getOutputDataTypes(nvinfer1::DataType* outputs, std::int32_t /*count*/, const nvinfer1::DataType* inputs,
                                  std::int32_t /*inputs*/) const noexcept override {
    outputs[0] = inputs[0];
    return 0;
  }
  std::int32_t getOutputShapes(const nvinfer1::DimsExprs* inputs, std::int32_t count,
                               const nvinfer1::DimsExprs* /*shape_inputs*/, std::int32_t /*shape_count*/,
                               nvinfer1::DimsExprs* outputs, std::int32_t /*outputs*/,
                               nvinfer1::IExprBuilder& builder) noexcept override {
    return status([&] { outputs[0] = op_.shape(inputs, count, builder); });
  }
  bool supportsFormatCombination(std::int32_t position, const nvinfer1::DynamicPluginTensorDesc* tensors,
                                 std::int32_t /*inputs*/, std::int32_t /*outputs*/) noexcept override {
    return Operator::accepts(position, tensors[position].desc, tensors[0].desc);
  }

  std::int32_t onShapeChange(const nvinfer1::PluginTensorDesc* in, std::int32_t inputs,
                             const nvinfer1::PluginTensorDesc* /*out*/, std::int32_t /*outputs*/) noexcept override {
    return status([&] { op_.check(in, inputs); });
  }
  std::int32_t enqueue(const nvinfer1::PluginTensorDesc* in, const nvinfer1::PluginTensorDesc* /*out*/,
                       const void* const* inputs, void* const* outputs, void* /*workspace*/,
                       cudaStream_t stream) noexcept override {
    return status([&] { op_.enqueue(in, inputs, outputs, stream); });
  }
  nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext* /*context*/) noexcept override {
    return clone();
  }
  const nvinfer1::PluginFieldCollection* getFieldsToSerialize() noexcept override {
    field_ = {kState, op_.state().data(), nvinfer1::PluginFieldType::kINT32,
              static_cast<std::int32_t>(op_.state().size())};
    fields_ = {1, &field_};
    return &fields_;
  }

 private:
  Operator op_;
  nvinfer1::PluginField field_;
  nvinfer1::PluginFieldCollection fields_{};
};

template <typename Operator>
class CreatorV3 final : public nvinfer1::IPluginCreatorV3One {
 public:
  const char* getPluginName() const noexcept override { return Operator::kName; }
  const char* getPluginVersion() const noexcept override { return Operator::kVersion; }
  const char* getPluginNamespace() const noexcept override { return ""; }
  const nvinfer1::PluginFieldCollection* getFieldNames() noexcept override { return &attributes<Operator>(); }

  nvinfer1::IPluginV3* createPlugin(const char* /*name*/, const nvinfer1::PluginFieldCollection* fields,
                                    nvinfer1::TensorRTPhase phase) noexcept override {
    return guarded(
        [&]() -> nvinfer1::IPluginV3* {
          return new PluginV3<Operator>(
              phase == nvinfer1::TensorRTPhase::kRUNTIME ? from_plan(*fields) : Operator::from_attributes(*fields));
        },
        static_cast<nvinfer1::IPluginV3*>(nullptr));
  }

 private:
  static Operator from_plan(const nvinfer1::PluginFieldCollection& fields) {
    const bool known = fields.nbFields == 1 && fields.fields[0].type == nvinfer1::PluginFieldType::kINT32 &&
                       fields.fields[0].length >= 0;
    const nvinfer1::PluginField* const field = known ? fields.fields : nullptr;
    return Operator::from_state(field == nullptr ? nullptr : field->data,
                                field == nullptr ? 0 : static_cast<std::size_t>(field->length) * sizeof(std::int32_t));
  }
};

template <typename Operator>
using Creator = CreatorV3<Operator>;

#else

template <typename Operator>
using Creator = CreatorV2<Operator>;

#endif

}  // namespace edgedet::tensorrt::nv

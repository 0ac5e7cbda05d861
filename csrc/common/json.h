// A small, strict JSON reader (RFC 8259): for model.json and annotation files, which may be hostile.
// Refused: trailing text, duplicate keys, invalid UTF-8, lone surrogates, numbers outside double, deep nesting.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "edgedet/error.h"

namespace edgedet::json {

struct Value;
using Array = std::vector<Value>;
using Object = std::vector<std::pair<std::string, Value>>;  // in file order

struct Value {
  std::variant<std::nullptr_t, bool, double, std::string, Array, Object> data;
};

struct Limits {
  std::size_t bytes = std::size_t{1} << 30U;
  std::size_t depth = 64;
};

// A value and where it stands, so that a wrong type or a missing key is reported as "model.json: input.width: ...".
// Views into a Document; do not outlive it.
class View {
 public:
  View(const Value& value, std::string path, ErrorKind kind) : value_(&value), path_(std::move(path)), kind_(kind) {}

  const std::string& path() const { return path_; }
  bool is_null() const { return std::holds_alternative<std::nullptr_t>(value_->data); }

  bool as_bool() const;
  double as_number() const;  // finite
  std::int64_t as_int(std::int64_t low, std::int64_t high) const;
  const std::string& as_string() const;

  // Arrays.
  std::size_t size() const;
  View operator[](std::size_t index) const;

  // Objects.
  bool has(std::string_view key) const;
  View at(std::string_view key) const;  // throws if absent
  std::vector<std::pair<std::string, View>> items() const;

  // Throws Error(kind) with this value's path in front of `problem`.
  [[noreturn]] void fail(const std::string& problem) const;

 private:
  const Array& array() const;
  const Object& object() const;

  const Value* value_;
  std::string path_;
  ErrorKind kind_;
};

class Document {
 public:
  // `source` names the text in messages, `kind` is the kind of every Error thrown on its account.
  Document(std::string_view text, std::string source, ErrorKind kind, const Limits& limits = {});
  View root() const { return {root_, source_, kind_}; }

 private:
  Value root_;
  std::string source_;
  ErrorKind kind_;
};

}  // namespace edgedet::json

#include "common/json.h"

#include <charconv>
#include <cmath>
#include <unordered_set>

#include "common/decimal.h"

namespace edgedet::json {
namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }

class Parser {
 public:
  Parser(std::string_view text, const std::string& source, ErrorKind kind, const Limits& limits)
      : text_(text), source_(source), kind_(kind), limits_(limits) {}

  Value document() {
    if (text_.size() > limits_.bytes) {
      fail("expected at most " + std::to_string(limits_.bytes) + " bytes, got " + std::to_string(text_.size()));
    }
    Value root = value(0);
    skip_space();
    if (at_ != text_.size()) {
      fail("expected the end of the text after the first value");
    }
    return root;
  }

 private:
  [[noreturn]] void fail(const std::string& problem) const {
    std::size_t line = 1;
    std::size_t column = 1;
    for (std::size_t i = 0; i < at_ && i < text_.size(); ++i) {
      column = text_[i] == '\n' ? 1 : column + 1;
      line += text_[i] == '\n' ? 1 : 0;
    }
    throw Error(kind_, source_ + ": not valid JSON at line " + std::to_string(line) + ", column " +
                           std::to_string(column) + ": " + problem);
  }

  bool done() const { return at_ >= text_.size(); }
  char peek() const { return done() ? '\0' : text_[at_]; }

  void skip_space() {
    while (!done() && (peek() == ' ' || peek() == '\t' || peek() == '\n' || peek() == '\r')) {
      ++at_;
    }
  }

  bool take(char c) {
    if (done() || text_[at_] != c) {
      return false;
    }
    ++at_;
    return true;
  }

  void expect(char c) {
    if (!take(c)) {
      fail(std::string("expected '") + c + "'");
    }
  }

  void word(std::string_view expected) {
    if (text_.substr(at_, expected.size()) != expected) {
      fail("expected a value");
    }
    at_ += expected.size();
  }

  Value value(std::size_t depth) {
    if (depth > limits_.depth) {
      fail("nested deeper than " + std::to_string(limits_.depth));
    }
    skip_space();
    switch (peek()) {
      case '{':
        return {object(depth)};
      case '[':
        return {array(depth)};
      case '"':
        return {string()};
      case 't':
        word("true");
        return {true};
      case 'f':
        word("false");
        return {false};
      case 'n':
        word("null");
        return {nullptr};
      default:
        return {number()};
    }
  }

  Object object(std::size_t depth) {
    expect('{');
    Object members;
    std::unordered_set<std::string> seen;
    skip_space();
    if (take('}')) {
      return members;
    }
    do {
      skip_space();
      if (peek() != '"') {
        fail("expected a key in double quotes");
      }
      std::string key = string();
      if (!seen.insert(key).second) {
        fail("duplicate key \"" + key + "\"");
      }
      skip_space();
      expect(':');
      Value member = value(depth + 1);
      members.emplace_back(std::move(key), std::move(member));
      skip_space();
    } while (take(','));
    expect('}');
    return members;
  }

  Array array(std::size_t depth) {
    expect('[');
    Array elements;
    skip_space();
    if (take(']')) {
      return elements;
    }
    do {
      elements.push_back(value(depth + 1));
      skip_space();
    } while (take(','));
    expect(']');
    return elements;
  }

  double number() {
    const std::size_t begin = at_;
    take('-');
    if (!is_digit(peek())) {
      at_ = begin;
      fail("expected a value");
    }
    if (!take('0')) {
      digits();
    } else if (is_digit(peek())) {
      fail("a number may not start with 0");
    }
    if (take('.')) {
      digits();
    }
    if (take('e') || take('E')) {
      if (!take('+')) {
        take('-');
      }
      digits();
    }
    double result = 0.0;
    if (!parse_decimal(text_.substr(begin, at_ - begin), result)) {
      at_ = begin;
      fail("number out of the range of a double");
    }
    return result;
  }

  void digits() {
    if (!is_digit(peek())) {
      fail("expected a digit");
    }
    while (is_digit(peek())) {
      ++at_;
    }
  }

  unsigned hex4() {
    unsigned code = 0;
    const std::string_view hex = text_.substr(at_, 4);
    const auto [end, status] = std::from_chars(hex.data(), hex.data() + hex.size(), code, 16);
    if (hex.size() != 4 || status != std::errc{} || end != hex.data() + 4) {
      fail("expected four hex digits after \\u");
    }
    at_ += 4;
    return code;
  }

  static void append_utf8(std::string& out, unsigned code) {
    const auto push = [&out](unsigned byte) { out.push_back(static_cast<char>(static_cast<unsigned char>(byte))); };
    if (code < 0x80U) {
      push(code);
    } else if (code < 0x800U) {
      push(0xC0U | (code >> 6U));
      push(0x80U | (code & 0x3FU));
    } else if (code < 0x10000U) {
      push(0xE0U | (code >> 12U));
      push(0x80U | ((code >> 6U) & 0x3FU));
      push(0x80U | (code & 0x3FU));
    } else {
      push(0xF0U | (code >> 18U));
      push(0x80U | ((code >> 12U) & 0x3FU));
      push(0x80U | ((code >> 6U) & 0x3FU));
      push(0x80U | (code & 0x3FU));
    }
  }

  void escape(std::string& out) {
    if (done()) {
      fail("unterminated string");
    }
    switch (text_[at_++]) {
      case '"':
        out.push_back('"');
        return;
      case '\\':
        out.push_back('\\');
        return;
      case '/':
        out.push_back('/');
        return;
      case 'b':
        out.push_back('\b');
        return;
      case 'f':
        out.push_back('\f');
        return;
      case 'n':
        out.push_back('\n');
        return;
      case 'r':
        out.push_back('\r');
        return;
      case 't':
        out.push_back('\t');
        return;
      case 'u': {
        unsigned code = hex4();
        if (code >= 0xDC00U && code < 0xE000U) {
          fail("low surrogate without a high one");
        }
        if (code >= 0xD800U && code < 0xDC00U) {
          if (text_.substr(at_, 2) != "\\u") {
            fail("high surrogate without a low one");
          }
          at_ += 2;
          const unsigned low = hex4();
          if (low < 0xDC00U || low >= 0xE000U) {
            fail("high surrogate without a low one");
          }
          code = 0x10000U + ((code - 0xD800U) << 10U) + (low - 0xDC00U);
        }
        append_utf8(out, code);
        return;
      }
      default:
        --at_;
        fail("unknown escape");
    }
  }

  // Copies one well-formed UTF-8 sequence of two to four bytes (RFC 3629: no overlong forms, no surrogates).
  void multibyte(std::string& out) {
    const auto byte = [this](std::size_t i) {
      return at_ + i < text_.size() ? static_cast<unsigned>(static_cast<unsigned char>(text_[at_ + i])) : 0U;
    };
    const unsigned lead = byte(0);
    std::size_t length = 0;
    unsigned low = 0x80U;
    unsigned high = 0xBFU;
    if (lead >= 0xC2U && lead <= 0xDFU) {
      length = 2;
    } else if (lead >= 0xE0U && lead <= 0xEFU) {
      length = 3;
      low = lead == 0xE0U ? 0xA0U : low;
      high = lead == 0xEDU ? 0x9FU : high;
    } else if (lead >= 0xF0U && lead <= 0xF4U) {
      length = 4;
      low = lead == 0xF0U ? 0x90U : low;
      high = lead == 0xF4U ? 0x8FU : high;
    }
    bool valid = length != 0 && byte(1) >= low && byte(1) <= high;
    for (std::size_t i = 2; i < length; ++i) {
      valid = valid && byte(i) >= 0x80U && byte(i) <= 0xBFU;
    }
    if (!valid) {
      fail("invalid UTF-8");
    }
    out.append(text_.substr(at_, length));
    at_ += length;
  }

  std::string string() {
    expect('"');
    std::string out;
    for (;;) {
      if (done()) {
        fail("unterminated string");
      }
      const auto c = static_cast<unsigned char>(text_[at_]);
      if (c == '"') {
        ++at_;
        return out;
      }
      if (c == '\\') {
        ++at_;
        escape(out);
      } else if (c < 0x20U) {
        fail("control character in a string");
      } else if (c < 0x80U) {
        out.push_back(text_[at_++]);
      } else {
        multibyte(out);
      }
    }
  }

  std::string_view text_;
  const std::string& source_;
  ErrorKind kind_;
  Limits limits_;
  std::size_t at_ = 0;
};

struct KindName {
  const char* operator()(std::nullptr_t) const { return "null"; }
  const char* operator()(bool) const { return "a boolean"; }
  const char* operator()(double) const { return "a number"; }
  const char* operator()(const std::string&) const { return "a string"; }
  const char* operator()(const Array&) const { return "an array"; }
  const char* operator()(const Object&) const { return "an object"; }
};

template <typename T>
const T& get(const Value& value, const View& view, const char* expected) {
  const T* found = std::get_if<T>(&value.data);
  if (found == nullptr) {
    view.fail(std::string("expected ") + expected + ", got " + std::visit(KindName{}, value.data));
  }
  return *found;
}

}  // namespace

void View::fail(const std::string& problem) const { throw Error(kind_, path_ + ": " + problem); }

bool View::as_bool() const { return get<bool>(*value_, *this, "a boolean"); }

double View::as_number() const { return get<double>(*value_, *this, "a number"); }

std::int64_t View::as_int(std::int64_t low, std::int64_t high) const {
  const double number = get<double>(*value_, *this, "an integer");
  if (!(number >= static_cast<double>(low) && number <= static_cast<double>(high)) || number != std::floor(number)) {
    fail("expected an integer in [" + std::to_string(low) + ", " + std::to_string(high) + "], got " +
         std::to_string(number));
  }
  return static_cast<std::int64_t>(number);
}

const std::string& View::as_string() const { return get<std::string>(*value_, *this, "a string"); }

const Array& View::array() const { return get<Array>(*value_, *this, "an array"); }

const Object& View::object() const { return get<Object>(*value_, *this, "an object"); }

std::size_t View::size() const { return array().size(); }

View View::operator[](std::size_t index) const {
  const Array& elements = array();
  if (index >= elements.size()) {
    fail("expected more than " + std::to_string(index) + " elements, got " + std::to_string(elements.size()));
  }
  return {elements[index], path_ + "[" + std::to_string(index) + "]", kind_};
}

bool View::has(std::string_view key) const {
  for (const auto& member : object()) {
    if (member.first == key) {
      return true;
    }
  }
  return false;
}

View View::at(std::string_view key) const {
  for (const auto& [name, value] : object()) {
    if (name == key) {
      return {value, path_ + ": " + name, kind_};
    }
  }
  fail("missing key \"" + std::string(key) + "\"");
}

std::vector<std::pair<std::string, View>> View::items() const {
  std::vector<std::pair<std::string, View>> result;
  for (const auto& [name, value] : object()) {
    result.emplace_back(name, View(value, path_ + ": " + name, kind_));
  }
  return result;
}

Document::Document(std::string_view text, std::string source, ErrorKind kind, const Limits& limits)
    : source_(std::move(source)), kind_(kind) {
  root_ = Parser(text, source_, kind_, limits).document();
}

}  // namespace edgedet::json

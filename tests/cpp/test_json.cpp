#include <cstdint>
#include <string>

#include "check.h"
#include "common/json.h"

using edgedet::Error;
using edgedet::ErrorKind;
using edgedet::json::Document;
using edgedet::json::Limits;
using edgedet::json::View;

namespace {

Document parse(const std::string& text) { return {text, "test.json", ErrorKind::kBundle}; }

std::string string_of(const std::string& text) { return parse(text).root().as_string(); }
double number_of(const std::string& text) { return parse(text).root().as_number(); }

bool accepted(const std::string& text) {
  try {
    parse(text);
    return true;
  } catch (const Error&) {
    return false;
  }
}

}  // namespace

TEST(json_values) {
  CHECK(number_of("0") == 0.0);
  CHECK(number_of("-0.5e2") == -50.0);
  CHECK(number_of("9007199254740992") == 9007199254740992.0);
  CHECK(number_of(" \t\r\n 1E-3 \n") == 1e-3);
  CHECK(parse("true").root().as_bool());
  CHECK(!parse("false").root().as_bool());
  CHECK(parse("null").root().is_null());
  const Document document = parse(R"({"a": [1, {"b": "c"}], "": {}, "d": []})");
  CHECK(document.root().at("a")[1].at("b").as_string() == "c");
  CHECK(document.root().at("d").size() == 0);
  CHECK(document.root().has("") && !document.root().has("b"));
  CHECK(document.root().items().size() == 3);
}

TEST(json_strings) {
  CHECK(string_of(R"("\"\\\/\b\f\n\r\t")") == "\"\\/\b\f\n\r\t");
  CHECK(string_of(R"("\u0041\u00e9\u20AC")") == "A\xC3\xA9\xE2\x82\xAC");
  CHECK(string_of(R"("\ud83d\ude00")") == "\xF0\x9F\x98\x80");  // a surrogate pair
  CHECK(string_of("\"\xF0\x9F\x98\x80\"") == "\xF0\x9F\x98\x80");
  CHECK(string_of(R"("\u0000x")") == std::string("\0x", 2));
  CHECK(string_of("\"\x7F\"") == "\x7F");
}

TEST(json_refused) {
  const std::string bad[] = {
      "",
      " ",
      "{",
      "[",
      "\"",
      "}",
      "]",
      "[1,]",
      "[,1]",
      "{,}",
      "{\"a\":1,}",
      "{\"a\"}",
      "{\"a\":}",
      "{a:1}",
      "{1:1}",
      "[1 2]",
      "1 2",
      "nul",
      "nulll",
      "True",
      "NaN",
      "Infinity",
      "-",
      "+1",
      ".5",
      "1.",
      "1.e3",
      "1e",
      "1e+",
      "01",
      "-01",
      "0x10",
      "1e999",
      "-1e999",
      "'a'",
      "[1]x",
      "// c\n1",
      "/**/1",
      "{\"a\":1 \"b\":2}",
      "{\"a\":1,\"a\":2}",
      "{\"a\":1,\"\\u0061\":2}",  // duplicate keys, one of them escaped
      "\"\n\"",
      std::string("\"\0\"", 3),
      "\"\\x41\"",
      "\"\\u12\"",
      "\"\\u12G4\"",
      "\"\\u+123\"",
      "\"\\",
      "\"\\ud800\"",
      "\"\\udc00\"",
      "\"\\ud800\\u0041\"",
      "\"\\ud800x\"",
      "\"\\ud800\\ud800\"",
      "\"\x80\"",
      "\"\xC0\xAF\"",
      "\"\xE0\x80\xAF\"",
      "\"\xED\xA0\x80\"",
      "\"\xF4\x90\x80\x80\"",
      "\"\xF8\x88\"",
      "\"\xE2\x82\"",
      "\"\xE2",
      "\xEF\xBB\xBF{}",  // cut sequences, a byte order mark
  };
  for (const std::string& text : bad) {
    if (accepted(text)) {
      edgedet::test::check(false, "refused", __FILE__, __LINE__, text);
    }
  }
}

TEST(json_limits) {
  const auto nested = [](std::size_t depth) { return std::string(depth, '[') + std::string(depth, ']'); };
  CHECK(accepted(nested(64)));
  CHECK(!accepted(nested(66)));
  CHECK(!accepted(std::string(1000000, '[')));
  Limits limits;
  limits.bytes = 10;
  CHECK_THROWS(ErrorKind::kBundle, "expected at most 10 bytes, got 11",
               Document("\"123456789\"", "test.json", ErrorKind::kBundle, limits));
}

// Every prefix of a document and every single-byte change of it is either read or refused with an Error, never a crash.
TEST(json_mutations) {
  const std::string text = R"({"k": [1.5e3, -0, true, null, "\ud83d\ude00\n", {"x": [[]]}], "l": "é"})";
  int good = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    good += accepted(text.substr(0, i)) ? 1 : 0;
  }
  CHECK(good == 0);
  for (std::size_t i = 0; i < text.size(); ++i) {
    for (int byte = 0; byte < 256; ++byte) {
      std::string changed = text;
      changed[i] = static_cast<char>(byte);
      good += accepted(changed) ? 1 : 0;
    }
  }
  CHECK(good > static_cast<int>(text.size()));  // the unchanged ones at least
}

TEST(json_positions_and_types) {
  CHECK_THROWS(ErrorKind::kBundle, "test.json: not valid JSON at line 2, column 8: expected a value",
               parse("{\n  \"a\": }"));
  const Document document = parse(R"({"input": {"width": "416", "height": 1.5, "list": [1]}})");
  const View input = document.root().at("input");
  CHECK_THROWS(ErrorKind::kBundle, "test.json: input: width: expected an integer, got a string",
               input.at("width").as_int(0, 10));
  CHECK_THROWS(ErrorKind::kBundle, "expected an integer in [0, 10]", input.at("height").as_int(0, 10));
  CHECK_THROWS(ErrorKind::kBundle, "missing key \"name\"", input.at("name"));
  CHECK_THROWS(ErrorKind::kBundle, "list[0]: expected an object, got a number", input.at("list")[0].at("x"));
  CHECK_THROWS(ErrorKind::kBundle, "expected more than 1 elements", input.at("list")[1]);
}

// A test runner of a few lines: TEST(name) { CHECK(...); } in any source, run_tests() in main.
#pragma once

#include <cstdio>
#include <exception>
#include <string>
#include <utility>
#include <vector>

#include "edgedet/error.h"

namespace edgedet::test {

struct Case {
  const char* name;
  void (*body)();
};

inline std::vector<Case>& cases() {
  static std::vector<Case> all;
  return all;
}

inline int& failures() {
  static int count = 0;
  return count;
}

struct Registration {
  Registration(const char* name, void (*body)()) { cases().push_back({name, body}); }
};

inline void check(bool passed, const char* text, const char* file, int line, const std::string& detail = "") {
  if (!passed) {
    ++failures();
    std::printf("%s:%d: CHECK(%s) failed%s%s\n", file, line, text, detail.empty() ? "" : ": ", detail.c_str());
  }
}

// Passes if `body` throws Error(kind) with `part` in its message.
template <typename Body>
void check_throws(Body&& body, ErrorKind kind, const std::string& part, const char* file, int line) {
  try {
    std::forward<Body>(body)();
  } catch (const Error& error) {
    check(error.kind() == kind, "the kind of error", file, line, error.what());
    check(std::string(error.what()).find(part) != std::string::npos, "the message", file, line,
          std::string("expected \"") + part + "\" in \"" + error.what() + "\"");
    return;
  }
  check(false, "an Error", file, line, "nothing was thrown, expected \"" + part + "\"");
}

inline int run_tests() {
  for (const Case& test : cases()) {
    const int before = failures();
    try {
      test.body();
    } catch (const std::exception& error) {
      check(false, "no exception", test.name, 0, error.what());
    }
    std::printf("%s %s\n", failures() == before ? "ok  " : "FAIL", test.name);
  }
  std::printf("%zu tests, %d failed checks\n", cases().size(), failures());
  return cases().empty() || failures() != 0 ? 1 : 0;
}

}  // namespace edgedet::test

#define TEST(name)                                                               \
  static void test_##name();                                                     \
  static const edgedet::test::Registration register_##name(#name, &test_##name); \
  static void test_##name()
#define CHECK(condition) edgedet::test::check((condition), #condition, __FILE__, __LINE__)
#define CHECK_THROWS(kind, part, ...) edgedet::test::check_throws([&] { __VA_ARGS__; }, kind, part, __FILE__, __LINE__)

#include <clocale>
#include <string_view>

#include "check.h"
#include "common/decimal.h"

using edgedet::parse_decimal;

namespace {

bool gives(std::string_view text, double expected) {
  double value = 7.0;
  return parse_decimal(text, value) && value == expected;
}

bool refused(std::string_view text) {
  double value = 7.0;
  return !parse_decimal(text, value) && value == 7.0;
}

}  // namespace

TEST(decimals_are_read_to_the_last_bit) {
  CHECK(gives("0", 0.0) && gives("-0.5e2", -50.0) && gives("1E-3", 1e-3) && gives("0e-400", 0.0));
  CHECK(gives("0.1", 0.1) && gives("9007199254740993", 9007199254740992.0) && gives("4e-324", 5e-324));
  CHECK(gives("1.7976931348623157e308", 1.7976931348623157e308) && gives("1e-310", 1e-310));
  CHECK(gives(std::string_view("12345", 3), 123.0));  // what follows the view is not read
}

TEST(what_is_no_decimal_of_a_double_is_refused) {
  for (const char* text : {"", "+1", " 1", "1 ", "1e", "e1", ".", "--1", "0x10", "inf", "nan", "1,5", "1e400", "-1e400",
                           "1e-400", "2e-324"}) {
    edgedet::test::check(refused(text), text, __FILE__, __LINE__);
  }
}

TEST(decimals_do_not_depend_on_the_locale) {
  if (std::setlocale(LC_NUMERIC, "de_DE.UTF-8") != nullptr) {  // where it is installed
    CHECK(gives("1.5", 1.5) && refused("1,5"));
    std::setlocale(LC_NUMERIC, "C");
  }
}

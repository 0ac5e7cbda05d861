// From samples of a power or of a counter to energy.
#pragma once

#include <string>

namespace edgedet::telemetry {

class Integral {
 public:
  // A sample of a power, or of a counter that begins at 0 again after `wrap` (0: it does not), at `time` in seconds.
  void add(double time, double value, bool counter, double wrap) {
    if (any_) {
      if (!counter) {
        total_ += (value + value_) / 2.0 * (time - time_);
      } else {
        total_ += value - value_ + (value < value_ ? wrap : 0.0);
      }
    }
    any_ = true;
    time_ = time;
    value_ = value;
  }

  // In units of the power times seconds, or of the counter.
  double total() const { return total_; }

  std::string missing;  // why it is worth nothing; else empty

 private:
  bool any_ = false;
  double time_ = 0.0;
  double value_ = 0.0;
  double total_ = 0.0;
};

}  // namespace edgedet::telemetry

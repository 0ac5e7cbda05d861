#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <ctime>
#include <limits>
#include <mutex>
#include <thread>
#include <utility>

#include "edgedet/error.h"
#include "edgedet/telemetry.h"
#include "measure/find_probes.h"
#include "measure/integral.h"
#include "measure/probe.h"

namespace edgedet::telemetry {
namespace {

using Clock = std::chrono::steady_clock;
using Seconds = std::chrono::duration<double>;

constexpr const char* kEnergies[] = {"board", "gpu", "cpu", "dram"};

[[noreturn]] void refuse(const std::string& message) { throw Error(ErrorKind::kInvalidInput, message); }

double thread_seconds() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

void add_reason(std::string& all, const std::string& more) { all += (all.empty() ? "" : "; ") + more; }

}  // namespace

class Sampler::Impl {
 public:
  explicit Impl(const Options& options) : period_(options.period) {
    if (!(options.period >= 0.001 && options.period <= 60.0)) {
      refuse("period: expected 0.001 to 60 seconds, got " + std::to_string(options.period));
    }
    probes_ = find_probes(options);
    for (const GaugeProbe& probe : probes_.gauges) {
      gauges_.push_back(open(probe));
    }
  }

  ~Impl() { end_thread(); }
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  void start() {
    if (thread_.joinable()) {
      refuse("expected a sampler at rest, got one that has been started; stop it first");
    }
    samples_ = 0;
    busy_ = 0.0;
    energies_.assign(probes_.energies.size(), {});
    seen_.assign(probes_.throttles.size(), 0);
    for (Seen& gauge : gauges_) {
      gauge.values = {};
    }
    stopping_ = false;
    begin_ = Clock::now();
    sample(true);
    thread_ = std::thread([this] { run(); });
  }

  Record stop() {
    if (!thread_.joinable()) {
      refuse("expected a sampler that has been started, got one at rest; start it first");
    }
    end_thread();
    sample(true);
    return record();
  }

 private:
  struct Values {
    double min = std::numeric_limits<double>::infinity();
    double max = -std::numeric_limits<double>::infinity();
    double sum = 0.0;
    std::size_t count = 0;
  };
  struct Seen {
    Read read;  // none if there is no way
    std::string missing;
    Values values;
  };

  static Seen open(const GaugeProbe& probe) {
    Seen gauge;
    for (const Read& way : probe.ways) {
      std::string reason;
      if (way(reason)) {
        return {way, "", {}};
      }
      add_reason(gauge.missing, reason);
    }
    return gauge;
  }

  void run() {
    std::unique_lock<std::mutex> lock(mutex_);
    const auto slow = static_cast<std::size_t>(std::max(1.0, 1.0 / period_));
    auto next = begin_;
    for (;;) {
      next = std::max(next + std::chrono::duration_cast<Clock::duration>(Seconds(period_)), Clock::now());
      if (changed_.wait_until(lock, next, [this] { return stopping_; })) {
        return;
      }
      sample(samples_ % slow == 0);
    }
  }

  void end_thread() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      stopping_ = true;
    }
    changed_.notify_one();
    if (thread_.joinable()) {
      thread_.join();
    }
  }

  // The thread and, before it begins and after it ended, its owner call this: never at the same time.
  void sample(bool all) {
    const double before = thread_seconds();
    std::string reason;
    time_ = Seconds(Clock::now() - begin_).count();
    if (samples_ == 0) {
      first_time_ = time_;
    }
    for (std::size_t i = 0; i < probes_.energies.size(); ++i) {
      const std::optional<double> value = probes_.energies[i].read(reason);
      if (value) {
        energies_[i].add(time_, *value, probes_.energies[i].counter, probes_.energies[i].wrap);
      } else {
        energies_[i].missing = "lost while it was measured: " + reason;
      }
    }
    for (std::size_t i = 0; i < gauges_.size(); ++i) {
      if (gauges_[i].read && (all || !probes_.gauges[i].slow)) {
        const std::optional<double> value = gauges_[i].read(reason);
        if (value) {
          Values& values = gauges_[i].values;
          values.min = std::min(values.min, *value);
          values.max = std::max(values.max, *value);
          values.sum += *value;
          ++values.count;
        }
      }
    }
    for (std::size_t i = 0; i < probes_.throttles.size(); ++i) {
      const std::uint64_t value = static_cast<std::uint64_t>(probes_.throttles[i].read(reason).value_or(0.0));
      if (probes_.throttles[i].counts.empty()) {
        seen_[i] |= value;
      } else if (samples_ == 0) {
        first_.resize(seen_.size());
        first_[i] = value;
      } else if (value > first_[i]) {
        seen_[i] = value;
      }
    }
    ++samples_;
    busy_ += thread_seconds() - before;
  }

  Record record() const {
    Record record;
    record.seconds = time_ - first_time_;
    record.samples = samples_;
    record.busy = busy_;
    for (std::size_t i = 0; i < gauges_.size(); ++i) {
      const Values& values = gauges_[i].values;
      Gauge gauge;
      gauge.name = probes_.gauges[i].name;
      gauge.missing = gauges_[i].missing;
      if (values.count > 0) {
        gauge.min = values.min;
        gauge.max = values.max;
        gauge.mean = values.sum / static_cast<double>(values.count);
      } else if (gauge.missing.empty()) {
        gauge.missing = "lost while it was measured";
      }
      record.gauges.push_back(std::move(gauge));
    }
    for (std::size_t i = 0; i < energies_.size(); ++i) {
      if (probes_.energies[i].rail) {
        record.rails.push_back(energy(i));
      }
    }
    for (const char* name : kEnergies) {
      record.energies.push_back(total(name));
    }
    for (std::size_t i = 0; i < probes_.throttles.size(); ++i) {
      const ThrottleProbe& probe = probes_.throttles[i];
      const auto tell = [&](const std::string& text) {
        if (std::find(record.throttling.begin(), record.throttling.end(), text) == record.throttling.end()) {
          record.throttling.push_back(text);
        }
      };
      for (const auto& [bit, text] : probe.bits) {
        if ((seen_[i] & bit) != 0) {
          tell(text);
        }
      }
      if (!probe.counts.empty() && seen_[i] != 0) {
        tell(probe.counts);
      }
    }
    if (probes_.throttles.empty()) {
      record.throttling_missing = "nothing here counts it";
    }
    return record;
  }

  Energy energy(std::size_t i) const {
    const EnergyProbe& probe = probes_.energies[i];
    const Integral& integral = energies_[i];
    Energy energy{probe.name, integral.total() * probe.unit, probe.source, integral.missing};
    if (energy.missing.empty() && probe.counter && integral.total() <= 0.0) {
      energy.missing = "the counter did not move; measure for longer";
    }
    return energy;
  }

  // Of all probes of a name; the board's are rails.
  Energy total(const std::string& name) const {
    Energy sum{name, 0.0, "", ""};
    for (const auto& [of, why] : probes_.missing) {
      if (of == name) {
        add_reason(sum.missing, why);
      }
    }
    std::size_t parts = 0;
    const std::vector<std::string>& rails = probes_.board;
    for (std::size_t i = 0; i < probes_.energies.size(); ++i) {
      const EnergyProbe& probe = probes_.energies[i];
      if (name == "board" ? probe.rail && std::find(rails.begin(), rails.end(), probe.name) != rails.end()
                          : !probe.rail && probe.name == name) {
        const Energy part = energy(i);
        sum.joules += part.joules;
        sum.source += (parts++ == 0 ? "" : " + ") + (name == "board" ? probe.name : part.source);
        if (!part.missing.empty()) {
          add_reason(sum.missing, part.missing);
        }
      }
    }
    if (name == "board" && parts > 0) {
      sum.source += ", integrated power";
    }
    return sum;
  }

  double period_;
  Probes probes_;
  std::vector<Seen> gauges_;        // as of probes_
  std::vector<Integral> energies_;  // likewise
  std::vector<std::uint64_t> seen_;
  std::vector<std::uint64_t> first_;
  std::size_t samples_ = 0;
  double busy_ = 0.0;
  Clock::time_point begin_;
  double time_ = 0.0;        // of the last sample, in seconds since begin_
  double first_time_ = 0.0;  // of the first
  std::mutex mutex_;
  std::condition_variable changed_;
  bool stopping_ = false;
  std::thread thread_;
};

Sampler::Sampler(const Options& options) : impl_(std::make_unique<Impl>(options)) {}
Sampler::~Sampler() = default;
Sampler::Sampler(Sampler&&) noexcept = default;
Sampler& Sampler::operator=(Sampler&&) noexcept = default;
void Sampler::start() { impl_->start(); }
Record Sampler::stop() { return impl_->stop(); }

}  // namespace edgedet::telemetry

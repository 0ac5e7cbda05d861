// Decoding on the CPU. Two passes over the values that the compiler vectorises find a bound that at least top_k of them
// reach and the few that do; only those are ordered.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <string>

#include "edgedet/error.h"
#include "kernels/decode.h"
#include "kernels/ops.h"

namespace edgedet::ops {

namespace {

[[noreturn]] void reject_options(const std::string& message) { throw Error(ErrorKind::kInvalidInput, message); }

[[noreturn]] void reject_output(const std::string& message) {
  throw Error(ErrorKind::kModel, message + "; the weights or the precision of this model are broken: run another one");
}

void check(const DecodeOptions& options, const Geometry& geometry) {
  if (options.top_k < 1) {
    reject_options("expected top_k of at least 1, got " + std::to_string(options.top_k));
  }
  if (!(options.score_threshold >= 0.F && options.score_threshold <= 1.F)) {
    reject_options("expected a score threshold in [0, 1], got " + std::to_string(options.score_threshold));
  }
  if (geometry.content_width < 1 || geometry.content_height < 1) {
    reject_options("expected a geometry made by make_geometry, got empty content");
  }
}

constexpr std::size_t kBlock = 64;

bool block_has_nan(const float* values) {
  int found = 0;
  for (std::size_t i = 0; i < kBlock; ++i) {
    found |= static_cast<int>(values[i] != values[i]);
  }
  return found != 0;
}

bool block_reaches(const float* values, float bound) {
  int found = 0;
  for (std::size_t i = 0; i < kBlock; ++i) {
    found |= static_cast<int>(values[i] >= bound);
  }
  return found != 0;
}

void check_nan(const float* values, std::size_t count, const char* what) {
  std::size_t begin = 0;
  while (begin + kBlock <= count && !block_has_nan(values + begin)) {
    begin += kBlock;
  }
  for (std::size_t i = begin; i < count; ++i) {
    if (std::isnan(values[i])) {
      reject_output(std::string("expected numbers as ") + what + ", got NaN at flat index " + std::to_string(i));
    }
  }
}

// A value that at least `keep` of the values reach. They are dealt out like cards to several times `keep` places, each
// of which remembers its maximum: the keep-th largest maximum is such a value, and few others reach it.
float reached_by(std::size_t keep, const float* values, std::size_t count, std::vector<float>& maxima) {
  const std::size_t places = (4 * keep + kBlock - 1) / kBlock * kBlock;
  if (count < 2 * places) {
    return -std::numeric_limits<float>::infinity();
  }
  maxima.assign(values, values + places);
  float* const highest = maxima.data();
  std::size_t begin = places;
  for (; begin + places <= count; begin += places) {
    const float* dealt = values + begin;
    for (std::size_t i = 0; i < places; ++i) {
      highest[i] = highest[i] < dealt[i] ? dealt[i] : highest[i];
    }
  }
  for (std::size_t i = 0; begin + i < count; ++i) {
    highest[i] = std::max(highest[i], values[begin + i]);
  }
  const auto nth = maxima.begin() + static_cast<std::ptrdiff_t>(keep) - 1;
  std::nth_element(maxima.begin(), nth, maxima.end(), std::greater<>());
  return *nth;
}

// Leaves the `keep` best candidates at the front, in any order.
void prune(std::vector<std::uint64_t>& candidates, std::size_t keep) {
  if (candidates.size() > keep) {
    std::nth_element(candidates.begin(), candidates.begin() + static_cast<std::ptrdiff_t>(keep), candidates.end(),
                     std::greater<>());
    candidates.resize(keep);
  }
}

// Fills workspace.candidates with the best `keep` of the values, in order.
void select(const float* values, std::size_t count, std::size_t keep, DecodeWorkspace& workspace) {
  const float bound = reached_by(keep, values, count, workspace.maxima);
  std::vector<std::uint64_t>& candidates = workspace.candidates;
  const std::size_t full = 8 * keep;  // ties can be many: they are pruned, not stored
  candidates.clear();
  candidates.reserve(full + kBlock);
  for (std::size_t begin = 0; begin < count; begin += kBlock) {
    const std::size_t size = std::min(kBlock, count - begin);
    if (size == kBlock && !block_reaches(values + begin, bound)) {
      continue;
    }
    for (std::size_t i = begin; i < begin + size; ++i) {
      if (values[i] >= bound) {
        candidates.push_back(kernel::make_candidate(values[i], static_cast<std::uint32_t>(i)));
      }
    }
    if (candidates.size() >= full) {
      prune(candidates, keep);
    }
  }
  prune(candidates, keep);
  std::sort(candidates.begin(), candidates.end(), std::greater<>());
}

void check_box(const float* box, std::size_t row) {
  if (!kernel::is_finite_box(box)) {
    reject_output("expected finite boxes, got a non-finite coordinate in row " + std::to_string(row));
  }
}

}  // namespace

void decode_logits_cpu(const float* logits, const float* boxes, std::int32_t queries, std::int32_t classes,
                       const Geometry& geometry, const DecodeOptions& options, DecodeWorkspace& workspace,
                       std::vector<Detection>& out) {
  check(options, geometry);
  out.clear();
  if (queries < 1 || classes < 1) {
    return;
  }
  const std::size_t count = static_cast<std::size_t>(queries) * static_cast<std::size_t>(classes);
  if (count > std::numeric_limits<std::uint32_t>::max()) {
    reject_options("expected fewer than 2^32 logits, got " + std::to_string(count));
  }
  check_nan(logits, count, "logits");
  select(logits, count, std::min(count, static_cast<std::size_t>(options.top_k)), workspace);
  for (const std::uint64_t candidate : workspace.candidates) {
    const std::size_t index = kernel::candidate_index(candidate);
    const float score = kernel::sigmoid(logits[index]);
    if (score < options.score_threshold) {
      break;
    }
    const std::size_t query = index / static_cast<std::size_t>(classes);
    const auto label = static_cast<std::int32_t>(index % static_cast<std::size_t>(classes));
    check_box(boxes + 4 * query, query);
    out.push_back(kernel::centre_detection(boxes + 4 * query, score, label, geometry));
  }
}

void decode_scored_cpu(const std::int64_t* labels, const float* boxes, const float* scores, std::int32_t rows,
                       std::int32_t classes, const Geometry& geometry, const DecodeOptions& options,
                       DecodeWorkspace& workspace, std::vector<Detection>& out) {
  check(options, geometry);
  out.clear();
  if (rows < 1) {
    return;
  }
  const auto count = static_cast<std::size_t>(rows);
  check_nan(scores, count, "scores");
  select(scores, count, std::min(count, static_cast<std::size_t>(options.top_k)), workspace);
  for (const std::uint64_t candidate : workspace.candidates) {
    const std::size_t row = kernel::candidate_index(candidate);
    if (scores[row] < options.score_threshold) {
      break;
    }
    if (labels[row] < 0 || labels[row] >= classes) {
      throw Error(ErrorKind::kModel, "expected labels from 0 to " + std::to_string(classes - 1) + ", got " +
                                         std::to_string(labels[row]) + " in row " + std::to_string(row) +
                                         "; give the class names this model was trained with");
    }
    check_box(boxes + 4 * row, row);
    out.push_back(
        kernel::corner_detection(boxes + 4 * row, scores[row], static_cast<std::int32_t>(labels[row]), geometry));
  }
}

void read_result(const void* result, std::vector<Detection>& out) {
  DecodeStatus status;
  memcpy(&status, result, sizeof(status));
  if (status.nan_values != 0) {
    reject_output("expected numbers as logits or scores, got NaN");
  }
  if (status.non_finite_boxes != 0) {
    reject_output("expected finite boxes, got a non-finite coordinate");
  }
  if (status.wrong_labels != 0) {
    reject_output("expected labels below the number of classes, got another one");
  }
  const auto* rows = reinterpret_cast<const Detection*>(static_cast<const unsigned char*>(result) + sizeof(status));
  out.assign(rows, rows + status.count);
}

}  // namespace edgedet::ops

#include "edgedet/engine.h"

#include "edgedet/detector.h"
#include "runtime/choice.h"

namespace edgedet {

Prepared prepare(const std::string& bundle, const DetectorOptions& options, const BuildProgress& progress) {
  const Choice choice = choose(bundle, options, FileCheck::kFull);
  Prepared prepared;
  prepared.backend = choice.entry->name;
  prepared.precision = choice.options.precision;
  prepared.device = choice.entry->probe(options.engine.device).detail;
  if (choice.entry->prepare != nullptr) {
    prepared.engine = choice.entry->prepare(choice.spec, choice.model, choice.options, progress);
  }
  return prepared;
}

bool is_prepared(const std::string& bundle, const DetectorOptions& options) {
  if (choose_backend(options.backend, options.engine.device).prepare == nullptr) {
    return true;
  }
  const Choice choice = choose(bundle, options, FileCheck::kNone);
  return choice.entry->prepared(choice.spec, choice.model, choice.options);
}

}  // namespace edgedet

#include "pipeline/bundle_writer.h"

#include <fmt/format.h>

#include <utility>

#include "workers/agreement.h"

namespace quern {
namespace {

constexpr std::size_t kMostUnderWay = 8;  // each holds a bundle in host memory

}  // namespace

void BundleWriter::write(const BundleUnit& bundle, LandedModules modules) {
  if (under_way_.size() >= kMostUnderWay) take_oldest();
  context_.store.make_folder_of(bundle.name);  // here, or the writers would race to it
  under_way_.push_back(
      std::async(std::launch::async,
                 [&store = std::as_const(context_.store), trace = context_.session.trace.get(),
                  name = bundle.name, own = std::move(modules)]() mutable {
                   const Trace::Span span(trace, "write {}", name);
                   own.landing.unload();
                   return store.write(name, to_bundle(std::move(own.modules)));
                 }));
}

void BundleWriter::take_oldest() {
  std::future<JournalEntry> oldest = std::move(under_way_.front());
  under_way_.pop_front();
  written_.push_back(oldest.get());
}

void BundleWriter::settle(std::string_view bundles) {
  const auto lap = context_.watch.lap("commit");
  context_.session.enter(fmt::format("commit {}", bundles));
  run_agreed(context_.session, [&] {
    while (!under_way_.empty()) take_oldest();
  });
  tell_committed(context_,
                 acknowledge(context_.session, context_.store, std::exchange(written_, {})));
}

}  // namespace quern

#include "pipeline/bundle_writer.h"

#include <fmt/format.h>

#include <utility>

#include "workers/agreement.h"

namespace quern {
namespace {

constexpr std::size_t kMostUnderWay = 8;  // each holds a bundle in host memory

}  // namespace

void BundleWriter::begin(const std::string& batch) {
  while (batches_.size() > 1) settle_oldest();
  if (batches_.empty() || batches_.back() != batch) batches_.push_back(batch);
}

void BundleWriter::write(const BundleUnit& bundle, LandedModules modules) {
  if (under_way_.size() >= kMostUnderWay) take_oldest();
  context_.store.make_folder_of(bundle.name);  // here, or the writers would race to it
  auto entry =
      std::async(std::launch::async,
                 [&store = std::as_const(context_.store), trace = context_.session.trace.get(),
                  name = bundle.name, own = std::move(modules)]() mutable {
                   const Trace::Span span(trace, "write {}", name);
                   own.landing.unload();
                   return store.write(name, to_bundle(std::move(own.modules)));
                 });
  under_way_.push_back({batches_.back(), std::move(entry)});
}

void BundleWriter::take_oldest() {
  std::future<JournalEntry> oldest = std::move(under_way_.front().entry);
  under_way_.pop_front();
  written_.push_back(oldest.get());
}

void BundleWriter::settle_oldest() {
  const auto lap = context_.watch.lap("commit");
  context_.session.enter(fmt::format("commit {}", batches_.front()));
  run_agreed(context_.session, [&] {
    while (!under_way_.empty() && under_way_.front().batch == batches_.front()) take_oldest();
  });
  tell_committed(context_,
                 acknowledge(context_.session, context_.store, std::exchange(written_, {})));
  batches_.pop_front();
}

void BundleWriter::settle() {
  while (!batches_.empty()) settle_oldest();
}

}  // namespace quern

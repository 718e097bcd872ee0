#include <benchmark/benchmark.h>

#include <filesystem>
#include <string>

#include "tests/support/paths.h"
#include "workers/store/bundle_file.h"

namespace quern::bench {
namespace {

/// The up and gate projections of a model of 7 billion parameters at 4 bits: 46 MB.
Bundle packed_bundle() {
  Bundle bundle{"{}", {}};
  for (const std::string module : {"gate", "up"}) {
    HostTensor words(DType::i32, Shape{512, 11008});
    for (std::size_t i = 0; i < words.bytes.size(); ++i) words.bytes[i] = std::byte(i * 7);
    bundle.arrays.emplace(module + "/words", std::move(words));
    bundle.arrays.emplace(module + "/scales", HostTensor(DType::f16, Shape{32, 11008}));
  }
  return bundle;
}

void write_bundle(benchmark::State& state) {
  const test::TemporaryDirectory directory;
  const Bundle bundle = packed_bundle();
  std::uint64_t bytes = 0;
  for (auto _ : state) {
    bytes += write_bundle_file(directory.path() / "b.h5", bundle).bytes;
  }
  state.SetBytesProcessed(static_cast<std::int64_t>(bytes));
}
BENCHMARK(write_bundle)
    ->Threads(1)
    ->Threads(2)
    ->Threads(4)
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace quern::bench

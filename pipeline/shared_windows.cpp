#include "pipeline/shared_windows.h"

#include <algorithm>
#include <array>
#include <functional>

#include "pipeline/data/token_file.h"
#include "workers/agreement.h"

namespace quern {
namespace {

using MakeWindows = std::function<TokenWindows(const Tokenizer*, const TokenLimits&)>;

TokenWindows make_on_root(Session& session, const OpenModel& model, const TextConfig& text,
                          const MakeWindows& make) {
  TokenWindows windows;
  run_agreed(session, [&] {
    if (!session.is_root()) return;
    std::unique_ptr<Tokenizer> tokenizer;
    if (needs_tokenizer(text)) tokenizer = load_tokenizer(model.folder);
    const ModelGeometry& geometry = model.graph.geometry;
    windows = make(tokenizer.get(), {geometry.vocab, geometry.max_positions, geometry.bos_id});
  });
  std::array<std::int64_t, 2> dims = {0, 0};
  if (session.is_root()) dims = {windows.count(), windows.sequence_length()};
  Communicator& communicator = *session.communicator;
  communicator.broadcast(std::as_writable_bytes(std::span(dims)), 0);
  windows.hash.resize(32);
  communicator.broadcast(std::as_writable_bytes(std::span(windows.hash)), 0);
  if (!session.is_root()) windows.ids = HostTensor(DType::i32, {dims[0], dims[1]});
  communicator.broadcast(std::span(windows.ids.bytes), 0);
  return windows;
}

}  // namespace

bool needs_tokenizer(const TextConfig& text) {
  return !std::ranges::all_of(text.source, is_token_file);
}

TokenWindows shared_calibration_windows(Session& session, const RunFile& config,
                                        const OpenModel& model) {
  return make_on_root(session, model, config.calibration.text,
                      [&](const Tokenizer* tokenizer, const TokenLimits& limits) {
                        return calibration_windows(config.calibration, tokenizer, limits);
                      });
}

TokenWindows shared_evaluation_windows(Session& session, const RunFile& config,
                                       const OpenModel& model) {
  return make_on_root(session, model, config.evaluate.text,
                      [&](const Tokenizer* tokenizer, const TokenLimits& limits) {
                        return evaluation_windows(config.evaluate, tokenizer, limits);
                      });
}

}  // namespace quern

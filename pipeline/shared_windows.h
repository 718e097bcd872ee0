#pragma once

#include "pipeline/config/run_config.h"
#include "pipeline/data/windows.h"
#include "pipeline/model/weight_source.h"
#include "workers/session.h"

namespace quern {

/// Whether some source is text: token ids need no tokenizer.
bool needs_tokenizer(const TextConfig& text);

/// Collective: rank 0 reads and tokenizes the text with the model folder's tokenizer, the others
/// receive the ids. Errors as in calibration_windows() and evaluation_windows(), on every rank.
TokenWindows shared_calibration_windows(Session& session, const RunFile& config,
                                        const OpenModel& model);
TokenWindows shared_evaluation_windows(Session& session, const RunFile& config,
                                       const OpenModel& model);

}  // namespace quern

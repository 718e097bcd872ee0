#pragma once

#include <filesystem>
#include <functional>

#include "workers/session.h"

namespace quern {

/// Collective. Runs `work` with session.trace set, and writes what all ranks recorded into one
/// Chrome trace file (load it in Perfetto or chrome://tracing): rank 0 writes it atomically, also
/// when `work` throws. An error that the ranks did not agree on leaves the failing rank's spans
/// only, in a file "NAME.rank-R.json" beside it unless that is rank 0. An empty path: only `work`.
///
/// Clocks: each rank reads its own between two barriers, several times; rank 0's readings before
/// the first and after the second bound the moment, the bounds of all readings are intersected,
/// and their middle is the offset to rank 0's clock that all times are shifted by.
///
/// Throws StoreError on every rank, before `work` begins, if the file's folder cannot be written.
void run_traced(Session& session, const std::filesystem::path& file,
                const std::function<void()>& work);

}  // namespace quern

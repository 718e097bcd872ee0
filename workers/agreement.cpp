#include "workers/agreement.h"

#include <fmt/format.h>

#include <algorithm>
#include <exception>
#include <filesystem>
#include <new>
#include <string>
#include <vector>

namespace quern {
namespace {

std::string broadcast_text(Session& session, const std::string& text, int root) {
  std::vector<std::byte> bytes(text.size());
  std::ranges::copy(std::as_bytes(std::span(text)), bytes.begin());
  const auto message = broadcast_message(*session.communicator, std::move(bytes), root);
  return {reinterpret_cast<const char*>(message.data()), message.size()};
}

}  // namespace

Failure describe_exception() {
  try {
    throw;
  } catch (const Error& error) {
    return {error.what(), error.exit_code()};
  } catch (const std::bad_alloc&) {
    return {"host memory is exhausted; use more ranks or fewer samples", ExitCode::memory};
  } catch (const std::filesystem::filesystem_error& error) {
    return {error.what(), ExitCode::file_system};
  } catch (const std::exception& error) {
    return {fmt::format("unexpected: {}; this is a bug in Quern, please report it", error.what()),
            ExitCode::bug};
  }
}

void run_agreed(Session& session, const std::function<void()>& work) {
  std::exception_ptr own;
  std::string text;
  std::vector<std::int64_t> codes(static_cast<std::size_t>(session.ranks()));
  std::int64_t& code = codes[static_cast<std::size_t>(session.rank())];
  try {
    work();
  } catch (...) {
    own = std::current_exception();
    const Failure failure = describe_exception();
    text = failure.message;
    code = static_cast<std::int64_t>(failure.code);
  }
  session.communicator->sum(codes);
  for (int rank = 0; rank < session.ranks(); ++rank) {
    const std::int64_t failed = codes[static_cast<std::size_t>(rank)];
    if (failed == 0) continue;
    const std::string message = broadcast_text(session, text, rank);
    session.leaving_together = true;
    if (rank == session.rank()) std::rethrow_exception(own);
    throw PeerError(static_cast<ExitCode>(failed), fmt::format("rank {}: {}", rank, message));
  }
}

bool any_rank(Session& session, bool flag) {
  std::int64_t value = flag ? 1 : 0;
  session.communicator->maximum(std::span(&value, 1));
  return value != 0;
}

}  // namespace quern

#pragma once

#include <filesystem>
#include <optional>
#include <span>
#include <string>

#include "tests/support/paths.h"
#include "workers/session.h"

namespace quern::test {

/// A directory of rank 0 that all ranks see. Collective.
class SharedDirectory {
 public:
  explicit SharedDirectory(Session& session) {
    std::string text;
    if (session.is_root()) text = own_.emplace().path().string();
    const auto bytes = std::as_bytes(std::span(text));
    const auto known = broadcast_message(*session.communicator, {bytes.begin(), bytes.end()}, 0);
    path_ = std::string(reinterpret_cast<const char*>(known.data()), known.size());
  }
  const std::filesystem::path& path() const noexcept { return path_; }

 private:
  std::optional<TemporaryDirectory> own_;
  std::filesystem::path path_;
};

}  // namespace quern::test

#include "workers/files/hashed_file.h"

#include <future>

namespace quern {

void HashedFile::write(std::span<const std::byte> bytes) {
  constexpr std::size_t kWorthAThread = 1U << 20;
  if (bytes.size() < kWorthAThread) {
    hash_.update(bytes);
    return file_.write(bytes);
  }
  auto hashed = std::async(std::launch::async, [this, bytes] { hash_.update(bytes); });
  file_.write(bytes);
  hashed.get();
}

std::string HashedFile::commit() {
  file_.commit();
  return hash_.hex();
}

}  // namespace quern

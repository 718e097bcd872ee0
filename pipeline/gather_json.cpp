#include "pipeline/gather_json.h"

#include <span>
#include <string>

namespace quern {

std::vector<nlohmann::json> gather_json(Session& session, const nlohmann::json& mine) {
  const std::string text = mine.dump();
  std::vector<nlohmann::json> all;
  for (const auto& part : session.communicator->gather(std::as_bytes(std::span(text)), 0)) {
    const char* begin = reinterpret_cast<const char*>(part.data());
    all.push_back(nlohmann::json::parse(begin, begin + part.size()));
  }
  return all;
}

nlohmann::json broadcast_json(Session& session, const nlohmann::json& value) {
  const std::string text = session.is_root() ? value.dump() : std::string();
  const auto bytes = std::as_bytes(std::span(text));
  const auto message = broadcast_message(*session.communicator, {bytes.begin(), bytes.end()}, 0);
  const char* begin = reinterpret_cast<const char*>(message.data());
  return nlohmann::json::parse(begin, begin + message.size());
}

}  // namespace quern

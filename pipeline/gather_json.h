#pragma once

#include <nlohmann/json.hpp>
#include <vector>

#include "workers/session.h"

namespace quern {

/// Collective. What every rank has to say, in rank order, on rank 0; empty elsewhere.
std::vector<nlohmann::json> gather_json(Session& session, const nlohmann::json& mine);

/// Collective. Rank 0's value on every rank; what others pass is ignored.
nlohmann::json broadcast_json(Session& session, const nlohmann::json& value);

}  // namespace quern

#pragma once

#include <nlohmann/json.hpp>
#include <vector>

#include "pipeline/config/fields.h"

namespace quern {

/// Every key of an entry of quantize.rules.
const std::vector<Field<QuantizeRule>>& rule_fields();

/// Every key of quantize.sparsity where it is a mapping.
const std::vector<Field<Sparsity>>& sparsity_fields();

/// Every key of an entry of sweep.points and sweep.exclude.
const std::vector<Field<SweepPoint>>& point_fields();

/// quantize.rules: a list of mappings with the keys of rule_fields().
ValueTypePtr rules();

/// quantize.sparsity: a number, split as SqueezeLLM's tables do, or a mapping.
ValueTypePtr sparsity();

/// sweep.points and sweep.exclude: a list of mappings with the keys of point_fields().
ValueTypePtr points();

// Found by argument-dependent lookup from the codec.
nlohmann::json encode(const QuantizeRule& rule);
nlohmann::json encode(const Sparsity& sparsity);
nlohmann::json encode(const SweepPoint& point);
void decode(const nlohmann::json& json, QuantizeRule& rule);
void decode(const nlohmann::json& json, Sparsity& sparsity);
void decode(const nlohmann::json& json, SweepPoint& point);

}  // namespace quern

#include "pipeline/config/sweep.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "pipeline/config/nested_fields.h"

namespace quern {
namespace {

/// Every point so far, once with each value of a list; an empty list changes nothing.
template <typename T>
std::vector<SweepChoice> multiplied(const std::vector<SweepChoice>& points,
                                    std::optional<T> SweepPoint::*setting,
                                    const std::vector<T>& values, const char* name) {
  if (values.empty()) return points;
  std::vector<SweepChoice> result;
  for (const SweepChoice& point : points) {
    for (std::size_t i = 0; i < values.size(); ++i) {
      SweepChoice& made = result.emplace_back(point);
      made.settings.*setting = values[i];
      made.source[fmt::format("quantize.{}", name)] = fmt::format("sweep.{}[{}]", name, i);
    }
  }
  return result;
}

SweepChoice listed(const SweepPoint& base, const SweepPoint& entry, std::size_t index) {
  SweepChoice choice{.settings = base, .source = {}};
  const nlohmann::json set = encode(entry);
  decode(set, choice.settings);
  for (const auto& [name, value] : set.items()) {
    choice.source["quantize." + name] = fmt::format("sweep.points[{}].{}", index, name);
  }
  return choice;
}

void drop_rule_keys(QuantizeConfig& quantize) {
  const QuantizeRule unset;
  for (QuantizeRule& rule : quantize.rules) {
    for (const Field<QuantizeRule>& field : rule_fields()) {
      if (!field.methods.contains(quantize.method)) field.assign(rule, field.value(unset));
    }
  }
}

}  // namespace

bool asks_for_sweep(const RunFile& run) {
  const SweepConfig& sweep = run.sweep;
  return !sweep.method.empty() || !sweep.bits.empty() || !sweep.group_size.empty() ||
         !sweep.sparsity.empty() || !sweep.points.empty() || !sweep.exclude.empty();
}

std::vector<SweepChoice> swept_choices(const RunFile& run) {
  const SweepConfig& sweep = run.sweep;
  const SweepPoint base{.method = run.quantize.method,
                        .bits = run.quantize.grid.bits,
                        .group_size = run.quantize.grid.group_size,
                        .sparsity = run.quantize.sparsity};
  std::vector<SweepChoice> choices;
  if (!(sweep.method.empty() && sweep.bits.empty() && sweep.group_size.empty() &&
        sweep.sparsity.empty())) {
    choices.push_back({.settings = base, .source = {}});
  }
  choices = multiplied(choices, &SweepPoint::method, sweep.method, "method");
  choices = multiplied(choices, &SweepPoint::bits, sweep.bits, "bits");
  choices = multiplied(choices, &SweepPoint::group_size, sweep.group_size, "group_size");
  choices = multiplied(choices, &SweepPoint::sparsity, sweep.sparsity, "sparsity");
  for (std::size_t i = 0; i < sweep.points.size(); ++i) {
    choices.push_back(listed(base, sweep.points[i], i));
  }
  return choices;
}

bool matches(const SweepPoint& entry, const SweepPoint& point) {
  return std::ranges::all_of(point_fields(), [&](const Field<SweepPoint>& field) {
    const nlohmann::json asked = field.value(entry);
    return asked.is_null() ||
           (field.methods.contains(*point.method) && asked == field.value(point));
  });
}

RunFile at_point(const RunFile& run, const SweepPoint& settings) {
  RunFile result = run;
  result.sweep = {};
  QuantizeConfig& quantize = result.quantize;
  quantize.method = settings.method.value_or(quantize.method);
  quantize.grid.bits = settings.bits.value_or(quantize.grid.bits);
  quantize.grid.group_size = settings.group_size.value_or(quantize.grid.group_size);
  quantize.sparsity = settings.sparsity.value_or(quantize.sparsity);
  const RunFile defaults;
  for (const Field<RunFile>& field : run_file_fields()) {
    if (field.section() != "quantize" || field.methods.contains(quantize.method)) continue;
    field.assign(result, field.value(defaults));
  }
  drop_rule_keys(quantize);
  if (quantize.method == Method::gptq && quantize.propagation == Propagation::original) {
    quantize.true_sequential = false;
  }
  if (!holds(result.output.format, quantize.method)) {
    result.output.format = usual_format(quantize.method);
    if (quantize.method == Method::squeezellm && !one_bit_width(quantize)) {
      result.output.format = OutputFormat::squeezellm_safetensors;
    }
  }
  return result;
}

OutputFormat usual_format(Method method) {
  return method == Method::squeezellm ? OutputFormat::squeezellm : OutputFormat::gptq;
}

bool holds(OutputFormat format, Method method) {
  return format == OutputFormat::dequantized ||
         (format == OutputFormat::gptq) == (method != Method::squeezellm);
}

bool one_bit_width(const QuantizeConfig& quantize) {
  return !quantize.target_bits &&
         std::ranges::all_of(quantize.rules, [&](const QuantizeRule& rule) {
           return rule.skip || rule.bits.value_or(quantize.grid.bits) == quantize.grid.bits;
         });
}

}  // namespace quern

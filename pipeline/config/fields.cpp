#include "pipeline/config/fields.h"

#include <fmt/format.h>

#include <array>
#include <memory>
#include <regex>
#include <utility>

#include "pipeline/config/codec.h"
#include "pipeline/config/mapping.h"

namespace quern {

// Found by argument-dependent lookup when the codec meets a list of rules.
static nlohmann::json encode(const QuantizeRule& rule) {
  return values_of(rule, rule_fields());
}

static void decode(const nlohmann::json& json, QuantizeRule& rule) {
  for (const Field<QuantizeRule>& field : rule_fields()) {
    if (json.contains(field.key)) field.assign(rule, json[field.key]);
  }
  rule.expression = std::regex(rule.match, std::regex::ECMAScript);
}

namespace {

constexpr std::int64_t kExact = (std::int64_t{1} << 53) - 1;  // what every JSON reader keeps
constexpr std::int64_t kMaxTokens = std::int64_t{1} << 20;
constexpr std::int64_t kMaxWindows = 1'000'000;
constexpr std::size_t kMaxRules = 1000;

struct Traits {
  Need need = Need::optional;
  bool identity = false;
  bool calibrated = false;
};
constexpr Traits kFree{};
constexpr Traits kNeeded{.need = Need::always};
constexpr Traits kWithSection{.need = Need::with_section};
constexpr Traits kIdentity{.identity = true};
constexpr Traits kCalibrated{.identity = true, .calibrated = true};

/// access(owner) is a reference to the member that holds the value.
template <typename Owner, typename Access>
Field<Owner> row(std::string_view key, ValueTypePtr type, std::string_view description,
                 const Traits& traits, Access access) {
  return {.key = key,
          .type = std::move(type),
          .description = description,
          .need = traits.need,
          .identity = traits.identity,
          .calibrated = traits.calibrated,
          .value = [access](const Owner& owner) { return encode(access(owner)); },
          .assign = [access](Owner& owner,
                             const nlohmann::json& value) { decode(value, access(owner)); }};
}

/// quantize.rules: a list of mappings with the keys of rule_fields().
class RulesType final : public ValueType {
 public:
  nlohmann::json read(const YamlNode& node, const std::string& key) const override {
    if (node.kind != YamlNode::Kind::sequence || node.items.size() > kMaxRules) {
      fail(node.place, key, fmt::format("the value is {}", node.description()), expectation(),
           "write lines '- {match: ..., bits: ...}'");
    }
    std::vector<MappingKey> keys;
    for (const auto& field : rule_fields()) {
      keys.push_back({field.key, field.type.get(), field.need != Need::optional});
    }
    nlohmann::json list = nlohmann::json::array();
    for (std::size_t i = 0; i < node.items.size(); ++i) {
      list.push_back(read_mapping(node.items[i], fmt::format("{}[{}]", key, i), keys,
                                  [](std::string_view) { return std::string(); }));
    }
    return list;
  }
  std::string expectation() const override {
    return fmt::format("a list of at most {} rules", kMaxRules);
  }
  nlohmann::json schema() const override {
    nlohmann::json properties = nlohmann::json::object();
    nlohmann::json required = nlohmann::json::array();
    for (const auto& field : rule_fields()) {
      properties[field.key] = field.type->schema();
      properties[field.key]["description"] = field.description;
      if (field.need != Need::optional) required.push_back(field.key);
    }
    const nlohmann::json rule = {{"type", "object"},
                                 {"properties", properties},
                                 {"required", required},
                                 {"additionalProperties", false}};
    return {{"type", "array"}, {"items", rule}, {"maxItems", kMaxRules}};
  }
};

using Fields = std::vector<Field<RunFile>>;

Fields model_fields() {
  return {row<RunFile>(
              "model.path", path(), "Folder of the Hugging Face checkpoint", kNeeded,
              [](auto& run) -> auto& { return run.model.path; }),
          row<RunFile>(
              "model.ignore_fields", names(),
              "Fields of config.json to pass over, known to be without effect", kFree,
              [](auto& run) -> auto& { return run.model.ignore_fields; })};
}

Fields calibration_fields() {
  return {
      row<RunFile>(
          "calibration.source", paths(),
          "Text (.txt, .jsonl, .jsonl.gz, .json.gz) or token ids (.npy, .safetensors)",
          kWithSection, [](auto& run) -> auto& { return run.calibration.text.source; }),
      row<RunFile>(
          "calibration.field", text(), "Field of a JSON line that holds the text", kIdentity,
          [](auto& run) -> auto& { return run.calibration.text.field; }),
      row<RunFile>(
          "calibration.samples", integer(1, kMaxWindows), "Windows to calibrate on", kIdentity,
          [](auto& run) -> auto& { return run.calibration.samples; }),
      row<RunFile>(
          "calibration.sequence_length", integer(2, kMaxTokens),
          "Tokens of a window, begin-of-sequence included", kIdentity,
          [](auto& run) -> auto& { return run.calibration.text.sequence_length; }),
      row<RunFile>(
          "calibration.seed", integer(0, kExact), "Seed of the random windows", kIdentity,
          [](auto& run) -> auto& { return run.calibration.seed; }),
      row<RunFile>(
          "calibration.micro_batch", integer(1, 4096), "Windows pushed through a layer at once",
          kIdentity, [](auto& run) -> auto& { return run.calibration.micro_batch; }),
      row<RunFile>(
          "calibration.sampling", choice(kNames<Sampling>),
          "Windows at random places, or one after another from the start", kIdentity,
          [](auto& run) -> auto& { return run.calibration.sampling; }),
      row<RunFile>(
          "calibration.max_characters", integer(0, kExact), "Characters read from the text; 0: all",
          kIdentity, [](auto& run) -> auto& { return run.calibration.text.max_characters; }),
      row<RunFile>(
          "calibration.bos", choice(kNames<BosPolicy>),
          "Start each window with begin-of-sequence; auto: as the tokenizer does", kIdentity,
          [](auto& run) -> auto& { return run.calibration.text.bos; })};
}

Fields grid_fields() {
  return {row<RunFile>(
              "quantize.method", choice(kNames<Method>),
              "rtn rounds to nearest; gptq corrects each rounding by the statistics", kIdentity,
              [](auto& run) -> auto& { return run.quantize.method; }),
          row<RunFile>(
              "quantize.bits", integer(2, 8), "Bits of a code", kIdentity,
              [](auto& run) -> auto& { return run.quantize.grid.bits; }),
          row<RunFile>(
              "quantize.group_size", group_size(),
              "Input columns that share a scale; -1: the whole row", kIdentity,
              [](auto& run) -> auto& { return run.quantize.grid.group_size; }),
          row<RunFile>(
              "quantize.symmetric", boolean(), "Grid centred on zero, without zero points",
              kIdentity, [](auto& run) -> auto& { return run.quantize.grid.symmetric; }),
          row<RunFile>(
              "quantize.scale_search", choice(kNames<ScaleSearch>),
              "Scales that just cover the weights, or of least weighted error", kIdentity,
              [](auto& run) -> auto& { return run.quantize.grid.scale_search; })};
}

Fields solver_fields() {
  return {row<RunFile>(
              "quantize.act_order", choice(kNames<ActOrder>),
              "Round the most active columns first: inside groups, or across them (full)",
              kCalibrated, [](auto& run) -> auto& { return run.quantize.act_order; }),
          row<RunFile>(
              "quantize.damping", real(0, 1),
              "Fraction of the mean diagonal that is added to the statistics", kCalibrated,
              [](auto& run) -> auto& { return run.quantize.damping; }),
          row<RunFile>(
              "quantize.propagation", choice(kNames<Propagation>),
              "Weights that produce the inputs of the next layer", kCalibrated,
              [](auto& run) -> auto& { return run.quantize.propagation; }),
          row<RunFile>(
              "quantize.true_sequential", boolean(),
              "Measure each module behind the quantized ones before it in its layer", kCalibrated,
              [](auto& run) -> auto& { return run.quantize.true_sequential; }),
          row<RunFile>(
              "quantize.lm_head", boolean(), "Quantize the output head too", kIdentity,
              [](auto& run) -> auto& { return run.quantize.lm_head; }),
          row<RunFile>(
              "quantize.rules", std::make_shared<RulesType>(),
              "Exceptions for modules; the first rule that matches the whole name wins", kIdentity,
              [](auto& run) -> auto& { return run.quantize.rules; })};
}

Fields output_fields() {
  return {row<RunFile>(
              "output.path", path(), "Folder of the quantized model", kNeeded,
              [](auto& run) -> auto& { return run.output.path; }),
          row<RunFile>(
              "output.format", choice(kNames<OutputFormat>),
              "Packed GPTQ (2, 3, 4, 8 bits), or plain weights on the grid", kFree,
              [](auto& run) -> auto& { return run.output.format; }),
          row<RunFile>(
              "output.shard_size", byte_size(1000, kExact), "Largest file of the model", kFree,
              [](auto& run) -> auto& { return run.output.shard_bytes; })};
}

Fields evaluate_fields() {
  return {
      row<RunFile>(
          "evaluate.source", paths(),
          "Text to measure perplexity on, as in calibration; []: no evaluation", kWithSection,
          [](auto& run) -> auto& { return run.evaluate.text.source; }),
      row<RunFile>(
          "evaluate.field", text(), "Field of a JSON line that holds the text", kFree,
          [](auto& run) -> auto& { return run.evaluate.text.field; }),
      row<RunFile>(
          "evaluate.sequence_length", integer(2, kMaxTokens), "Tokens of a window", kFree,
          [](auto& run) -> auto& { return run.evaluate.text.sequence_length; }),
      row<RunFile>(
          "evaluate.samples", integer(0, kMaxWindows),
          "Windows from the start of the text; 0: all whole ones", kFree,
          [](auto& run) -> auto& { return run.evaluate.samples; }),
      row<RunFile>(
          "evaluate.micro_batch", integer(1, 4096), "Windows pushed through a layer at once", kFree,
          [](auto& run) -> auto& { return run.evaluate.micro_batch; }),
      row<RunFile>(
          "evaluate.max_characters", integer(0, kExact), "Characters read from the text; 0: all",
          kFree, [](auto& run) -> auto& { return run.evaluate.text.max_characters; }),
      row<RunFile>(
          "evaluate.bos", choice(kNames<BosPolicy>),
          "Start each window with begin-of-sequence; auto: as the tokenizer does", kFree,
          [](auto& run) -> auto& { return run.evaluate.text.bos; })};
}

Fields run_fields() {
  return {row<RunFile>(
              "run.directory", path(), "Folder of the run's state, for resume and report", kNeeded,
              [](auto& run) -> auto& { return run.run.directory; }),
          row<RunFile>(
              "run.device", choice(kNames<Device>), "Where to compute; auto: a GPU if any", kFree,
              [](auto& run) -> auto& { return run.run.device; }),
          row<RunFile>(
              "run.resume", choice(kNames<Resume>),
              "Continue what the directory holds: if it fits, always, or never", kFree,
              [](auto& run) -> auto& { return run.run.resume; }),
          row<RunFile>(
              "run.threads", integer(0, 4096), "Threads per rank; 0: an equal share", kFree,
              [](auto& run) -> auto& { return run.run.threads; }),
          row<RunFile>(
              "run.save_activations", integer(0, 10'000),
              "Keep the inputs of every n-th layer for a faster resume; 0: never", kFree,
              [](auto& run) -> auto& { return run.run.save_activations; }),
          row<RunFile>(
              "run.watchdog", duration(1, 86'400), "Silence after which a rank counts as lost",
              kFree, [](auto& run) -> auto& { return run.run.watchdog; }),
          row<RunFile>(
              "run.deadline", duration(1, 604'800), "Longest wait in one collective", kFree,
              [](auto& run) -> auto& { return run.run.deadline; }),
          row<RunFile>(
              "run.log_level", choice(kNames<LogLevel>), "Least severity that is logged", kFree,
              [](auto& run) -> auto& { return run.run.log_level; }),
          row<RunFile>(
              "run.ignore_numerics", boolean(),
              "Resume although the backend or a library differs; the bytes may then differ", kFree,
              [](auto& run) -> auto& { return run.run.ignore_numerics; })};
}

constexpr std::array<Section, 6> kSections{
    {{"model", "The model to quantize"},
     {"calibration", "The text that shows which weights matter"},
     {"quantize", "How the weights become codes"},
     {"output", "The quantized model"},
     {"evaluate", "Perplexity before and after; left out: none"},
     {"run", "Where and how the job runs; not part of the run's identity"}}};

}  // namespace

std::span<const Section> run_file_sections() {
  return kSections;
}

const std::vector<Field<RunFile>>& run_file_fields() {
  static const Fields all = [] {
    Fields fields;
    for (const auto& section : {model_fields, calibration_fields, grid_fields, solver_fields,
                                output_fields, evaluate_fields, run_fields}) {
      for (Field<RunFile>& field : section()) fields.push_back(std::move(field));
    }
    return fields;
  }();
  return all;
}

const std::vector<Field<QuantizeRule>>& rule_fields() {
  using Rule = QuantizeRule;
  static const std::vector<Field<Rule>> all{
      row<Rule>(
          "match", pattern(), "Regular expression for the whole name, without '.weight'", kNeeded,
          [](auto& rule) -> auto& { return rule.match; }),
      row<Rule>(
          "bits", integer(2, 8), "Bits of a code", kFree,
          [](auto& rule) -> auto& { return rule.bits; }),
      row<Rule>(
          "group_size", group_size(), "Columns that share a scale; -1: the whole row", kFree,
          [](auto& rule) -> auto& { return rule.group_size; }),
      row<Rule>(
          "symmetric", boolean(), "Grid centred on zero", kFree,
          [](auto& rule) -> auto& { return rule.symmetric; }),
      row<Rule>(
          "skip", boolean(), "Leave the module as it is", kFree,
          [](auto& rule) -> auto& { return rule.skip; })};
  return all;
}

}  // namespace quern

#include "pipeline/config/fields.h"

#include <array>
#include <utility>

#include "pipeline/config/field_row.h"
#include "pipeline/config/nested_fields.h"

namespace quern {

namespace {

constexpr std::int64_t kExact = (std::int64_t{1} << 53) - 1;  // what every JSON reader keeps
constexpr std::int64_t kMaxTokens = std::int64_t{1} << 20;
constexpr std::int64_t kMaxWindows = 1'000'000;
constexpr Traits kOnGrid{.identity = true, .methods = {Method::rtn, Method::gptq}};
constexpr Traits kFeedback{.identity = true, .methods = {Method::gptq}};
constexpr Traits kOfTables{.identity = true, .methods = {Method::squeezellm}};

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

/// Unset where target_bits takes its place.
Field<RunFile> bits_field() {
  Field<RunFile> field = row<RunFile>(
      "quantize.bits", integer(2, 8), "Bits of a code", kIdentity,
      [](auto& run) -> auto& { return run.quantize.grid.bits; });
  field.value = [](const RunFile& run) {
    return run.quantize.target_bits ? nlohmann::json() : nlohmann::json(run.quantize.grid.bits);
  };
  return field;
}

Fields grid_fields() {
  return {row<RunFile>(
              "quantize.method", choice(kNames<Method>),
              "rtn rounds to nearest; gptq corrects each rounding by the statistics; squeezellm "
              "chooses a table for each row",
              kIdentity, [](auto& run) -> auto& { return run.quantize.method; }),
          bits_field(),
          row<RunFile>(
              "quantize.group_size", group_size(),
              "Input columns that share a scale; -1: the whole row", kOnGrid,
              [](auto& run) -> auto& { return run.quantize.grid.group_size; }),
          row<RunFile>(
              "quantize.symmetric", boolean(), "Grid centred on zero, without zero points", kOnGrid,
              [](auto& run) -> auto& { return run.quantize.grid.symmetric; }),
          row<RunFile>(
              "quantize.scale_search", choice(kNames<ScaleSearch>),
              "Scales that just cover the weights, or of least weighted error", kOnGrid,
              [](auto& run) -> auto& { return run.quantize.grid.scale_search; })};
}

Fields solver_fields() {
  return {row<RunFile>(
              "quantize.act_order", choice(kNames<ActOrder>),
              "Round the most active columns first: inside groups, or across them (full)",
              kFeedback, [](auto& run) -> auto& { return run.quantize.act_order; }),
          row<RunFile>(
              "quantize.damping", real(0, 1),
              "Fraction of the mean diagonal that is added to the statistics", kFeedback,
              [](auto& run) -> auto& { return run.quantize.damping; }),
          row<RunFile>(
              "quantize.propagation", choice(kNames<Propagation>),
              "Weights that produce the inputs of the next layer", kFeedback,
              [](auto& run) -> auto& { return run.quantize.propagation; }),
          row<RunFile>(
              "quantize.true_sequential", boolean(),
              "Measure each module behind the quantized ones before it in its layer", kFeedback,
              [](auto& run) -> auto& { return run.quantize.true_sequential; }),
          row<RunFile>(
              "quantize.lm_head", boolean(), "Quantize the output head too", kOnGrid,
              [](auto& run) -> auto& { return run.quantize.lm_head; }),
          row<RunFile>(
              "quantize.rules", rules(),
              "Exceptions for modules; the first rule that matches the whole name wins", kIdentity,
              [](auto& run) -> auto& { return run.quantize.rules; })};
}

Fields table_fields() {
  return {row<RunFile>(
              "quantize.sparsity", sparsity(),
              "Fraction of the weights kept exactly: up to 0.0005 the sensitive ones, beyond it "
              "those of large magnitude",
              kOfTables, [](auto& run) -> auto& { return run.quantize.sparsity; }),
          row<RunFile>(
              "quantize.codebook_type", choice(kNames<CodebookType>), "Precision of the tables",
              kOfTables, [](auto& run) -> auto& { return run.quantize.codebook_type; }),
          row<RunFile>(
              "quantize.codebook_search", choice(kNames<CodebookSearch>),
              "Least error weighted by the gradients (kmeans), or of the module's outputs (lnq)",
              kOfTables, [](auto& run) -> auto& { return run.quantize.codebook_search; }),
          row<RunFile>(
              "quantize.codebook_damping", real(0, 100),
              "Fraction of the mean diagonal that lnq adds to its statistics", kOfTables,
              [](auto& run) -> auto& { return run.quantize.codebook_damping; }),
          row<RunFile>(
              "quantize.target_bits", real_from(2, 8),
              "Instead of bits: mean per weight in the file, tables and outliers included; these "
              "are then "
              "chosen jointly, at most as many of each module as sparsity says",
              kOfTables, [](auto& run) -> auto& { return run.quantize.target_bits; })};
}

Fields output_fields() {
  return {row<RunFile>(
              "output.path", path(), "Folder of the quantized model", kNeeded,
              [](auto& run) -> auto& { return run.output.path; }),
          row<RunFile>(
              "output.format", choice(kNames<OutputFormat>),
              "Packed GPTQ (2, 3, 4, 8 bits), plain weights, or SqueezeLLM's .pt (one bit width) "
              "or the "
              "same tensors as safetensors; follows the method",
              kFree, [](auto& run) -> auto& { return run.output.format; }),
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
  return {
      row<RunFile>(
          "run.directory", path(), "Folder of the run's state, for resume and report", kNeeded,
          [](auto& run) -> auto& { return run.run.directory; }),
      row<RunFile>(
          "run.device", choice(kNames<Device>),
          "Where to compute; auto: a GPU for each rank if there are any, else the CPU", kFree,
          [](auto& run) -> auto& { return run.run.device; }),
      row<RunFile>(
          "run.activation_type", choice(kNames<ActivationType>),
          "Precision of weights and activations; auto: the model's on a GPU, float32 on the CPU; "
          "float64, slower: processors and GPUs of any kind choose the same codes",
          kFree, [](auto& run) -> auto& { return run.run.activation_type; }),
      row<RunFile>(
          "run.gpu_memory", byte_size(0, kExact),
          "Memory a rank may take of its GPU; 0: what is free at the start", kFree,
          [](auto& run) -> auto& { return run.run.gpu_memory_bytes; }),
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
          [](auto& run) -> auto& { return run.run.save_activations; })};
}

Fields kept_fields() {
  return {row<RunFile>(
              "run.statistics", choice(kNames<Statistics>),
              "Drop what the calibration measured, or keep it for other runs", kFree,
              [](auto& run) -> auto& { return run.run.statistics; }),
          unset_if_empty(row<RunFile>(
              "run.statistics_directory", path(),
              "Folder of the statistics; 'statistics' in the run directory if not set", kFree,
              [](auto& run) -> auto& { return run.run.statistics_directory; })),
          row<RunFile>(
              "run.activation_memory", byte_size(0, kExact),
              "Host memory of a rank for kept layer inputs, the rest goes to a file; 0: half of "
              "what is free",
              kFree, [](auto& run) -> auto& { return run.run.activation_bytes; })};
}

Fields watch_fields() {
  return {row<RunFile>(
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

Fields sweep_fields() {
  Fields fields{
      row<RunFile>(
          "sweep.method", list_of(choice(kNames<Method>), "methods"), "Values of quantize.method",
          kFree, [](auto& run) -> auto& { return run.sweep.method; }),
      row<RunFile>(
          "sweep.bits", list_of(integer(2, 8), "integers"), "Values of quantize.bits", kFree,
          [](auto& run) -> auto& { return run.sweep.bits; }),
      row<RunFile>(
          "sweep.group_size", list_of(group_size(), "sizes"), "Values of quantize.group_size",
          kOnGrid, [](auto& run) -> auto& { return run.sweep.group_size; }),
      row<RunFile>(
          "sweep.sparsity", list_of(sparsity(), "them"), "Values of quantize.sparsity", kOfTables,
          [](auto& run) -> auto& { return run.sweep.sparsity; }),
      row<RunFile>(
          "sweep.points", points(), "Further points; what one does not set is as in quantize",
          kFree, [](auto& run) -> auto& { return run.sweep.points; }),
      row<RunFile>(
          "sweep.exclude", points(), "Points to leave out: those that have all that an entry sets",
          kFree, [](auto& run) -> auto& { return run.sweep.exclude; })};
  for (Field<RunFile>& field : fields) {
    field.identity = false;
    field = unset_if_empty(std::move(field));
  }
  return fields;
}

constexpr std::array<Section, 7> kSections{
    {{"model", "The model to quantize"},
     {"calibration", "The text that shows which weights matter"},
     {"quantize", "How the weights become codes"},
     {"output", "The quantized model"},
     {"evaluate", "Perplexity before and after; left out: none"},
     {"run", "Where and how the job runs; not part of the run's identity"},
     {"sweep", "Several runs from one calibration: the product of the lists"}}};

}  // namespace

std::span<const Section> run_file_sections() {
  return kSections;
}

const std::vector<Field<RunFile>>& run_file_fields() {
  static const Fields all = [] {
    Fields fields;
    for (const auto& section :
         {model_fields, calibration_fields, grid_fields, solver_fields, table_fields, output_fields,
          evaluate_fields, run_fields, kept_fields, watch_fields, sweep_fields}) {
      for (Field<RunFile>& field : section()) fields.push_back(std::move(field));
    }
    return fields;
  }();
  return all;
}

}  // namespace quern

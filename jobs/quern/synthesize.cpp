#include <fmt/format.h>

#include <chrono>
#include <memory>
#include <thread>

#include "jobs/quern/commands.h"
#include "jobs/quern/options.h"
#include "pipeline/synthesis/synthesis.h"
#include "workers/files/atomic_file.h"
#include "workers/files/json_file.h"

namespace quern {
namespace {

struct SynthesizeOptions {
  std::string config;
  std::string output;
  std::string tokenizer;
  std::string dtype;
  std::uint64_t shard_bytes = 5'000'000'000;
  std::int64_t layers = 0;  ///< 0: all
  std::uint64_t seed = 0;
  int threads = 0;  ///< 0: all cores
  std::vector<std::string> ignored_fields;
};

std::optional<DType> dtype_named(const std::string& name) {
  if (name == "bfloat16") return DType::bf16;
  if (name == "float16") return DType::f16;
  if (name == "float32") return DType::f32;
  if (name == "float8_e4m3") return DType::f8_e4m3;
  return std::nullopt;
}

nlohmann::ordered_json read_config(const std::filesystem::path& path) {
  const std::string text = read_text_file(path);
  parse_json(text, path.string());  // refuses what is no proper JSON
  return nlohmann::ordered_json::parse(text);
}

void synthesize(const SynthesizeOptions& options, const CommitHook& hook) {
  if (!is_first_process()) return;  // one process of a job does it
  std::filesystem::path path = options.config;
  if (std::filesystem::is_directory(path)) path /= "config.json";
  const Synthesis synthesis =
      plan_synthesis(read_config(path), path.string(),
                     {.dtype = dtype_named(options.dtype),
                      .shard_bytes = options.shard_bytes,
                      .layers = options.layers > 0 ? std::optional(options.layers) : std::nullopt,
                      .ignored_fields = options.ignored_fields});
  const int cores = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  const auto begin = std::chrono::steady_clock::now();
  write_synthesis(synthesis, {.folder = options.output,
                              .seed = options.seed,
                              .threads = options.threads > 0 ? options.threads : cores,
                              .tokenizer = options.tokenizer,
                              .wrote_shard =
                                  [](const std::string& file, std::uint64_t bytes) {
                                    fmt::print(stderr, "{}: {} bytes\n", file, bytes);
                                  },
                              .hook = hook});
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
  const auto gigabytes = static_cast<double>(synthesis.tensor_bytes()) * 1e-9;
  fmt::print("{}: {:.3f} GB in {} file{}, {:.1f} s, {:.2f} GB/s\n", options.output, gigabytes,
             synthesis.shards.size(), synthesis.shards.size() == 1 ? "" : "s", seconds.count(),
             gigabytes / seconds.count());
}

}  // namespace

void add_synthesize(CLI::App& app, CommandContext& context) {
  CLI::App* command = app.add_subcommand(
      "synthesize",
      "write a model of a given config.json with random weights, to rehearse a run at full size");
  const auto options = std::make_shared<SynthesizeOptions>();
  command->add_option("--config", options->config, "config.json of the model, or its folder")
      ->required();
  command->add_option("--output", options->output, "model folder to write, new or empty")
      ->required();
  command
      ->add_option("--dtype", options->dtype,
                   "type of the weights; float8_e4m3: FP8 in blocks of 128 x 128 with their "
                   "scales; default: as config.json says")
      ->check(CLI::IsMember({"bfloat16", "float16", "float32", "float8_e4m3"}));
  command->add_option("--shard-size", options->shard_bytes, "largest file, default 5GB")
      ->transform(CLI::AsSizeValue(true))
      ->check(CLI::PositiveNumber)
      ->type_name("BYTES");
  command->add_option("--layers", options->layers, "only the first decoder layers")
      ->check(CLI::PositiveNumber);
  command->add_option("--seed", options->seed, "of the random weights, default 0");
  command->add_option("--threads", options->threads, "default: one per core")
      ->check(CLI::Range(1, 4096));
  command->add_option("--tokenizer", options->tokenizer,
                      "folder whose tokenizer files are copied, so that text can be tokenized");
  command
      ->add_option("--ignore-field", options->ignored_fields,
                   "a field of config.json that is not known and does not matter")
      ->allow_extra_args(false);
  command->callback([&context, options] {
    context.exit_code = guarded([&] { synthesize(*options, context.commit_hook); });
  });
}

}  // namespace quern

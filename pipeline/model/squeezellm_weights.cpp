#include "pipeline/model/squeezellm_weights.h"

#include <fmt/format.h>

#include <algorithm>

#include "kernels/core/error.h"
#include "kernels/core/float16.h"
#include "pipeline/model/packed_checkpoint.h"
#include "pipeline/model/packed_codes.h"

namespace quern {
namespace {

/// K, from the words of a column.
std::int64_t columns_of(const Shape& qweight, int bits) {
  return qweight[0] * 32 / bits;
}

bool whole_codes(const Shape& qweight, int bits) {
  return qweight.rank() == 2 && qweight[0] * 32 % bits == 0;
}

/// words: qweight, which need not be in `tensors`.
void check_shapes(const SqueezellmTensors& tensors, const TensorSpec& words, int bits,
                  const std::string& module) {
  if (words.dtype != DType::i32 || !whole_codes(words.shape, bits)) {
    throw InputError(fmt::format("tensor '{}' is {} {}; expected I32 [K * {} / 32, N]", words.name,
                                 dtype_name(words.dtype), words.shape.text(), bits));
  }
  const std::int64_t rows = words.shape[1];
  const DType table = tensors.lookup_table.dtype == DType::f16 ? DType::f16 : DType::f32;
  expect_tensor(spec_of(module + ".lookup_table", tensors.lookup_table), table,
                {rows, std::int64_t{1} << bits});
  if (!tensors.outliers) return;
  const std::int64_t outliers = tensors.outliers->cols.shape.elems();
  expect_tensor(spec_of(module + ".rows", tensors.outliers->rows), DType::i32, {rows + 1});
  expect_tensor(spec_of(module + ".cols", tensors.outliers->cols), DType::i32, {outliers});
  expect_tensor(spec_of(module + ".vals", tensors.outliers->vals), DType::f32, {outliers});
}

/// Row pointers ascend from 0 to the number of outliers; columns are in range and ascend.
void check_outliers(const SqueezellmOutliers& outliers, std::int64_t columns,
                    const std::string& module) {
  const auto rows = outliers.rows.as<std::int32_t>();
  const auto cols = outliers.cols.as<std::int32_t>();
  for (std::size_t n = 0; n < rows.size(); ++n) {
    const std::int64_t least = n == 0 ? 0 : rows[n - 1];
    const auto most = n == 0 ? 0 : static_cast<std::int64_t>(cols.size());
    if (rows[n] >= least && rows[n] <= most) continue;
    throw InputError(fmt::format("tensor '{}.rows' has {} at {}; expected {} to {}", module,
                                 rows[n], n, least, most));
  }
  if (static_cast<std::size_t>(rows.back()) != cols.size()) {
    throw InputError(fmt::format("tensor '{}.rows' ends with {}; expected {}, the size of cols",
                                 module, rows.back(), cols.size()));
  }
  for (std::size_t n = 0; n + 1 < rows.size(); ++n) {
    std::int64_t least = 0;
    for (auto i = static_cast<std::size_t>(rows[n]); i < static_cast<std::size_t>(rows[n + 1]);
         ++i) {
      if (cols[i] < least || cols[i] >= columns) {
        throw InputError(fmt::format(
            "tensor '{}.cols' has {} at {}, in row {}; expected columns that ascend and are below "
            "{}",
            module, cols[i], i, n, columns));
      }
      least = std::int64_t{cols[i]} + 1;
    }
  }
}

HostTensor as_single(const HostTensor& tensor) {
  if (tensor.dtype == DType::f32) return tensor;
  HostTensor single(DType::f32, tensor.shape);
  std::ranges::transform(tensor.as<std::uint16_t>(), single.as<float>().begin(), f16_to_float);
  return single;
}

int read_bits(const nlohmann::ordered_json& config, const char* key, std::string_view where) {
  const auto bits = config.find(key);
  if (bits != config.end() && bits->is_number_integer() && *bits >= 2 && *bits <= 8) return *bits;
  throw InputError(fmt::format("{}: {} is {}; expected 2 to 8", where, key,
                               bits == config.end() ? "missing" : bits->dump()));
}

/// Types and shapes of a packed module's tensors, without reading them; the places of the outliers
/// are checked when they are decoded.
void check_packed(const TensorNode& node, const TensorSource& source, const std::string& module,
                  int bits) {
  const Shape& qweight = source.entry(module + ".qweight").shape;
  const Shape& table = source.entry(module + ".lookup_table").shape;
  const std::string folder = source.folder().string();
  if (source.contains(module + ".full_rows") &&
      source.entry(module + ".full_rows").shape.elems() > 0) {
    throw InputError(
        fmt::format("{}: tensor '{}.full_rows' holds dense rows, which are not "
                    "supported; save the checkpoint without them",
                    folder, module));
  }
  const bool fits = node.shape.rank() == 2 && whole_codes(qweight, bits) &&
                    qweight[1] == node.shape[0] && columns_of(qweight, bits) == node.shape[1] &&
                    table == Shape{node.shape[0], std::int64_t{1} << bits};
  if (!fits) {
    throw InputError(fmt::format(
        "{}: module '{}' of {} bits is packed with qweight {} and lookup_table {}; config.json "
        "calls for a weight of shape {}",
        folder, module, bits, qweight.text(), table.text(), node.shape.text()));
  }
  const std::int64_t outliers =
      source.contains(module + ".rows") ? source.entry(module + ".cols").shape.elems() : 0;
  const std::int64_t said = source.scalar("sparse_threshold." + module).value_or(outliers);
  if (said != outliers) {
    throw InputError(fmt::format("{}: 'sparse_threshold.{}' is {}; '{}.cols' has {} elements",
                                 folder, module, said, module, outliers));
  }
}

/// What a module holds beside its words, checked, and as decode_codebook() takes it.
struct Tables {
  /// words: qweight.
  Tables(const SqueezellmTensors& tensors, const TensorSpec& words, int bits,
         const std::string& module)
      : bits_(bits) {
    check_shapes(tensors, words, bits, module);
    columns_ = columns_of(words.shape, bits);
    table_ = as_single(tensors.lookup_table);
    if (tensors.outliers) check_outliers(*tensors.outliers, columns_, module);
    outliers_ = tensors.outliers.value_or(
        SqueezellmOutliers{HostTensor(DType::i32, {words.shape[1] + 1}),
                           HostTensor(DType::i32, {0}), HostTensor(DType::f32, {0})});
  }

  PackedCodebook with(const HostTensor& words, std::int64_t first_row) const {
    return {words,          table_,   outliers_.rows, outliers_.cols,
            outliers_.vals, columns_, bits_,          first_row};
  }

 private:
  int bits_;
  std::int64_t columns_ = 0;
  HostTensor table_;
  SqueezellmOutliers outliers_;
};

}  // namespace

HostTensor decode_squeezellm(const SqueezellmTensors& tensors, int bits, std::string_view module) {
  const std::string name(module);
  const Tables tables(tensors, spec_of(name + ".qweight", tensors.qweight), bits, name);
  return decode_codebook(tables.with(tensors.qweight, 0));
}

SqueezellmWeights::SqueezellmWeights(const TensorSource& source,
                                     const nlohmann::ordered_json& config, std::string_view origin)
    : source_(source) {
  if (!config.is_object()) {
    throw InputError(fmt::format("{}: is {}; expected an object", origin, config.type_name()));
  }
  bits_ = read_bits(config, config.contains("wbits") ? "wbits" : "bits", origin);
  const auto modules = config.find("modules");
  if (modules == config.end()) return;
  if (!modules->is_object()) {
    throw InputError(fmt::format("{}: modules is {}; expected an object of modules that differ",
                                 origin, modules->type_name()));
  }
  for (const auto& [module, value] : modules->items()) {
    const std::string where = fmt::format("{}: modules: '{}'", origin, module);
    if (!value.is_object()) {
      throw InputError(fmt::format("{} is {}; expected an object", where, value.dump()));
    }
    deviating_[module] = read_bits(value, "bits", where);
  }
}

bool SqueezellmWeights::is_packed(const std::string& module) const {
  return source_.contains(module + ".qweight");
}

int SqueezellmWeights::bits_of(const std::string& module) const {
  const auto found = deviating_.find(module);
  return found == deviating_.end() ? bits_ : found->second;
}

/// All but its words.
SqueezellmTensors SqueezellmWeights::read_tables(const std::string& module) const {
  SqueezellmTensors tensors{{}, source_.read(module + ".lookup_table"), std::nullopt};
  if (source_.contains(module + ".rows")) {
    tensors.outliers = {source_.read(module + ".rows"), source_.read(module + ".cols"),
                        source_.read(module + ".vals")};
  }
  return tensors;
}

HostTensor SqueezellmWeights::read(const std::string& name) const {
  const std::string module = packed_module(name);
  if (!is_packed(module)) return source_.read(name);
  SqueezellmTensors tensors = read_tables(module);
  tensors.qweight = source_.read(module + ".qweight");
  return decode_squeezellm(tensors, bits_of(module), module);
}

void SqueezellmWeights::read_pieces(const std::string& name, const TakeValues& take) const {
  const std::string module = packed_module(name);
  if (!is_packed(module)) return WeightSource::read_pieces(name, take);
  const std::string words = module + ".qweight";
  const TensorEntry& entry = source_.entry(words);
  const Tables tables(read_tables(module), {words, entry.dtype, entry.shape}, bits_of(module),
                      module);
  read_columns(source_, words, [&](std::int64_t first, const HostTensor& strip) {
    decode_codebook(tables.with(strip, first), take);
  });
}

std::uint64_t SqueezellmWeights::bytes(const std::string& name) const {
  if (source_.contains(name)) return source_.entry(name).bytes;
  const std::string module = name.substr(0, name.rfind('.'));
  return source_.entry(module + ".qweight").bytes;
}

void check_squeezellm_checkpoint(const ModelGraph& graph, const TensorSource& source,
                                 const SqueezellmWeights& weights) {
  check_packed_checkpoint(graph, source, [&](const TensorNode& node, const std::string& module) {
    if (!weights.is_packed(module)) return false;
    check_packed(node, source, module, weights.bits_of(module));
    return true;
  });
}

}  // namespace quern

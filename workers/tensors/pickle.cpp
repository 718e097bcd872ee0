#include "workers/tensors/pickle.h"

#include <fmt/format.h>

#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

#include "kernels/core/error.h"
#include "kernels/core/shape.h"
#include "workers/tensors/pickle_machine.h"
#include "workers/tensors/safetensors_header.h"

namespace quern {
namespace {

bool is_utf8(std::string_view text) {
  try {
    (void)nlohmann::json(text).dump();
    return true;
  } catch (const nlohmann::json::exception&) {
    return false;
  }
}

/// Finds the tensors in the values of a pickle.
class StateReader {
 public:
  StateReader(const PickleGraph& graph, std::string_view origin) : graph_(graph), origin_(origin) {}

  PickledState read() {
    const PickleValue& root = value(graph_.root);
    if (root.kind != PickleKind::dict) {
      throw InputError(fmt::format("{}: holds {}, expected a dict of tensors by name", origin_,
                                   kind_name(root.kind)));
    }
    PickledState state;
    for (std::size_t i = 0; i + 1 < root.items.size(); i += 2) {
      const PickleValue& key = value(root.items[i]);
      name_ = key.kind == PickleKind::text ? std::string(key.text) : std::string();
      if (key.kind != PickleKind::text || !is_utf8(key.text)) {
        fail(fmt::format("the name is {}, expected a string in UTF-8", kind_name(key.kind)));
      }
      add(value(root.items[i + 1]), state);
    }
    if (!state.tensors.empty()) return state;
    throw InputError(
        fmt::format("{}: the dict holds no tensors, expected tensors by name; a checkpoint that "
                    "keeps them under a key such as \"state_dict\" must be saved again without it",
                    origin_));
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    throw InputError(fmt::format("{}: tensor {}: {}", origin_, shown(name_), what));
  }
  const PickleValue& value(PickleId id) const { return graph_.values[id]; }

  void add(const PickleValue& found, PickledState& state) {
    bool fresh = true;
    if (found.kind == PickleKind::call) {
      fresh = state.tensors.emplace(name_, tensor(found)).second;
    } else if (found.kind == PickleKind::integer) {
      fresh = state.scalars.emplace(name_, found.integer).second;
    }
    if (!fresh) fail("appears twice");
  }

  /// Arguments of a call of this role.
  const std::vector<PickleId>& arguments(const PickleValue& call, PickleRole role,
                                         std::size_t least) const {
    if (call.kind != PickleKind::call || value(call.items[0]).global->role != role) {
      fail(fmt::format("is {}, expected a tensor as torch.save writes it", kind_name(call.kind)));
    }
    return items(call.items[1], PickleKind::tuple, least, "the arguments of its call");
  }
  const std::vector<PickleId>& items(PickleId id, PickleKind kind, std::size_t least,
                                     std::string_view what) const {
    const PickleValue& found = value(id);
    if (found.kind != kind || found.items.size() < least) {
      fail(fmt::format("{}: {} of {} items, expected {} of at least {}", what,
                       kind_name(found.kind), found.items.size(), kind_name(kind), least));
    }
    return found.items;
  }
  std::int64_t count(PickleId id, std::string_view what) const {
    const PickleValue& found = value(id);
    if (found.kind != PickleKind::integer || found.integer < 0) {
      fail(fmt::format("{} is {} {}, expected an integer that is not negative", what,
                       kind_name(found.kind), found.integer));
    }
    return found.integer;
  }
  std::vector<std::int64_t> counts(PickleId id, std::string_view what) const {
    const std::vector<PickleId>& found = items(id, PickleKind::tuple, 0, what);
    if (found.size() > Shape::max_rank) {
      fail(fmt::format("{} has {} dimensions, expected at most {}", what, found.size(),
                       Shape::max_rank));
    }
    std::vector<std::int64_t> numbers;
    for (const PickleId item : found) numbers.push_back(count(item, what));
    return numbers;
  }

  PickledTensor tensor(const PickleValue& call) const {
    const PickleValue* rebuilt = &call;
    if (value(call.items[0]).global->role == PickleRole::rebuild_parameter) {
      rebuilt = &value(arguments(call, PickleRole::rebuild_parameter, 1)[0]);
    }
    const auto& parts = arguments(*rebuilt, PickleRole::rebuild_tensor, 4);
    PickledTensor result;
    read_storage(parts[0], result);
    result.offset = count(parts[1], "its offset");
    result.shape = counts(parts[2], "its shape");
    result.strides = counts(parts[3], "its strides");
    if (result.shape.size() != result.strides.size()) {
      fail(fmt::format("has {} dimensions and {} strides, expected as many", result.shape.size(),
                       result.strides.size()));
    }
    return result;
  }

  /// ('storage', class, key, device, elements)
  void read_storage(PickleId id, PickledTensor& result) const {
    const PickleId tuple = items(id, PickleKind::persistent, 1, "its storage")[0];
    const auto& parts = items(tuple, PickleKind::tuple, 5, "its storage");
    const PickleValue& type = value(parts[1]);
    const PickleValue& key = value(parts[2]);
    if (value(parts[0]).text != "storage" || type.kind != PickleKind::global ||
        type.global->role != PickleRole::storage || key.kind != PickleKind::text) {
      fail("its storage is not ('storage', class, key, device, elements) as torch.save writes it");
    }
    result.dtype = type.global->dtype;
    result.storage = key.text;
    result.storage_elems = count(parts[4], "its storage's number of elements");
  }

  const PickleGraph& graph_;
  std::string_view origin_;
  std::string name_;
};

/// Writes a pickle of protocol 2 without memo.
class PickleWriter {
 public:
  std::string format(std::span<const TensorSpec> specs, std::span<const NamedScalar> scalars) {
    text_ = "\x80\x02}(";
    for (std::size_t i = 0; i < specs.size(); ++i) put_tensor(specs[i], i);
    for (const NamedScalar& scalar : scalars) {
      put_text(scalar.name);
      put_integer(scalar.value);
    }
    return text_ + "u.";
  }

 private:
  template <typename T>
  void put_number(char code, T value) {
    char bytes[sizeof(T)];
    std::memcpy(bytes, &value, sizeof(T));
    text_ += code;
    text_.append(bytes, sizeof(T));
  }
  void put_text(std::string_view text) {
    put_number('X', static_cast<std::uint32_t>(text.size()));
    text_ += text;
  }
  void put_integer(std::int64_t value) {
    if (value >= 0 && value <= UINT8_MAX) {
      put_number('K', static_cast<std::uint8_t>(value));
    } else if (value >= INT32_MIN && value <= INT32_MAX) {
      put_number('J', static_cast<std::int32_t>(value));
    } else {
      text_ += '\x8A';
      put_number('\x08', value);
    }
  }
  void put_tensor(const TensorSpec& spec, std::size_t index) {
    const PickleGlobal* storage = find_pickle_storage(spec.dtype);
    ensure(storage != nullptr, "a type that PyTorch has a storage class for");
    put_text(spec.name);
    text_ += "ctorch._utils\n_rebuild_tensor_v2\n((";
    put_text("storage");
    text_ += fmt::format("c{}\n{}\n", storage->module, storage->name);
    put_text(std::to_string(index));
    put_text("cpu");
    put_integer(spec.shape.elems());
    text_ += "tQK";
    text_ += '\0';  // offset
    text_ += '(';
    for (const std::int64_t dim : spec.shape.dims()) put_integer(dim);
    text_ += "t(";
    std::int64_t stride = spec.shape.elems();
    for (const std::int64_t dim : spec.shape.dims()) {
      if (dim > 0) stride /= dim;
      put_integer(stride);
    }
    text_ +=
        "t\x89"
        "ccollections\nOrderedDict\n)RtR";
  }

  std::string text_;
};

}  // namespace

PickledState read_pickle(std::span<const std::byte> pickle, std::string_view origin) {
  const PickleGraph graph = run_pickle(pickle, origin);
  return StateReader(graph, origin).read();
}

std::string format_pickle(std::span<const TensorSpec> specs, std::span<const NamedScalar> scalars) {
  return PickleWriter().format(specs, scalars);
}

}  // namespace quern

#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

namespace quern::test {

/// A number's bytes, little-endian.
template <typename T>
std::string le(T value) {
  std::string bytes(sizeof(T), '\0');
  std::memcpy(bytes.data(), &value, sizeof(T));
  return bytes;
}

struct ZipPart {
  std::string name;
  std::string data;
  std::uint16_t flags = 0;
  std::uint16_t method = 0;
};

/// What a test may set wrong.
struct ZipDamage {
  int entries_more = 0;
  int directory_later = 0;
  std::string local_name{};  ///< of the first entry, if not empty
};

/// A zip file put together by hand: no extra fields, no checksums, no zip64.
inline std::string zip_bytes(const std::vector<ZipPart>& parts, const ZipDamage& damage = {}) {
  std::string file;
  std::string directory;
  for (const ZipPart& part : parts) {
    const auto size = static_cast<std::uint32_t>(part.data.size());
    const std::string shared =
        le(part.flags) + le(part.method) + le<std::uint32_t>(0) + le<std::uint32_t>(0) + le(size) +
        le(size) + le(static_cast<std::uint16_t>(part.name.size())) + le<std::uint16_t>(0);
    const bool first = file.empty() && !damage.local_name.empty();
    directory += "PK\1\2" + le<std::uint16_t>(20) + le<std::uint16_t>(20) + shared +
                 std::string(10, '\0') + le(static_cast<std::uint32_t>(file.size())) + part.name;
    file += "PK\3\4" + le<std::uint16_t>(20) + shared + (first ? damage.local_name : part.name) +
            part.data;
  }
  const auto entries =
      static_cast<std::uint16_t>(static_cast<int>(parts.size()) + damage.entries_more);
  const auto begin =
      static_cast<std::uint32_t>(static_cast<int>(file.size()) + damage.directory_later);
  return file + directory + "PK\5\6" + le<std::uint32_t>(0) + le(entries) + le(entries) +
         le(static_cast<std::uint32_t>(directory.size())) + le(begin) + le<std::uint16_t>(0);
}

inline std::string pickled_text(const std::string& text) {
  std::string pickled = "X";
  pickled += le(static_cast<std::uint32_t>(text.size()));
  return pickled + text;
}

inline std::string pickled_int(std::int64_t value) {
  return std::string("\x8A\x08") + le(value);
}

inline std::string pickled_tuple(const std::vector<std::int64_t>& values) {
  std::string text = "(";
  for (const std::int64_t value : values) text += pickled_int(value);
  return text + "t";
}

/// A tensor in a pickle.
struct TorchPart {
  std::string storage = "FloatStorage";
  std::string key = "0";
  std::int64_t elems = 6;
  std::int64_t offset = 0;
  std::vector<std::int64_t> shape = {2, 3};
  std::vector<std::int64_t> strides = {3, 1};
};

inline std::string pickled_tensor(const TorchPart& part) {
  return "ctorch._utils\n_rebuild_tensor_v2\n((" + pickled_text("storage") + "ctorch\n" +
         part.storage + "\n" + pickled_text(part.key) + pickled_text("cpu") +
         pickled_int(part.elems) + "tQ" + pickled_int(part.offset) + pickled_tuple(part.shape) +
         pickled_tuple(part.strides) + "\x89}tR";
}

/// A pickle of a dict whose keys and values are given as operations.
inline std::string pickled_dict(const std::string& items) {
  return "\x80\x02}(" + items + "u.";
}

/// A torch file with this pickle and one storage "0" of these bytes.
inline std::string torch_bytes(const std::string& pickle, const std::string& storage) {
  return zip_bytes({{"m/data.pkl", pickle}, {"m/data/0", storage}, {"m/version", "3\n"}});
}

}  // namespace quern::test

#include "pipeline/data/documents.h"

#include <fmt/format.h>
#include <zlib.h>

#include <cerrno>
#include <cstring>
#include <fstream>

#include "kernels/core/error.h"
#include "pipeline/data/json_node.h"
#include "pipeline/data/utf8.h"
#include "workers/files/json_file.h"

namespace quern {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kChunkBytes = 1 << 20;

std::ifstream open_file(const fs::path& path) {
  std::ifstream file;
  if (fs::is_regular_file(path)) file.open(path, std::ios::binary);  // a FIFO would wait
  if (!file.is_open()) {
    throw InputError(
        fmt::format("{}: cannot be opened: {}", path.string(),
                    fs::exists(path) ? "no permission or not a file" : "no such file"));
  }
  return file;
}

/// All of a text file, or as much as surely holds `characters` characters.
std::string read_text(const fs::path& path, std::int64_t characters) {
  std::ifstream file = open_file(path);
  std::string text;
  std::int64_t complete = 0;  // characters that began, of which the last may be cut
  while (file && (characters == 0 || complete <= characters)) {
    const std::size_t begin = text.size();
    text.resize(begin + kChunkBytes);
    file.read(text.data() + begin, static_cast<std::streamsize>(kChunkBytes));
    text.resize(begin + static_cast<std::size_t>(file.gcount()));
    for (std::size_t i = begin; i < text.size(); ++i) {
      if ((static_cast<unsigned char>(text[i]) & 0xC0u) != 0x80u) ++complete;
    }
  }
  if (file.bad()) throw StoreError(fmt::format("{}: read error", path.string()));
  if (characters > 0) text.resize(utf8_prefix_bytes(text, characters));
  return text;
}

enum class SourceKind : std::uint8_t { text, lines };

SourceKind kind_of(const fs::path& path) {
  const std::string name = path.filename().string();
  if (name.ends_with(".txt")) return SourceKind::text;
  for (const std::string_view ending : {".jsonl", ".json", ".jsonl.gz", ".json.gz"}) {
    if (name.ends_with(ending)) return SourceKind::lines;
  }
  throw InputError(
      fmt::format("{}: unknown kind of text; expected .txt, .jsonl, .json, .jsonl.gz or .json.gz",
                  path.string()));
}

}  // namespace

/// Lines of a file, unpacked if it is a gzip.
class RawDocuments::Lines {
 public:
  explicit Lines(const fs::path& path) : name_(path.string()) {
    open_file(path);  // says why a file cannot be opened
    file_.reset(gzopen(name_.c_str(), "rb"));
    if (!file_) throw InputError(fmt::format("{}: cannot be opened", name_));
    gzbuffer(file_.get(), kChunkBytes);
    buffer_.resize(kChunkBytes);
    refill();
    if (path.extension() == ".gz" && gzdirect(file_.get()) != 0) {
      throw InputError(fmt::format("{}: is not a gzip file, though its name says so", name_));
    }
  }

  bool next(std::string& line) {
    line.clear();
    ++number_;
    while (position_ < filled_ || refill()) {
      const char* begin = buffer_.data() + position_;
      const void* end = std::memchr(begin, '\n', filled_ - position_);
      if (end != nullptr) {
        const auto length = static_cast<std::size_t>(static_cast<const char*>(end) - begin);
        line.append(begin, length);
        position_ += length + 1;
        return true;
      }
      line.append(begin, filled_ - position_);
      position_ = filled_;
    }
    return !line.empty();
  }

  std::string place() const { return fmt::format("{}:{}", name_, number_); }

 private:
  bool refill() {
    const int count = gzread(file_.get(), buffer_.data(), static_cast<unsigned>(buffer_.size()));
    int error = Z_OK;
    const char* message = gzerror(file_.get(), &error);
    if (count < 0 || (error != Z_OK && error != Z_STREAM_END)) {
      if (error == Z_ERRNO) throw StoreError(fmt::format("{}: {}", name_, std::strerror(errno)));
      throw InputError(
          fmt::format("{}: the gzip is damaged or cut off after line {}: {}; fetch the file again",
                      name_, number_, message));
    }
    position_ = 0;
    filled_ = static_cast<std::size_t>(count);
    return filled_ > 0;
  }

  struct Close {
    void operator()(gzFile_s* file) const noexcept { gzclose(file); }
  };
  std::string name_;
  std::unique_ptr<gzFile_s, Close> file_;
  std::vector<char> buffer_;
  std::size_t position_ = 0;
  std::size_t filled_ = 0;
  std::size_t number_ = 0;
};

RawDocuments::RawDocuments(std::vector<fs::path> sources, std::int64_t text_characters)
    : sources_(std::move(sources)), text_characters_(text_characters) {
  for (const fs::path& source : sources_) kind_of(source);
}

RawDocuments::~RawDocuments() = default;

bool RawDocuments::next(RawDocument& document) {
  while (true) {
    while (lines_ && lines_->next(document.bytes)) {
      if (document.bytes.find_first_not_of(" \t\r") == std::string::npos) continue;
      document.origin = lines_->place();
      document.is_json = true;
      return true;
    }
    lines_.reset();
    if (next_source_ == sources_.size()) return false;
    const fs::path& source = sources_[next_source_++];
    if (kind_of(source) == SourceKind::text) {
      document = {read_text(source, text_characters_), source.string(), false};
      return true;
    }
    lines_ = std::make_unique<Lines>(source);
  }
}

std::string document_text(RawDocument document, const std::string& field) {
  require_utf8(document.bytes, document.origin);
  if (!document.is_json) return std::move(document.bytes);
  const nlohmann::json json = parse_json(document.bytes, document.origin);
  const JsonNode line(json, document.origin);
  line.require_object();
  const auto member = json.find(field);
  if (member == json.end()) {
    line.refuse(fmt::format("there is no field \"{}\"; name the field that holds the text", field));
  }
  return line.at(field).string();
}

}  // namespace quern

#include "workers/store/journal.h"

#include <fmt/format.h>

#include <charconv>
#include <optional>
#include <span>
#include <string_view>
#include <utility>

#include "kernels/core/error.h"
#include "workers/files/atomic_file.h"
#include "workers/files/hash.h"
#include "workers/store/store_name.h"

namespace quern {
namespace {

constexpr std::string_view kRemoval = "-";

std::string checksum(std::string_view text) {
  return xxh3_hex(std::as_bytes(std::span(text)));
}

std::string closed_line(const std::string& text) {
  return fmt::format("{} {}\n", text, checksum(text));
}

bool is_hash(std::string_view text) {
  return text.size() == 32 && text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

std::vector<std::string_view> split(std::string_view text) {
  std::vector<std::string_view> fields;
  while (true) {
    const std::size_t blank = text.find(' ');
    fields.push_back(text.substr(0, blank));
    if (blank == std::string_view::npos) return fields;
    text.remove_prefix(blank + 1);
  }
}

std::optional<JournalEntry> parse_entry(const std::vector<std::string_view>& fields) {
  if (fields.size() != 3 || !is_store_name(fields[0]) || !is_hash(fields[2])) return std::nullopt;
  JournalEntry entry{std::string(fields[0]), 0, std::string(fields[2])};
  const char* end = fields[1].data() + fields[1].size();
  const auto [stop, problem] = std::from_chars(fields[1].data(), end, entry.bytes);
  if (problem != std::errc() || stop != end) return std::nullopt;
  return entry;
}

/// Applies a line without its newline; false if it must end the list.
bool apply_line(std::string_view line, std::map<std::string, JournalEntry>& entries) {
  const std::size_t blank = line.rfind(' ');
  if (blank == std::string_view::npos) return false;
  if (checksum(line.substr(0, blank)) != line.substr(blank + 1)) return false;
  const std::vector<std::string_view> fields = split(line.substr(0, blank));
  if (fields.size() == 2 && fields[0] == kRemoval) {
    entries.erase(std::string(fields[1]));
    return true;
  }
  std::optional<JournalEntry> entry = parse_entry(fields);
  if (!entry) return false;
  entries.insert_or_assign(entry->name, *entry);
  return true;
}

std::string read_if_present(const std::filesystem::path& path) {
  std::error_code problem;
  if (!std::filesystem::exists(path, problem)) {
    if (problem) throw store_error("look for", path, problem.value());
    return {};
  }
  try {
    return read_text_file(path);
  } catch (const InputError& error) {
    throw StoreError(error.what());
  }
}

}  // namespace

Journal::Journal(std::filesystem::path path, CommitHook hook)
    : path_(std::move(path)), hook_(std::move(hook)) {}

JournalContents Journal::load() const {
  const std::string text = read_if_present(path_);
  JournalContents contents;
  std::size_t begin = 0;
  for (std::size_t end = text.find('\n'); end != std::string::npos; end = text.find('\n', begin)) {
    if (!apply_line(std::string_view(text).substr(begin, end - begin), contents.entries)) break;
    begin = end + 1;
  }
  contents.valid_bytes = begin;
  contents.ignored_bytes = text.size() - begin;
  return contents;
}

void Journal::append(const std::vector<JournalEntry>& entries) {
  std::string lines;
  for (const JournalEntry& entry : entries) {
    ensure(is_store_name(entry.name) && is_hash(entry.hash), "a journal entry of name and hash");
    lines += closed_line(fmt::format("{} {} {}", entry.name, entry.bytes, entry.hash));
  }
  if (!lines.empty()) append_lines(lines);
}

void Journal::append_removal(const std::string& name) {
  ensure(is_store_name(name), "a name of the store");
  append_lines(closed_line(fmt::format("{} {}", kRemoval, name)));
}

void Journal::append_lines(const std::string& lines) {
  const std::uint64_t valid_bytes = load().valid_bytes;
  DurableFile file(path_, DurableFile::Contents::keep, hook_);
  if (file.size_bytes() > valid_bytes) {
    file.truncate(valid_bytes);
    file.sync();
  }
  const bool first = valid_bytes == 0;
  file.write(std::as_bytes(std::span(lines)));
  file.sync();
  file.close();
  if (first) sync_directory(path_.parent_path(), hook_);
}

}  // namespace quern

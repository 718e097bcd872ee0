#include "pipeline/prediction/disk_rates.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <functional>
#include <random>
#include <vector>

#include "pipeline/gather_json.h"
#include "workers/agreement.h"
#include "workers/files/atomic_file.h"
#include "workers/parallel.h"
#include "workers/tensors/readable_file.h"

namespace quern {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t kPieceBytes = 4U << 20;
constexpr std::size_t kPieces = 64;
constexpr int kMostReaders = 8;

/// Collective. Seconds of the slowest rank; 0 elsewhere than on rank 0.
double longest_seconds(Session& session, const std::function<void()>& work) {
  double seconds = 0;
  run_agreed(session, [] {});  // together
  run_agreed(session, [&] {
    const auto start = std::chrono::steady_clock::now();
    work();
    seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  });
  double longest = 0;
  for (const nlohmann::json& rank : gather_json(session, seconds)) {
    longest = std::max(longest, rank.get<double>());
  }
  return longest;
}

std::vector<fs::path> weight_files(const fs::path& model) {
  constexpr std::array kEndings = {".safetensors", ".bin", ".pt", ".pth"};
  std::vector<fs::path> files;
  for (const fs::directory_entry& entry : fs::directory_iterator(model)) {
    const std::string ending = entry.path().extension().string();
    if (entry.is_regular_file() && std::ranges::count(kEndings, ending) > 0) {
      files.push_back(entry.path());
    }
  }
  std::ranges::sort(files);
  return files;
}

/// A file, and a place in it.
using Piece = std::pair<fs::path, std::uint64_t>;

/// Whole pieces at random places of random files, the larger a file the more; other ranks get
/// others.
std::vector<Piece> choose_pieces(const std::vector<fs::path>& files, int rank) {
  std::vector<Piece> all;
  for (const fs::path& file : files) {
    const std::uint64_t bytes = fs::file_size(file);
    for (std::uint64_t at = 0; at + kPieceBytes <= bytes; at += kPieceBytes)
      all.emplace_back(file, at);
  }
  std::vector<Piece> chosen;
  std::ranges::sample(all, std::back_inserter(chosen), kPieces,
                      std::mt19937(static_cast<unsigned>(rank)));
  return chosen;
}

}  // namespace

double write_rate(Session& session, const fs::path& folder, std::uint64_t bytes) {
  const std::vector<std::byte> piece(kPieceBytes, std::byte{0x5a});
  const fs::path path = folder / fmt::format("disk-{}", session.rank());
  const double seconds = longest_seconds(session, [&] {
    AtomicFile file(path);
    for (std::uint64_t written = 0; written < bytes; written += piece.size()) {
      file.write(std::span(piece).first(std::min(piece.size(), bytes - written)));
    }
    file.commit();
  });
  run_agreed(session, [&] { fs::remove(path); });
  return seconds > 0 ? static_cast<double>(bytes) * session.ranks() / seconds : 0;
}

StoredWeights read_rate(Session& session, const fs::path& model) {
  StoredWeights weights;
  std::vector<Piece> pieces;
  run_agreed(session, [&] {
    const std::vector<fs::path> files = weight_files(model);
    for (const fs::path& file : files) weights.bytes += fs::file_size(file);
    pieces = choose_pieces(files, session.rank());
  });
  const double seconds = longest_seconds(session, [&] {
    run_parallel(pieces.size(), std::min(session.threads, kMostReaders), [&](std::size_t i) {
      std::vector<std::byte> bytes(kPieceBytes);
      ReadableFile(pieces[i].first).read_at(pieces[i].second, bytes);
    });
  });
  const auto read = static_cast<double>(pieces.size() * kPieceBytes) * session.ranks();
  if (pieces.empty()) weights.bytes = 0;  // too little to matter
  weights.bytes_per_second = seconds > 0 ? read / seconds : 0;
  return weights;
}

}  // namespace quern

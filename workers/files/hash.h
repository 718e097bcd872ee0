#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>
#include <string>

namespace quern {

/// XXH3, 128 bits, as 32 hexadecimal digits: identity and damage detection, not security.
std::string xxh3_hex(std::span<const std::byte> bytes);

/// The same over a stream.
class Xxh3Stream {
 public:
  Xxh3Stream();
  ~Xxh3Stream();
  Xxh3Stream(Xxh3Stream&&) noexcept;
  Xxh3Stream& operator=(Xxh3Stream&&) noexcept;
  void update(std::span<const std::byte> bytes);
  std::string hex() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// XXH3 of a file's contents. Throws InputError if it cannot be read.
std::string xxh3_file(const std::filesystem::path& path);

/// SHA-256 over a stream.
class Sha256Stream {
 public:
  Sha256Stream();
  ~Sha256Stream();
  Sha256Stream(Sha256Stream&&) noexcept;
  Sha256Stream& operator=(Sha256Stream&&) noexcept;
  void update(std::span<const std::byte> bytes);
  /// Of all bytes so far, as 64 hexadecimal digits. Ends the stream.
  std::string hex();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// SHA-256 of a file's contents as 64 hexadecimal digits. Throws InputError if it cannot be read.
std::string sha256_file(const std::filesystem::path& path);

}  // namespace quern

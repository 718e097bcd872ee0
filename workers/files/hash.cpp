#include "workers/files/hash.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <openssl/evp.h>
#include <unistd.h>
#include <xxhash.h>

#include <array>
#include <cerrno>
#include <new>
#include <system_error>
#include <vector>

#include "kernels/core/error.h"
#include "workers/files/durable_file.h"

namespace quern {
namespace {

constexpr std::size_t kBlockBytes = std::size_t{1} << 20;

std::string hex_text(std::span<const unsigned char> bytes) {
  std::string text;
  text.reserve(2 * bytes.size());
  for (const unsigned char byte : bytes) fmt::format_to(std::back_inserter(text), "{:02x}", byte);
  return text;
}

std::string hex_text(XXH128_hash_t hash) {
  XXH128_canonical_t canonical;
  XXH128_canonicalFromHash(&canonical, hash);
  return hex_text(canonical.digest);
}

template <typename Consume>
void for_each_block(const std::filesystem::path& path, Consume&& consume) {
  const auto fail = [&](int error) {
    throw InputError(fmt::format("read {}: {}; check the path and its permissions", path.string(),
                                 std::generic_category().message(error)));
  };
  const Descriptor descriptor(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!descriptor) fail(errno);
  std::vector<std::byte> block(kBlockBytes);
  for (;;) {
    const ssize_t count = ::read(descriptor.get(), block.data(), block.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) fail(errno);
    if (count == 0) return;
    consume(std::span<const std::byte>(block).first(static_cast<std::size_t>(count)));
  }
}

struct DigestTraits {
  using Handle = EVP_MD_CTX*;
  static Handle none() noexcept { return nullptr; }
  static void close(Handle context) noexcept { EVP_MD_CTX_free(context); }
};

}  // namespace

struct Xxh3Stream::State {
  State() : xxh3(XXH3_createState()) {
    if (xxh3 == nullptr) throw std::bad_alloc();
    XXH3_128bits_reset(xxh3);
  }
  ~State() { XXH3_freeState(xxh3); }
  State(const State&) = delete;             // one state, one owner
  State& operator=(const State&) = delete;  // likewise
  XXH3_state_t* xxh3;
};

std::string xxh3_hex(std::span<const std::byte> bytes) {
  return hex_text(XXH3_128bits(bytes.data(), bytes.size()));
}

Xxh3Stream::Xxh3Stream() : state_(std::make_unique<State>()) {}
Xxh3Stream::~Xxh3Stream() = default;
Xxh3Stream::Xxh3Stream(Xxh3Stream&&) noexcept = default;
Xxh3Stream& Xxh3Stream::operator=(Xxh3Stream&&) noexcept = default;

void Xxh3Stream::update(std::span<const std::byte> bytes) {
  XXH3_128bits_update(state_->xxh3, bytes.data(), bytes.size());
}

std::string Xxh3Stream::hex() const {
  return hex_text(XXH3_128bits_digest(state_->xxh3));
}

std::string xxh3_file(const std::filesystem::path& path) {
  Xxh3Stream stream;
  for_each_block(path, [&](std::span<const std::byte> block) { stream.update(block); });
  return stream.hex();
}

struct Sha256Stream::State {
  UniqueHandle<DigestTraits> context{EVP_MD_CTX_new()};
};

Sha256Stream::Sha256Stream() : state_(std::make_unique<State>()) {
  if (!state_->context) throw std::bad_alloc();
  ensure(EVP_DigestInit_ex(state_->context.get(), EVP_sha256(), nullptr) == 1,
         "OpenSSL to offer SHA-256");
}
Sha256Stream::~Sha256Stream() = default;
Sha256Stream::Sha256Stream(Sha256Stream&&) noexcept = default;
Sha256Stream& Sha256Stream::operator=(Sha256Stream&&) noexcept = default;

void Sha256Stream::update(std::span<const std::byte> bytes) {
  ensure(EVP_DigestUpdate(state_->context.get(), bytes.data(), bytes.size()) == 1,
         "SHA-256 to proceed");
}

std::string Sha256Stream::hex() {
  std::array<unsigned char, 32> digest{};
  ensure(EVP_DigestFinal_ex(state_->context.get(), digest.data(), nullptr) == 1,
         "SHA-256 to finish");
  return hex_text(digest);
}

std::string sha256_file(const std::filesystem::path& path) {
  Sha256Stream stream;
  for_each_block(path, [&](std::span<const std::byte> block) { stream.update(block); });
  return stream.hex();
}

}  // namespace quern

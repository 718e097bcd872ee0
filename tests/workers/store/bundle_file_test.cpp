#include "workers/store/bundle_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "kernels/core/error.h"
#include "tests/support/message_of.h"
#include "tests/support/paths.h"
#include "tests/workers/files/child_process.h"
#include "tests/workers/files/small_disk.h"
#include "tests/workers/store/sample_bundle.h"
#include "workers/files/hash.h"

namespace quern::test {
namespace {

using std::filesystem::path;
using testing::AllOf;
using testing::HasSubstr;

std::string raw_text(const HostTensor& tensor) {
  return {reinterpret_cast<const char*>(tensor.bytes.data()), tensor.bytes.size()};
}

TEST(BundleFile, ReadsBackEveryKindOfArray) {
  const TemporaryDirectory directory;
  const path file = directory.path() / "b.h5";
  const WrittenFile written = write_bundle_file(file, sample_bundle());
  EXPECT_TRUE(same_bundle(read_bundle_file(file), sample_bundle()));
  EXPECT_EQ(written.bytes, std::filesystem::file_size(file));
  EXPECT_EQ(written.hash, xxh3_file(file));
  EXPECT_FALSE(std::filesystem::exists(file.string() + ".tmp"));
}

TEST(BundleFile, EmptyBundleAndLongText) {
  const TemporaryDirectory directory;
  const path file = directory.path() / "b.h5";
  write_bundle_file(file, {});
  EXPECT_TRUE(same_bundle(read_bundle_file(file), {}));
  const Bundle longer{std::string(200000, 'x'), {}};  // above HDF5's own limit for attributes
  write_bundle_file(file, longer);
  EXPECT_TRUE(same_bundle(read_bundle_file(file), longer));
}

TEST(BundleFile, ArraysOfManyChunks) {
  const TemporaryDirectory directory;
  Bundle bundle;
  HostTensor& wide = bundle.arrays["wide"] = HostTensor(DType::f64, Shape{3, 2500000});
  HostTensor& tall = bundle.arrays["tall"] = HostTensor(DType::i16, Shape{300, 33333});
  for (std::size_t i = 0; i < wide.bytes.size(); i += 7) wide.bytes[i] = std::byte(i % 253);
  for (std::size_t i = 0; i < tall.bytes.size(); i += 5) tall.bytes[i] = std::byte(i % 251);
  write_bundle_file(directory.path() / "b.h5", bundle);
  EXPECT_TRUE(same_bundle(read_bundle_file(directory.path() / "b.h5"), bundle));
}

TEST(BundleFile, IsTheDefaultFormatWithPlainArrays) {
  const TemporaryDirectory directory;
  write_bundle_file(directory.path() / "b.h5", sample_bundle());
  const std::string bytes = contents(directory.path() / "b.h5");
  EXPECT_EQ(bytes.substr(0, 9), std::string("\x89HDF\r\n\x1a\n\0", 9));  // superblock version 0
  for (const auto& [name, array] : sample_bundle().arrays) {
    EXPECT_THAT(bytes, HasSubstr(raw_text(array))) << name;
  }
}

TEST(BundleFile, SameBundleSameBytes) {
  const TemporaryDirectory directory;
  write_bundle_file(directory.path() / "a.h5", sample_bundle());
  usleep(1100000);  // a time stamp would differ now
  write_bundle_file(directory.path() / "b.h5", {std::string(50000, 'z'), {}});
  write_bundle_file(directory.path() / "b.h5", sample_bundle());
  const std::string other_process = in_child([&] {
    write_bundle_file(directory.path() / "c.h5", sample_bundle());
    return std::string("done");
  });
  EXPECT_EQ(other_process, "done");
  EXPECT_EQ(contents(directory.path() / "a.h5"), contents(directory.path() / "b.h5"));
  EXPECT_EQ(contents(directory.path() / "a.h5"), contents(directory.path() / "c.h5"));
}

TEST(BundleFile, OtherReadersUnderstandIt) {
  if (std::system("python3 -c 'import h5py' 2> /dev/null") != 0) {
    GTEST_SKIP() << "needs python3 with h5py";
  }
  const TemporaryDirectory directory;
  write_bundle_file(directory.path() / "b.h5", sample_bundle());
  put(directory.path() / "check.py", R"(
import h5py, numpy, sys
f = h5py.File(sys.argv[1], 'r')
a = f['arrays']
assert f.attrs['format'] == b'quern bundle 1'
assert f['attributes'][()].tobytes() == b'{"modules": ["q_proj"], "loss": 0.5}'
assert a['q_proj/codes'].dtype == numpy.int32
assert a['q_proj/codes'][()].tolist() == [[1, -2, 3], [0x11223344, 5, 6]]
assert a['q_proj/scales'].dtype == numpy.float16
assert a['q_proj/scales'][()].tolist() == [1, -2, 65504]
assert a['centroids'].attrs['dtype'] == b'BF16'
assert a['centroids'][()].tolist() == [[0x3f80], [0xbf00]]
assert a['f8'].shape == (1, 1, 2, 1) and a['f8'].attrs['dtype'] == b'F8_E4M3'
assert a['fisher'][()].tolist() == [0.1, -1e300]
assert a['empty'].shape == (0, 7) and a['empty'].dtype == numpy.float32
assert a['scalar'][()].tolist() == [-123456789012345] and a['scalar'].attrs['rank'] == b'0'
assert a['mask'][()].tolist() == [1, 0, 1] and a['mask'].attrs['dtype'] == b'BOOL'
f.visititems(lambda name, item: isinstance(item, h5py.Group) or item.fletcher32 or sys.exit(name))
)");
  const std::string command = "python3 " + (directory.path() / "check.py").string() + " " +
                              (directory.path() / "b.h5").string();
  EXPECT_EQ(std::system(command.c_str()), 0);
}

TEST(BundleFile, ChecksumsGuardTheArrays) {
  const TemporaryDirectory directory;
  const path file = directory.path() / "b.h5";
  write_bundle_file(file, sample_bundle());
  const std::string whole = contents(file);
  for (const char* name : {"q_proj/codes", "fisher", "scalar"}) {
    std::string damaged = whole;
    damaged[whole.find(raw_text(sample_bundle().arrays.at(name)))] ^= 1;
    put(file, damaged);
    EXPECT_THAT(message_of<StoreError>([&] { read_bundle_file(file); }),
                AllOf(HasSubstr(file.string()), HasSubstr(std::string("dataset arrays/") + name),
                      HasSubstr("read a dataset"), HasSubstr("checksum")));
  }
}

TEST(BundleFile, JunkIsRefused) {
  const TemporaryDirectory directory;
  const path file = directory.path() / "b.h5";
  EXPECT_THAT(message_of<StoreError>([&] { read_bundle_file(file); }), HasSubstr("No such file"));
  for (const std::string& junk : {std::string(), std::string("{}"), std::string(100000, '\xff')}) {
    put(file, junk);
    EXPECT_THAT(message_of<StoreError>([&] { read_bundle_file(file); }),
                HasSubstr("open the file"));
  }
  write_bundle_file(file, sample_bundle());
  const std::string whole = contents(file);
  for (std::size_t length = 0; length < whole.size(); length += whole.size() / 61) {
    put(file, whole.substr(0, length));
    EXPECT_NE(message_of<StoreError>([&] { read_bundle_file(file); }), kNothingThrown) << length;
  }
}

TEST(BundleFile, AttributesThatLieAreRefused) {
  const TemporaryDirectory directory;
  const path file = directory.path() / "b.h5";
  const auto error_after = [&](const Bundle& bundle, const std::string& from,
                               const std::string& to) {
    write_bundle_file(file, bundle);
    std::string bytes = contents(file);
    for (std::size_t at = 0; (at = bytes.find(from, at)) != std::string::npos; at += to.size()) {
      bytes.replace(at, from.size(), to);
    }
    put(file, bytes);
    return message_of<StoreError>([&] { read_bundle_file(file); });
  };
  const Bundle half{"{}", {{"x", HostTensor(DType::f16, Shape{2})}}};
  EXPECT_THAT(error_after(half, "F16", "I16"), HasSubstr("not the one of I16"));
  EXPECT_THAT(error_after(half, "F16", "F17"), HasSubstr("unknown type"));
  EXPECT_THAT(error_after(half, "quern bundle 1", "quern bundle 2"), HasSubstr("another version"));
  EXPECT_THAT(error_after(half, "arrays", "arrayz"), HasSubstr("does not belong"));
  EXPECT_THAT(error_after(half, "attributes", "bttributes"), HasSubstr("attributes"));
}

TEST(BundleFile, MistakesOfTheCallerAreBugs) {
  const TemporaryDirectory directory;
  const path file = directory.path() / "b.h5";
  for (const char* name : {"", "/x", "x/", "a//b", "..", "a/./b", "with blank"}) {
    const Bundle bundle{"{}", {{name, HostTensor(DType::u8, Shape{1})}}};
    EXPECT_THROW(write_bundle_file(file, bundle), InternalError) << name;
  }
  Bundle short_array{"{}", {{"x", HostTensor(DType::u8, Shape{4})}}};
  short_array.arrays["x"].bytes.pop_back();
  EXPECT_THROW(write_bundle_file(file, short_array), InternalError);
  const Bundle clash{
      "{}", {{"a", HostTensor(DType::u8, Shape{1})}, {"a/b", HostTensor(DType::u8, Shape{1})}}};
  EXPECT_THAT(message_of<StoreError>([&] { write_bundle_file(file, clash); }),
              HasSubstr("dataset arrays/a/b"));
  EXPECT_TRUE(std::filesystem::is_empty(directory.path()));
}

TEST(BundleFile, FullDiskIsAnErrorAndNothingMore) {
  const TemporaryDirectory directory;
  const std::string result = in_child([&]() -> std::string {
    if (!mount_small_disk(directory.path(), "size=256k")) return kNoMounts;
    const path file = directory.path() / "b.h5";
    const Bundle large{"{}", {{"x", HostTensor(DType::u8, Shape{1000000})}}};
    const std::string message = message_of<StoreError>([&] { write_bundle_file(file, large); });
    write_bundle_file(file, sample_bundle());  // there is room for a small one again
    std::exit(same_bundle(read_bundle_file(file), sample_bundle()) &&
                      message.find("No space left") != std::string::npos
                  ? 0
                  : 1);
  });
  if (result == kNoMounts) GTEST_SKIP() << "mounting a small file system is not allowed here";
  EXPECT_EQ(result, "");  // left by exit(), through libhdf5's handlers, not by a signal
}

TEST(BundleFile, ThreadsTakeTurns) {
  const TemporaryDirectory directory;
  std::vector<std::jthread> threads;
  std::vector<int> good(4, 0);
  for (std::size_t t = 0; t < good.size(); ++t) {
    threads.emplace_back([&, t] {
      const path file = directory.path() / std::to_string(t);
      for (int i = 0; i < 5; ++i) {
        write_bundle_file(file, sample_bundle());
        good[t] += same_bundle(read_bundle_file(file), sample_bundle());
      }
    });
  }
  threads.clear();
  EXPECT_THAT(good, testing::Each(5));
}

}  // namespace
}  // namespace quern::test

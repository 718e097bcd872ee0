#include <gtest/gtest.h>
#include <hdf5.h>

#include <string>
#include <vector>

#include "tests/support/paths.h"
#include "workers/store/bundle_file.h"

namespace quern::test {
namespace {

/// An array as libhdf5 reads it, which compares the checksums; empty if it cannot.
std::vector<std::byte> read_by_library(const std::filesystem::path& path, const std::string& name) {
  const hid_t file = H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT);
  const hid_t dataset = H5Dopen2(file, name.c_str(), H5P_DEFAULT);
  const hid_t type = H5Dget_type(dataset);
  const hid_t space = H5Dget_space(dataset);
  std::vector<std::byte> bytes(static_cast<std::size_t>(H5Sget_simple_extent_npoints(space)) *
                               H5Tget_size(type));
  const herr_t result = H5Dread(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, bytes.data());
  H5Sclose(space);
  H5Tclose(type);
  H5Dclose(dataset);
  H5Fclose(file);
  if (result < 0) bytes.clear();
  return bytes;
}

TEST(BundleFile, LibraryReadsArraysOfEveryCut) {
  const TemporaryDirectory directory;
  const std::filesystem::path path = directory.path() / "b.h5";
  Bundle bundle{"{}", {}};
  const auto add = [&](const char* name, DType dtype, const Shape& shape) {
    HostTensor& array = bundle.arrays[name] = HostTensor(dtype, shape);
    for (std::size_t i = 0; i < array.bytes.size(); ++i) array.bytes[i] = std::byte(i * 31 % 253);
  };
  add("small", DType::i32, Shape{5, 3});
  add("odd", DType::u8, Shape{7});
  add("one_axis", DType::u8, Shape{17000001});
  add("cut_rows", DType::u8, Shape{5, 5000001});      // the last chunk is half empty
  add("cut_columns", DType::f64, Shape{3, 2200001});  // each row has its own chunks
  add("cut_inside", DType::u8, Shape{2, 3, 9000001});
  write_bundle_file(path, bundle);
  for (const auto& [name, array] : bundle.arrays) {
    EXPECT_TRUE(read_by_library(path, "arrays/" + name) == array.bytes) << name;
  }
  EXPECT_TRUE(read_bundle_file(path).arrays.at("cut_rows").bytes ==
              bundle.arrays.at("cut_rows").bytes);
}

}  // namespace
}  // namespace quern::test

#include "workers/store/bundle_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "kernels/core/error.h"
#include "workers/files/atomic_file.h"
#include "workers/files/hash.h"
#include "workers/store/file_skeleton.h"
#include "workers/store/hdf5_library.h"
#include "workers/store/store_name.h"
#include "workers/store/stored_chunks.h"

namespace quern {
namespace {

using namespace hdf5;

constexpr const char* kFormatKey = "format";
constexpr std::string_view kFormat = "quern bundle 1";
constexpr const char* kDTypeKey = "dtype";
constexpr const char* kRankKey = "rank";
constexpr std::string_view kText = "attributes";
constexpr std::string_view kArrays = "arrays/";
constexpr hsize_t kChunkBytes = hsize_t{16} << 20;

using Dims = std::vector<hsize_t>;

/// A scalar is stored as one element.
Dims stored_dims(const Shape& shape) {
  if (shape.rank() == 0) return {1};
  return {shape.dims().begin(), shape.dims().end()};
}

/// Whole trailing axes, as many rows of the leading ones as fit kChunkBytes, evened out so that the
/// last chunk (stored whole) is nearly full.
Dims chunk_dims(const Dims& dims, std::size_t element_bytes) {
  Dims chunk(dims.size(), 1);
  hsize_t room = kChunkBytes / element_bytes;
  for (std::size_t axis = dims.size(); axis-- > 0;) {
    const hsize_t size = std::max<hsize_t>(dims[axis], 1);
    const hsize_t largest = std::clamp<hsize_t>(room, 1, size);
    const hsize_t count = (size + largest - 1) / largest;
    chunk[axis] = (size + count - 1) / count;
    room /= chunk[axis];
  }
  return chunk;
}

void write_text_attribute(hid_t owner, const char* key, std::string_view text, const Place& place) {
  const Type type(checked(H5Tcopy(H5T_C_S1), place, "copy a type"));
  checked(H5Tset_size(type.get(), text.size()), place, "size a type");
  checked(H5Tset_strpad(type.get(), H5T_STR_NULLPAD), place, "pad a type");
  const Space space(checked(H5Screate(H5S_SCALAR), place, "make a space"));
  const Attribute attribute(
      checked(H5Acreate2(owner, key, type.get(), space.get(), H5P_DEFAULT, H5P_DEFAULT), place,
              "make an attribute"));
  checked(H5Awrite(attribute.get(), type.get(), text.data()), place, "write an attribute");
}

/// Checks class, length and extent before reading: the buffer must fit what the file says.
std::string read_text_attribute(hid_t owner, const char* key, const Place& place) {
  constexpr std::size_t kLongest = 64;
  const Attribute attribute(checked(H5Aopen(owner, key, H5P_DEFAULT), place, "open an attribute"));
  const Type type(checked(H5Aget_type(attribute.get()), place, "read a type"));
  const Space space(checked(H5Aget_space(attribute.get()), place, "read a space"));
  const std::size_t length = H5Tget_size(type.get());
  if (H5Tget_class(type.get()) != H5T_STRING || H5Tis_variable_str(type.get()) != 0 ||
      H5Sget_simple_extent_npoints(space.get()) != 1 || length == 0 || length > kLongest) {
    fail(place, fmt::format("attribute {} is not a short text", key));
  }
  std::string text(length, '\0');
  checked(H5Aread(attribute.get(), type.get(), text.data()), place, "read an attribute");
  return text;
}

Properties dataset_properties(const Dims& chunk, const Place& place) {
  Properties properties(checked(H5Pcreate(H5P_DATASET_CREATE), place, "make properties"));
  const int rank = static_cast<int>(chunk.size());
  checked(H5Pset_chunk(properties.get(), rank, chunk.data()), place, "set the chunks");
  checked(H5Pset_fletcher32(properties.get()), place, "ask for checksums");
  checked(H5Pset_obj_track_times(properties.get(), false), place, "leave out times");
  return properties;
}

void add_dataset(const File& file, const Place& place, ConstTensorView array,
                 FileSkeleton& skeleton) {
  const Dims dims = stored_dims(array.shape);
  const Space space(checked(H5Screate_simple(static_cast<int>(dims.size()), dims.data(), nullptr),
                            place, "make a space"));
  const Type type = stored_type(array.dtype, place);
  const Properties creation = dataset_properties(chunk_dims(dims, dtype_bytes(array.dtype)), place);
  const Properties links(checked(H5Pcreate(H5P_LINK_CREATE), place, "make properties"));
  checked(H5Pset_create_intermediate_group(links.get(), 1), place, "ask for groups");
  Dataset dataset(checked(H5Dcreate2(file.get(), place.object.c_str(), type.get(), space.get(),
                                     links.get(), creation.get(), H5P_DEFAULT),
                          place, "make a dataset"));
  write_text_attribute(dataset.get(), kDTypeKey, dtype_name(array.dtype), place);
  write_text_attribute(dataset.get(), kRankKey, std::to_string(array.shape.rank()), place);
  if (array.elems() > 0) {
    skeleton.fill(allot_chunks(dataset, dims, dtype_bytes(array.dtype), place),
                  {array.data, array.bytes()});
  }
  close_dataset(dataset, place);
}

/// The structure of a bundle's file. libhdf5 is locked meanwhile.
void lay_out(const std::filesystem::path& path, const Bundle& bundle, FileSkeleton& skeleton) {
  const Turn turn;
  Place place{path};
  File file = skeleton.create(place);
  write_text_attribute(file.get(), kFormatKey, kFormat, place);
  place.object = kText;
  const auto text_elems = static_cast<std::int64_t>(bundle.attributes.size());
  const auto* text = reinterpret_cast<const std::byte*>(bundle.attributes.data());
  add_dataset(file, place, {text, DType::u8, Shape{text_elems}}, skeleton);
  for (const auto& [name, array] : bundle.arrays) {
    ensure(is_store_name(name), "array names without blanks and empty or dotted parts");
    const ConstTensorView view{array.bytes.data(), array.dtype, array.shape};
    ensure(view.bytes() == array.bytes.size(), "as many bytes in an array as its shape says");
    place.object = std::string(kArrays) + name;
    add_dataset(file, place, view, skeleton);
  }
  place.object.clear();
  close_file(file, place);
}

herr_t collect_name(hid_t, const char* name, const H5L_info_t* link, void* names) noexcept {
  try {
    // Only hard links: a soft or external one could lead out of the file.
    if (link->type != H5L_TYPE_HARD) return -1;
    static_cast<std::vector<std::string>*>(names)->emplace_back(name);
    return 0;
  } catch (...) {
    return -1;
  }
}

/// No other layout or filter is accepted: they could name other files or load plugins.
void check_layout(const Dataset& dataset, const Place& place) {
  const Properties creation(
      checked(H5Dget_create_plist(dataset.get()), place, "read the properties"));
  std::array<unsigned, 4> values{};
  std::size_t value_count = values.size();
  unsigned flags = 0;
  const bool guarded =
      H5Pget_layout(creation.get()) == H5D_CHUNKED && H5Pget_nfilters(creation.get()) == 1 &&
      H5Pget_filter2(creation.get(), 0, &flags, &value_count, values.data(), 0, nullptr, nullptr) ==
          H5Z_FILTER_FLETCHER32;
  if (!guarded) fail(place, "expected chunks with fletcher32 checksums and nothing else");
}

Shape read_shape(const Dataset& dataset, const Place& place) {
  const std::string rank_text = read_text_attribute(dataset.get(), kRankKey, place);
  const Space space(checked(H5Dget_space(dataset.get()), place, "read a space"));
  const int stored_rank = H5Sget_simple_extent_ndims(space.get());
  if (stored_rank < 1 || stored_rank > static_cast<int>(Shape::max_rank)) {
    fail(place, fmt::format("expected 1 to {} dimensions, found {}", Shape::max_rank, stored_rank));
  }
  std::array<hsize_t, Shape::max_rank> dims{};
  checked(H5Sget_simple_extent_dims(space.get(), dims.data(), nullptr), place, "read a shape");
  if (rank_text == "0" && stored_rank == 1 && dims[0] == 1) return Shape();
  if (rank_text != std::to_string(stored_rank)) {
    fail(place,
         fmt::format("rank {} does not fit the {} stored dimensions", rank_text, stored_rank));
  }
  std::vector<std::int64_t> sizes(dims.begin(), dims.begin() + stored_rank);
  try {
    return Shape(sizes);
  } catch (const ShapeError& error) {
    fail(place, error.what());
  }
}

/// An array of a file, whose data have still to be read.
struct FoundArray {
  Place place;
  DType dtype;
  Shape shape;
  std::vector<StoredChunk> chunks;
};

/// Nothing is compressed: more elements than the file has bytes is junk, and is not allocated.
void check_size(const Shape& shape, DType dtype, const Place& place) {
  const std::uintmax_t file_bytes = std::filesystem::file_size(place.file);
  if (static_cast<std::uintmax_t>(shape.elems()) > file_bytes / dtype_bytes(dtype)) {
    fail(place, fmt::format("shape {} is larger than the file", shape.text()));
  }
}

FoundArray find_dataset(const Object& object, const Place& place) {
  const Dataset dataset(checked(H5Dopen2(object.get(), ".", H5P_DEFAULT), place, "open a dataset"));
  const std::string dtype_text = read_text_attribute(dataset.get(), kDTypeKey, place);
  const std::optional<DType> dtype = parse_dtype(dtype_text);
  if (!dtype) fail(place, fmt::format("unknown type {:?}", dtype_text));
  const Type type(checked(H5Dget_type(dataset.get()), place, "read a type"));
  const Type expected = stored_type(*dtype, place);
  if (H5Tequal(type.get(), expected.get()) <= 0) {
    fail(place, fmt::format("the stored type is not the one of {}", dtype_text));
  }
  check_layout(dataset, place);
  FoundArray array{place, *dtype, read_shape(dataset, place), {}};
  check_size(array.shape, *dtype, place);
  if (array.shape.elems() > 0) {
    array.chunks = find_chunks(dataset, stored_dims(array.shape), dtype_bytes(*dtype), place);
  }
  return array;
}

HostTensor read_array(const FoundArray& found) {
  HostTensor array(found.dtype, found.shape);
  if (!array.bytes.empty()) read_chunks(found.place, found.chunks, array.bytes);
  return array;
}

File open_bundle(const Place& place) {
  const Properties access(checked(H5Pcreate(H5P_FILE_ACCESS), place, "make properties"));
  // Parallel file systems may refuse locks, and bundle files never change.
  checked(H5Pset_file_locking(access.get(), false, true), place, "do without locks");
  File file(
      checked(H5Fopen(place.file.c_str(), H5F_ACC_RDONLY, access.get()), place, "open the file"));
  if (read_text_attribute(file.get(), kFormatKey, place) != kFormat) {
    fail(place, fmt::format("expected format {:?}: written by another version", kFormat));
  }
  return file;
}

/// Adds one object of the file to `arrays`, if it is one.
void find_object(const File& file, const Place& place, std::vector<FoundArray>& arrays) {
  const Object object(
      checked(H5Oopen(file.get(), place.object.c_str(), H5P_DEFAULT), place, "open an object"));
  const H5I_type_t kind = H5Iget_type(object.get());
  if (kind == H5I_GROUP) return;
  if (kind != H5I_DATASET) fail(place, "expected a dataset or a group");
  arrays.push_back(find_dataset(object, place));
}

/// All arrays of a file. libhdf5 is locked meanwhile, not while their data are read.
std::vector<FoundArray> find_arrays(const std::filesystem::path& path) {
  const Turn turn;
  Place place{path};
  const File file = open_bundle(place);
  std::vector<std::string> names;
  checked(H5Lvisit(file.get(), H5_INDEX_NAME, H5_ITER_INC, collect_name, &names), place,
          "list the datasets");
  if (std::ranges::find(names, kText) == names.end()) fail(place, "has no dataset \"attributes\"");
  std::vector<FoundArray> arrays;
  for (const std::string& name : names) {
    place.object = name;
    find_object(file, place, arrays);
  }
  return arrays;
}

FoundArray find_text(const std::filesystem::path& path) {
  const Turn turn;
  const Place place{path, std::string(kText)};
  const File file = open_bundle({path});
  std::vector<FoundArray> arrays;
  find_object(file, place, arrays);
  if (arrays.empty()) fail(place, "expected a dataset");
  return std::move(arrays.front());
}

std::string read_text(const FoundArray& found) {
  if (found.dtype != DType::u8) fail(found.place, "expected a text");
  const HostTensor array = read_array(found);
  return {reinterpret_cast<const char*>(array.bytes.data()), array.bytes.size()};
}

}  // namespace

WrittenFile write_bundle_file(const std::filesystem::path& final_path, const Bundle& bundle,
                              const CommitHook& hook) {
  FileSkeleton skeleton;
  lay_out(final_path, bundle, skeleton);
  const std::vector<std::span<const std::byte>> pieces = skeleton.pieces();
  AtomicFile target(final_path, hook);
  target.write_pieces(pieces);
  target.commit();
  WrittenFile written;
  Xxh3Stream hash;
  for (const std::span<const std::byte> piece : pieces) {
    written.bytes += piece.size();
    hash.update(piece);
  }
  written.hash = hash.hex();
  return written;
}

std::string read_bundle_attributes(const std::filesystem::path& path) {
  return read_text(find_text(path));
}

Bundle read_bundle_file(const std::filesystem::path& path) {
  Bundle bundle;
  for (const FoundArray& found : find_arrays(path)) {
    const std::string_view name = found.place.object;
    if (name == kText) {
      bundle.attributes = read_text(found);
    } else if (name.starts_with(kArrays)) {
      bundle.arrays.emplace(name.substr(kArrays.size()), read_array(found));
    } else {
      fail(found.place, "does not belong in a bundle");
    }
  }
  return bundle;
}

std::string hdf5_library_version() {
  unsigned major = 0;
  unsigned minor = 0;
  unsigned release = 0;
  const hdf5::Turn turn;
  H5get_libversion(&major, &minor, &release);
  return fmt::format("HDF5 {}.{}.{}", major, minor, release);
}

}  // namespace quern

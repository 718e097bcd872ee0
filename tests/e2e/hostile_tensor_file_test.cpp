#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstring>

#include "tests/e2e/hostile_case.h"
#include "tests/e2e/run_folder.h"

namespace quern::test {
namespace {

namespace fs = std::filesystem;

using Json = HostileFolder::Json;

const std::string kTensor = "model.layers.1.mlp.up_proj.weight";
const std::string kFile = "model/model.safetensors";

/// A file whose header is this text, with all the data behind it.
void put_header(const HostileFolder& folder, const std::string& header) {
  folder.write(kFile, tensor_file_bytes(header, read_tensor_file(folder.path() / kFile).data));
}

/// One field of one tensor's entry.
std::function<void(HostileFolder&)> with(const char* field, const Json& value) {
  return [field, value](HostileFolder& folder) {
    folder.edit_header([&](Json& header) { header[kTensor][field] = value; });
  };
}

std::function<void(HostileFolder&)> moved(int begin, int end) {
  return [begin, end](HostileFolder& folder) {
    folder.edit_header([&](Json& header) {
      Json& offsets = header[kTensor]["data_offsets"];
      offsets[0] = offsets[0].get<int>() + begin;
      offsets[1] = offsets[1].get<int>() + end;
    });
  };
}

void declare_length(const HostileFolder& folder, std::uint64_t length) {
  std::string bytes = contents_of(folder.path() / kFile);
  std::memcpy(bytes.data(), &length, sizeof(length));
  folder.write(kFile, bytes);
}

const std::vector<HostileCase> kRows = {
    {"LengthAbsurd",
     65,
     {"model.safetensors: the header length is 18446744073709551615", "expected at most"},
     [](HostileFolder& folder) { declare_length(folder, UINT64_MAX); }},
    {"LengthBeyondTheFile",
     65,
     {"model.safetensors: truncated", "header alone ends at byte"},
     [](HostileFolder& folder) { declare_length(folder, 50'000'000); }},
    {"LengthZero",
     65,
     {"model.safetensors: the header length is 0, expected at least 2"},
     [](HostileFolder& folder) { declare_length(folder, 0); }},
    {"Truncated",
     65,
     {"model.safetensors: tensor", "truncated: the file has 6000000 bytes"},
     [](HostileFolder& folder) { fs::resize_file(folder.path() / kFile, 6'000'000); }},
    {"TrailingBytes",
     65,
     {"model.safetensors: the file has", "the last 3 bytes belong to no"},
     [](HostileFolder& folder) {
       folder.write(kFile, contents_of(folder.path() / kFile) + "abc");
     }},
    {"EmptyFile",
     65,
     {"model.safetensors: the file has 0 bytes, expected at least 8"},
     [](HostileFolder& folder) { folder.write(kFile, ""); }},
    {"NotATensorFile",
     65,
     {"model.safetensors: the header length is", "not a safetensors file"},
     [](HostileFolder& folder) { folder.write(kFile, std::string(1000, 'x')); }},
    {"PointerToLargeFile",
     65,
     {"model.safetensors: ", "not a safetensors file"},
     [](HostileFolder& folder) {
       folder.write(kFile, "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n");
     }},
    {"BadJson",
     65,
     {"model.safetensors: header:1:", "invalid JSON"},
     [](HostileFolder& folder) { put_header(folder, R"({"a": {"dtype": "F32", )"); }},
    {"HeaderNotAnObject",
     65,
     {"model.safetensors: the header begins with \"[\", expected '{'"},
     [](HostileFolder& folder) { put_header(folder, "[1, 2, 3]"); }},
    {"HeaderTooDeep",
     65,
     {"model.safetensors: header:1:", "nested deeper than 64"},
     [](HostileFolder& folder) {
       std::string text = "{";
       for (int i = 0; i < 100'000; ++i) text += "\"a\":{";
       put_header(folder, text);
     }},
    {"DuplicateName",
     65,
     {"model.safetensors: header:1:", kTensor, "appears twice"},
     [](HostileFolder& folder) {
       std::string text = read_tensor_file(folder.path() / kFile).header.dump();
       text.insert(1, "\"" + kTensor + R"(":{"dtype":"BF16","shape":[0],"data_offsets":[0,0]},)");
       put_header(folder, text);
     }},
    {"Overlap", 65, {"model.safetensors: tensor", "overlaps"}, moved(-2, -2)},
    {"Hole", 65, {"model.safetensors: tensor", kTensor, "leaves a hole after"}, moved(2, 2)},
    {"WrongSize", 65, {kTensor, "data_offsets", "expected 98304 x 2 bytes"}, moved(0, -2)},
    {"OffsetsReversed", 65, {kTensor, "ends before it begins"}, with("data_offsets", {9, 3})},
    {"OffsetsBeyondTheFile",
     65,
     {"model.safetensors: tensor", "leaves a hole after", "expected byte"},
     with("data_offsets", {9'000'000'000, 9'000'196'608})},
    {"OffsetNegative",
     65,
     {kTensor, "data_offsets holds -2", "expected an integer from 0"},
     with("data_offsets", {-2, 196'606})},
    {"OffsetsNotAPair", 65, {kTensor, "expected [begin, end]"}, with("data_offsets", "all of it")},
    {"UnknownType", 65, {kTensor, "dtype \"F4\" is not supported, expected"}, with("dtype", "F4")},
    {"ShapeOverflows",
     65,
     {kTensor, "too many elements"},
     with("shape", {4'294'967'296, 4'294'967'296, 4'294'967'296})},
    {"ShapeNegative", 65, {kTensor, "shape holds -512"}, with("shape", {-512, -192})},
    {"ShapeFractional", 65, {kTensor, "shape holds 512.5"}, with("shape", {512.5, 192})},
    {"UnknownField", 65, {kTensor, "unknown key \"strides\""}, with("strides", {1, 2})},
    {"IsADirectory",
     65,
     {"model.safetensors: is a directory, expected a regular file"},
     [](HostileFolder& folder) {
       folder.erase(kFile);
       fs::create_directory(folder.path() / kFile);
     }},
    {"IsAFifo",
     65,
     {"model.safetensors: is a FIFO, expected a regular file"},
     [](HostileFolder& folder) {
       folder.erase(kFile);
       mkfifo((folder.path() / kFile).c_str(), 0666);
     }},
    {"DanglingLink",
     65,
     {"found neither model.safetensors nor"},
     [](HostileFolder& folder) {
       folder.erase(kFile);
       fs::create_symlink("nowhere", folder.path() / kFile);
     }},
};

class HostileTensorFile : public testing::TestWithParam<HostileCase> {};

TEST_P(HostileTensorFile, IsAnswered) {
  check_hostile_case(GetParam());
}

INSTANTIATE_TEST_SUITE_P(Rows, HostileTensorFile, testing::ValuesIn(kRows), name_of_case);

}  // namespace
}  // namespace quern::test

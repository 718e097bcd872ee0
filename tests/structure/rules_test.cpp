#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "tests/structure/structure_rules.h"
#include "tests/support/paths.h"

namespace quern::test {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

/// A small tree that keeps every rule, to which tests add what breaks one.
class Rules : public ::testing::Test {
 protected:
  Rules() {
    write("kernels/core/error.h", "#pragma once\n#include <string>\n");
    write("kernels/backend.h", "#pragma once\n#include \"kernels/core/error.h\"\n");
    write("kernels/cpu/solver.cpp", "#include <cblas.h>\n\n#include \"kernels/backend.h\"\n");
    write("workers/comm/mpi.cpp", "#include <mpi.h>\n#include \"kernels/core/error.h\"\n");
    write("pipeline/quantizers/quantizer.h", "#pragma once\n");
    write("pipeline/quantizers/gptq.h", "#pragma once\n");
    write(
        "pipeline/quantizers/gptq.cpp",
        "#include \"pipeline/quantizers/gptq.h\"\n#include \"pipeline/quantizers/quantizer.h\"\n");
    write("jobs/quern/main.cpp", "#include <CLI/CLI.hpp>\nauto e = getenv(\"A\");\n");
    for (const char* folder : {"kernels/cpu", "workers/comm", "pipeline/quantizers"}) {
      write("tests/" + std::string(folder) + "/some_test.cpp", "int x;\n");
    }
  }

  void write(const fs::path& path, const std::string& text) {
    fs::create_directories((root_.path() / path).parent_path());
    std::ofstream(root_.path() / path, std::ios::binary) << text;
  }

  std::vector<Violation> check(const std::vector<Exemption>& exemptions = {}) {
    return check_sources(root_.path(), exemptions);
  }

  /// Writes one file; expects exactly one violation, of this rule, in that file.
  void expect(Rule rule, const std::string& path, const std::string& text, int line = 1) {
    SCOPED_TRACE(path + ":\n" + text.substr(0, 200));
    const fs::path old = root_.path() / path;
    ASSERT_FALSE(fs::exists(old));
    write(path, text);
    const auto found = check();
    fs::remove(old);
    ASSERT_EQ(found.size(), 1U) << describe(found);
    EXPECT_EQ(found[0].rule, rule) << describe(found);
    EXPECT_EQ(found[0].file, path);
    EXPECT_EQ(found[0].line, line);
  }

  void expect_none(const std::string& path, const std::string& text) {
    write(path, text);
    const auto found = check();
    fs::remove(root_.path() / path);
    EXPECT_THAT(found, IsEmpty()) << describe(found);
  }

 private:
  TemporaryDirectory root_;
};

std::string lines(int count) {
  std::string text;
  for (int i = 0; i < count; ++i) text += "int a" + std::to_string(i) + ";\n";
  return text;
}

std::string function_of(int count) {
  return "void f() {\n" + lines(count) + "}\n";
}

TEST_F(Rules, AcceptATreeThatKeepsThem) {
  EXPECT_THAT(check(), IsEmpty()) << describe(check());
}

TEST_F(Rules, IncludesPointOneWay) {
  const Rule rule = Rule::include_direction;
  expect(rule, "kernels/x.h", "#pragma once\n#include \"workers/y.h\"\n", 2);
  expect(rule, "workers/comm/x.cpp", "#include \"pipeline/plan.h\"\n");
  expect(rule, "pipeline/quantizers/x.cpp", "#include \"jobs/quern/main.h\"\n");
  expect(rule, "jobs/x.cpp", "#include \"tests/support/paths.h\"\n");
  expect(rule, "jobs/x.cpp", "#include \"main.h\"\n");
  expect(rule, "kernels/x.h", "#pragma once\n#include <pipeline/plan.h>\n", 2);
  expect_none("jobs/x.cpp", "#include \"kernels/backend.h\"\n// #include \"tests/x.h\"\n");
}

TEST_F(Rules, SiblingsAreStrangers) {
  const Rule rule = Rule::include_direction;
  write("tests/pipeline/exporters/x_test.cpp", "");
  write("tests/pipeline/stages/x_test.cpp", "");
  expect(rule, "pipeline/quantizers/rtn.cpp", "#include \"pipeline/quantizers/gptq.h\"\n");
  expect(rule, "pipeline/quantizers/rtn.cpp", "#include \"pipeline/exporters/exporter.h\"\n");
  expect(rule, "pipeline/exporters/gptq.cpp", "#include \"pipeline/quantizers/quantizer.h\"\n");
  expect(rule, "pipeline/exporters/gptq.cpp", "#include \"pipeline/exporters/squeezellm.h\"\n");
  expect(rule, "pipeline/stages/export.cpp", "#include \"pipeline/stages/quantize.h\"\n");
  expect(rule, "pipeline/stages/export.cpp", "#include \"pipeline/stages/exporting.h\"\n");
  expect_none("pipeline/exporters/gptq.cpp", "#include \"pipeline/exporters/gptq_dynamic.h\"\n");
  expect_none("pipeline/quantizers/registry.cpp", "#include \"pipeline/quantizers/gptq.h\"\n");
  expect_none("pipeline/quantizers/quantizer.cpp", "#include \"pipeline/quantizers/gptq.h\"\n");
  expect_none("pipeline/stages/quantize.cpp",
              "#include \"pipeline/quantizers/quantizer.h\"\n"
              "#include \"pipeline/exporters/exporter.h\"\n");
}

TEST_F(Rules, BackendsAreReachedThroughTheInterface) {
  expect(Rule::include_direction, "kernels/backend.cpp", "#include \"kernels/cpu/solver.h\"\n");
  expect(Rule::include_direction, "jobs/x.cpp", "#include \"kernels/cuda/solver.h\"\n");
  expect_none("kernels/cpu/x.cpp", "#include \"kernels/cpu/solver.h\"\n");
  expect_none("tests/bench/x.cpp", "#include \"kernels/cpu/solver.h\"\n");
  expect_none("tests/kernels/cpu/x_test.cpp", "#include \"kernels/cpu/solver.h\"\n");
}

TEST_F(Rules, ThirdPartyHeadersAreFenced) {
  for (const char* header :
       {"cuda_runtime.h", "cublas_v2.h", "mpi.h", "nccl.h", "hdf5.h", "H5Cpp.h", "yaml-cpp/yaml.h",
        "cblas.h", "lapacke.h", "pcre2.h", "utf8proc.h", "zlib.h"}) {
    expect(Rule::fence, "jobs/x.cpp", "#include <" + std::string(header) + ">\n");
    expect(Rule::fence, "tests/jobs/x.cpp", "#include <" + std::string(header) + ">\n");
  }
  expect(Rule::fence, "workers/comm/x.cpp", "#include <CLI/CLI.hpp>\n");
  expect(Rule::fence, "kernels/x.cpp", "#include <spdlog/spdlog.h>\n");
  expect_none("tests/workers/store/x_test.cpp", "#include <hdf5.h>\n");
  expect_none("kernels/cuda/x.cu", "#include <cuda_runtime.h>\n");
}

TEST_F(Rules, FilesAndFunctionsAreShort) {
  expect(Rule::size, "kernels/x.h", "#pragma once\n" + lines(250), 0);
  expect(Rule::size, "jobs/x.cpp", lines(401), 0);
  expect(Rule::size, "jobs/x.cpp", function_of(41));
  expect(Rule::size, "tests/x.cpp", "TEST(A, B) {\n" + lines(41) + "}\n");
  expect(Rule::size, "kernels/cpu/x.cpp", function_of(81));
  expect_none("kernels/x.h", "#pragma once\n" + lines(249));
  expect_none("jobs/x.cpp", lines(400));
  expect_none("jobs/x.cpp", function_of(40));
  expect_none("kernels/cpu/x.cpp", function_of(80));
}

TEST_F(Rules, TypesAreNamedAfterWhatTheyAre) {
  for (const char* text :
       {"class RunManager;", "struct HelperTable {};", "enum class BaseKind { a };", "struct Util;",
        "class [[nodiscard]] TensorInfo;", "using ShardData = int;", "struct StringUtils;",
        "template <class T> concept CommonReal = true;"}) {
    expect(Rule::name, "jobs/x.cpp", text);
  }
  expect(Rule::name, "jobs/x.h", "#pragma once\nint get_size() const;", 2);
  expect(Rule::name, "jobs/x.h", "#pragma once\nconst Shape& get_shape(int x);", 2);
  expect_none("jobs/x.cpp",
              "struct Database {}; class Informed; struct Baseline; using std::string;\n"
              "int a = value.get_ref<int>(); auto b = std::get_time(&t, f); // class Manager\n");
}

TEST_F(Rules, ForbiddenThings) {
  const Rule rule = Rule::forbidden;
  expect(rule, "workers/comm/x.cpp", "auto home = std::getenv(\"HOME\");");
  expect(rule, "tests/x.cpp", "auto home = secure_getenv(\"HOME\");");
  expect(rule, "jobs/x.cpp", "int a;\n#ifdef LINUX\n#endif\n", 2);
  expect(rule, "jobs/x.cpp", "  #  if 0\n#endif\n");
  expect(rule, "jobs/x.cpp", "#define SQUARE(x) x\n");
  expect(rule, "jobs/x.h", "int a;\n");
  expect(rule, "jobs/x.cpp", "int a;  // TODO: b\n");
  expect(rule, "jobs/x.cpp", "/* later:\n FIXME */\n", 2);
  expect_none("jobs/x.cpp", "auto a = \"TODO #ifdef\";\nauto b = R\"(\n#if 0\n)\";\n");
}

TEST_F(Rules, CodeHasTests) {
  expect(Rule::mirror, "pipeline/data/x.cpp", "", 0);
  expect(Rule::mirror, "workers/store/x.cpp", "", 0);
  expect_none("pipeline/data/x.h", "#pragma once\n");
  expect_none("jobs/slurm/x.cpp", "");
}

TEST_F(Rules, AnExemptionWorksUntilItIsNotNeeded) {
  const Exemption exemption{"jobs/x.cpp", Rule::size, "one table"};
  write("jobs/x.cpp", lines(500));
  EXPECT_THAT(check({exemption}), IsEmpty());
  write("jobs/x.cpp", lines(500) + "#define A\n");
  ASSERT_EQ(check({exemption}).size(), 1U);
  EXPECT_EQ(check({exemption})[0].rule, Rule::forbidden);
  write("jobs/x.cpp", lines(5));
  const auto found = check({exemption});
  ASSERT_EQ(found.size(), 1U);
  EXPECT_EQ(found[0].rule, Rule::exemption);
  EXPECT_THAT(describe(found), HasSubstr("jobs/x.cpp:0: [exemption] is exempt (one table)"));
}

TEST(TopLevel, HoldsTheAgreedEntriesAndNoOthers) {
  std::vector<std::string> entries = {"CMakeLists.txt", "pipeline", "workers", "kernels",
                                      "configs",        "jobs",     "tests",   "README.md",
                                      "LICENSE",        ".git"};
  EXPECT_THAT(check_top_level(entries), IsEmpty());
  entries.emplace_back("scripts");
  EXPECT_EQ(describe(check_top_level(entries)),
            "scripts:0: [top-level] does not belong into the root; move it\n");
  entries.erase(entries.begin());
  entries.pop_back();
  EXPECT_EQ(describe(check_top_level(entries)),
            "CMakeLists.txt:0: [top-level] is missing from the root\n");
}

}  // namespace
}  // namespace quern::test

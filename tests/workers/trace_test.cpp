#include "workers/trace.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <future>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>
#include <thread>

#include "kernels/core/error.h"
#include "tests/support/mpi_test_main.h"
#include "tests/support/paths.h"
#include "tests/workers/test_session.h"
#include "workers/agreement.h"
#include "workers/files/atomic_file.h"
#include "workers/trace_file.h"

namespace quern::test {
namespace {

struct Unprintable {};

}  // namespace
}  // namespace quern::test

template <>
struct fmt::formatter<quern::test::Unprintable> {
  static constexpr auto parse(fmt::format_parse_context& context) { return context.begin(); }
  static fmt::format_context::iterator format(const quern::test::Unprintable&,
                                              fmt::format_context&) {
    throw std::logic_error("was formatted");
  }
};

namespace quern::test {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using std::chrono::nanoseconds;
using testing::ElementsAre;

json events_of(const Trace& trace, Trace::Clock::time_point origin = {}) {
  return json::parse("[" + trace.events(3, origin) + "]");
}

json spans_among(const json& events) {
  json spans = json::array();
  for (const json& event : events) {
    if (event.at("ph") == "X") spans.push_back(event);
  }
  return spans;
}

json spans_of(const Trace& trace) {
  return spans_among(events_of(trace));
}

std::vector<std::string> names_of(const json& spans) {
  std::vector<std::string> names;
  for (const json& span : spans) names.push_back(span.at("name"));
  return names;
}

/// The name of a row by its number.
std::map<int, std::string> rows_of(const Trace& trace) {
  std::map<int, std::string> rows;
  for (const json& event : events_of(trace)) {
    if (event.at("name") == "thread_name") rows[event.at("tid")] = event.at("args").at("name");
  }
  return rows;
}

TEST(Trace, GivenTimesComeOutInMicrosecondsSinceTheOrigin) {
  Trace trace;
  const Trace::Clock::time_point origin(nanoseconds(5'000'000'000));
  trace.add("device", "copy \"a\" \x80", origin + nanoseconds(1'234'567),
            origin + nanoseconds(1'234'568));
  const json events = events_of(trace, origin);
  ASSERT_EQ(events.size(), 4U);
  EXPECT_EQ(events[0], json::parse(R"({"ph": "M", "pid": 3, "name": "process_name",
                                       "args": {"name": "rank 3"}})"));
  EXPECT_EQ(events[1], json::parse(R"({"ph": "M", "pid": 3, "tid": 0, "name": "thread_name",
                                       "args": {"name": "main"}})"));
  EXPECT_EQ(events[2], json::parse(R"({"ph": "M", "pid": 3, "tid": 1, "name": "thread_name",
                                       "args": {"name": "device"}})"));
  EXPECT_EQ(events[3], json::parse(R"({"ph": "X", "pid": 3, "tid": 1, "ts": 1234.567, "dur": 0.001,
                                       "name": "copy \"a\" \ufffd"})"));
}

TEST(Trace, SpansOfAThreadAreNested) {
  Trace trace;
  {
    const Trace::Span outer(&trace, "outer");
    const Trace::Span inner(&trace, "layer {} of {}", 3, 4);
  }
  const json spans = spans_of(trace);
  EXPECT_THAT(names_of(spans), ElementsAre("layer 3 of 4", "outer"));  // in order of their ends
  const auto begin = [&](int i) {
    return spans[static_cast<std::size_t>(i)].at("ts").get<double>();
  };
  const auto end = [&](int i) {
    return begin(i) + spans[static_cast<std::size_t>(i)].at("dur").get<double>();
  };
  EXPECT_LE(begin(1), begin(0));
  EXPECT_GE(end(1) + 1e-2, end(0)) << "but for the rounding of large numbers";
  EXPECT_EQ(spans[0].at("tid"), 0);
  EXPECT_EQ(spans[1].at("tid"), 0);
}

TEST(Trace, WithoutOneNothingIsFormatted) {
  const Trace::Span span(nullptr, "one");
  const Trace::Span formatted(nullptr, "{}", Unprintable{});
  Trace trace;
  EXPECT_THROW(Trace::Span(&trace, "{}", Unprintable{}), std::logic_error);
  EXPECT_TRUE(spans_of(trace).empty());
}

/// Threads that follow each other share a row; those that work at the same time do not.
TEST(Trace, ThreadsTakeTheFirstRowThatIsFree) {
  Trace trace;
  const auto record = [&](const char* name) { const Trace::Span span(&trace, name); };
  std::thread(record, "a").join();
  std::thread(record, "b").join();
  std::promise<void> opened;
  std::promise<void> leave;
  std::thread waiting([&] {
    const Trace::Span span(&trace, "c");
    opened.set_value();
    leave.get_future().wait();
  });
  opened.get_future().wait();
  std::thread(record, "d").join();
  leave.set_value();
  waiting.join();
  record("e");
  std::map<std::string, int> rows;
  for (const json& span : spans_of(trace)) rows[span.at("name")] = span.at("tid");
  EXPECT_EQ(rows, (std::map<std::string, int>{{"a", 1}, {"b", 1}, {"c", 1}, {"d", 2}, {"e", 0}}));
  EXPECT_EQ(rows_of(trace),
            (std::map<int, std::string>{{0, "main"}, {1, "worker 1"}, {2, "worker 2"}}));
}

TEST(Trace, ManyThreadsAtOnce) {
  Trace trace;
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&] {
      for (int j = 0; j < 200; ++j) {
        const Trace::Span outer(&trace, "outer");
        const Trace::Span inner(&trace, "inner");
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(spans_of(trace).size(), 8U * 200 * 2);
  EXPECT_LE(rows_of(trace).size(), 9U);
}

TEST(Trace, WhatIsBeyondTheLimitIsCounted) {
  Trace trace(3);
  for (int i = 0; i < 10; ++i) const Trace::Span span(&trace, "{}", i);
  EXPECT_EQ(names_of(spans_of(trace)), (std::vector<std::string>{"0", "1", "2"}));
  EXPECT_EQ(trace.left_out(), 7U);
}

/// A traced job, in a directory of rank 0 that all ranks know.
class TracedJob : public testing::Test {
 protected:
  TracedJob() {
    std::string text;
    if (session_.is_root()) text = own_.emplace().path().string();
    const auto bytes = std::as_bytes(std::span(text));
    const auto known = broadcast_message(*session_.communicator, {bytes.begin(), bytes.end()}, 0);
    directory_ = std::string(reinterpret_cast<const char*>(known.data()), known.size());
  }
  ~TracedJob() override { session_.communicator->barrier(); }

  fs::path file() const { return directory_ / "trace.json"; }
  /// Rank 0 may still be writing when another one looks.
  json written() {
    session_.communicator->barrier();
    return json::parse(read_text_file(file())).at("traceEvents");
  }

  Session session_ = quiet_session(&mpi_environment());
  std::optional<TemporaryDirectory> own_;
  fs::path directory_;
};

TEST_F(TracedJob, HasTheSpansOfAllRanksOnOneClock) {
  run_traced(session_, file(), [&] {
    for (int turn = 0; turn < session_.ranks(); ++turn) {
      session_.communicator->barrier();
      if (turn != session_.rank()) continue;
      const Trace::Span span(session_.trace.get(), "turn");
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    session_.communicator->barrier();
  });
  EXPECT_EQ(session_.trace, nullptr);
  const json spans = spans_among(written());
  ASSERT_EQ(spans.size(), static_cast<std::size_t>(session_.ranks()));
  double last_end = 0.0;
  for (int rank = 0; rank < session_.ranks(); ++rank) {
    const json& span = spans[static_cast<std::size_t>(rank)];
    EXPECT_EQ(span.at("pid"), rank);
    const double begin = span.at("ts");
    EXPECT_GE(begin, last_end) << "ranks took turns";
    EXPECT_GE(span.at("dur").get<double>(), 20'000.0);
    last_end = begin + span.at("dur").get<double>() - 15'000.0;  // what clocks may differ by
  }
}

TEST_F(TracedJob, IsWrittenWhenAllRanksStopTogether) {
  const auto stop = [&] {
    const Trace::Span span(session_.trace.get(), "until then");
    run_agreed(session_, [&] {
      if (session_.rank() + 1 == session_.ranks()) throw Interrupted("by a signal");
    });
  };
  EXPECT_THROW(run_traced(session_, file(), stop), Error);
  EXPECT_EQ(names_of(spans_among(written())),
            std::vector<std::string>(static_cast<std::size_t>(session_.ranks()), "until then"));
}

TEST_F(TracedJob, ErrorsThatAreNotAgreedOnLeaveEachRanksOwnSpans) {
  const auto fail = [&] {
    const Trace::Span span(session_.trace.get(), "alone");
    throw InternalError("a bug");
  };
  EXPECT_THROW(run_traced(session_, file(), fail), InternalError);
  const int rank = session_.rank();
  const fs::path own = rank == 0 ? file() : directory_ / fmt::format("trace.rank-{}.json", rank);
  const json spans = spans_among(json::parse(read_text_file(own)).at("traceEvents"));
  EXPECT_THAT(names_of(spans), ElementsAre("alone"));
  EXPECT_EQ(spans[0].at("pid"), rank);
}

TEST_F(TracedJob, APlaceThatCannotBeWrittenIsFoundBeforeTheWork) {
  bool worked = false;
  for (const fs::path& place : {directory_, directory_ / "absent" / "trace.json"}) {
    EXPECT_THROW(run_traced(session_, place, [&] { worked = true; }), Error) << place;
  }
  EXPECT_FALSE(worked);
  run_traced(session_, "", [&] { worked = session_.trace == nullptr; });
  EXPECT_TRUE(worked);
}

}  // namespace
}  // namespace quern::test

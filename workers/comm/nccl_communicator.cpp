#include "workers/comm/nccl_communicator.h"

#include <fmt/format.h>
#include <nccl.h>

#include <algorithm>
#include <future>
#include <string_view>
#include <thread>
#include <utility>

#include "kernels/core/error.h"
#include "kernels/cuda_stream.h"
#include "workers/comm/checks.h"
#include "workers/comm/mpi_environment.h"
#include "workers/comm/polling.h"

namespace quern {
namespace {

using std::chrono::seconds;

constexpr seconds kLongestStart{300};
constexpr seconds kLongestEnd{10};

/// NCCL moves data without being asked about it, so there is no haste in asking.
Patience patience(seconds deadline) {
  return {.eager = std::chrono::milliseconds(5), .deadline = deadline};
}

/// `comm`: may be null. A call on a nonblocking communicator may answer that it is under way.
void check_nccl(ncclResult_t result, ncclComm_t comm, std::string_view operation) {
  if (result == ncclSuccess || result == ncclInProgress) return;
  const std::string_view detail = ncclGetLastError(comm);
  throw CommunicationError(fmt::format(
      "{}: NCCL reports: {}{}{}; a rank, a device or the network is lost, run again to resume",
      operation, ncclGetErrorString(result), detail.empty() ? "" : ": ", detail));
}

/// Throws if an operation failed on its own time; true if none is being started any more.
bool is_settled(ncclComm_t comm, std::string_view operation) {
  ncclResult_t state = ncclSuccess;
  check_nccl(ncclCommGetAsyncError(comm, &state), comm, operation);
  check_nccl(state, comm, operation);
  return state == ncclSuccess;
}

/// Runs what may hang on a thread of its own, and leaves it there if it does.
void run_aside(std::function<void()> work, seconds limit) noexcept {
  try {
    std::packaged_task<void()> task(std::move(work));
    const std::future<void> done = task.get_future();
    std::thread(std::move(task)).detach();
    done.wait_for(limit);
  } catch (const std::exception&) {  // no thread to be had: the process is about to end anyway
  }
}

/// Ends the kernels of a communicator that lost a peer, so that the device can be left.
void abort_aside(ncclComm_t comm) noexcept {
  run_aside([comm] { ncclCommAbort(comm); }, kLongestEnd);
}

void end_aside(ncclComm_t comm) noexcept {
  const auto end = [comm] {
    check_nccl(ncclCommFinalize(comm), comm, "end NCCL");
    const bool idle =
        poll_until([&] { return is_settled(comm, "end NCCL"); }, patience(kLongestEnd));
    idle ? ncclCommDestroy(comm) : ncclCommAbort(comm);
  };
  run_aside(end, 2 * kLongestEnd);
}

/// Made by rank 0 for all. Collective; a failure of rank 0 is everybody's.
ncclUniqueId share_unique_id(Communicator& ranks) {
  std::vector<std::byte> message;
  std::string failure;
  ncclUniqueId id{};
  if (ranks.rank() == 0) {
    const ncclResult_t result = ncclGetUniqueId(&id);
    const auto bytes = std::as_bytes(std::span(id.internal));
    if (result == ncclSuccess) message.assign(bytes.begin(), bytes.end());
    if (result != ncclSuccess) failure = ncclGetLastError(nullptr);
  }
  message = broadcast_message(ranks, std::move(message), 0);
  if (message.size() != sizeof(id.internal)) {
    throw DeviceError(fmt::format("start NCCL: rank 0 got no unique id: {}",
                                  failure.empty() ? "see its messages" : failure));
  }
  std::ranges::copy(message, std::as_writable_bytes(std::span(id.internal)).begin());
  return id;
}

class NcclCommunicator final : public Communicator {
 public:
  NcclCommunicator(std::unique_ptr<HostCommunicator> host, Memory& memory, seconds deadline)
      : host_(std::move(host)),
        memory_(memory),
        stream_(make_cuda_stream(memory)),
        deadline_(deadline) {
    start();
  }
  ~NcclCommunicator() override {
    if (comm_ != nullptr) end_aside(comm_);
  }

  int rank() const noexcept override { return host_->rank(); }
  int size() const noexcept override { return host_->size(); }

  void barrier() override { host_->barrier(); }
  void broadcast(std::span<std::byte> bytes, int root) override { host_->broadcast(bytes, root); }
  std::vector<std::vector<std::byte>> gather(std::span<const std::byte> bytes, int root) override {
    return host_->gather(bytes, root);
  }
  void sum(std::span<std::int64_t> values) override { host_->sum(values); }
  void maximum(std::span<std::int64_t> values) override { host_->maximum(values); }

  void broadcast(TensorView tensor, int root) override;
  void reduce_sum(TensorView tensor, int root) override;

 private:
  void start();
  void start_locally(const ncclUniqueId& id);
  void settle(std::string_view operation, seconds limit);
  template <typename Enqueue>
  void on_stream(const Call& call, Enqueue&& enqueue);
  template <typename Enqueue>
  void run_on_stream(const Call& call, Enqueue&& enqueue);

  cudaStream_t stream() const noexcept { return static_cast<cudaStream_t>(stream_->handle()); }

  std::unique_ptr<HostCommunicator> host_;
  Memory& memory_;
  std::unique_ptr<CudaStream> stream_;
  seconds deadline_;
  ncclComm_t comm_ = nullptr;  // null after a failure: then a thread nobody waits for ends it
};

/// All ranks succeed or all throw: one that failed tells the others over the host communicator.
void NcclCommunicator::start() {
  const ncclUniqueId id = share_unique_id(*host_);
  std::string failure;
  try {
    start_locally(id);
  } catch (const CommunicationError& error) {
    failure = error.what();
  }
  std::int64_t failed = failure.empty() ? 0 : 1;
  host_->sum(std::span(&failed, 1));
  if (failed == 0) return;
  if (comm_ != nullptr) abort_aside(std::exchange(comm_, nullptr));
  throw DeviceError(failure.empty()
                        ? fmt::format("start NCCL: it failed on {} of {} ranks", failed, size())
                        : failure);
}

void NcclCommunicator::start_locally(const ncclUniqueId& id) {
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  check_nccl(ncclCommInitRankConfig(&comm_, size(), id, rank(), &config), nullptr, "start NCCL");
  settle("start NCCL", std::min(kLongestStart, deadline_ / 2));
}

void NcclCommunicator::settle(std::string_view operation, seconds limit) {
  if (poll_until([&] { return is_settled(comm_, operation); }, patience(limit))) return;
  throw CommunicationError(
      fmt::format("{}: NCCL did not get under way within {} s (rank {} of {}); a rank is lost or "
                  "stuck. Run again to resume",
                  operation, limit.count(), rank(), size()));
}

/// enqueue() puts the operation on the stream; returns when it is done there.
template <typename Enqueue>
void NcclCommunicator::run_on_stream(const Call& call, Enqueue&& enqueue) {
  const std::string operation = call.text();
  check_nccl(enqueue(), comm_, operation);
  settle(operation, deadline_);  // before that, the stream may not hold the operation yet
  stream_->mark();
  const auto is_done = [&] {
    const bool settled = is_settled(comm_, operation);
    return settled && stream_->has_passed_mark();
  };
  if (poll_until(is_done, patience(deadline_))) return;
  throw CommunicationError(
      fmt::format("{}: every rank joined, but it was not done within {} s (rank {} of {}); a rank "
                  "or its device is lost or stuck. Run again to resume",
                  operation, deadline_.count(), rank(), size()));
}

template <typename Enqueue>
void NcclCommunicator::on_stream(const Call& call, Enqueue&& enqueue) {
  memory_.synchronize();  // what failed before is not this operation's fault
  host_->with_all_ranks(call, [&] {
    if (call.bytes == 0) return;
    try {
      run_on_stream(call, enqueue);
    } catch (const DeviceError& error) {
      abort_aside(std::exchange(comm_, nullptr));
      throw CommunicationError(fmt::format("{}: {}", call.text(), error.what()));
    } catch (...) {
      abort_aside(std::exchange(comm_, nullptr));
      throw;
    }
  });
}

void NcclCommunicator::broadcast(TensorView tensor, int root) {
  on_stream({Collective::tensor_broadcast, tensor.bytes(), root}, [&] {
    return ncclBroadcast(tensor.data, tensor.data, tensor.bytes(), ncclUint8, root, comm_,
                         stream());
  });
}

void NcclCommunicator::reduce_sum(TensorView tensor, int root) {
  check_summable(tensor);
  on_stream({Collective::reduce_sum, tensor.bytes(), root}, [&] {
    return ncclReduce(tensor.data, tensor.data, static_cast<std::size_t>(tensor.elems()), ncclInt64,
                      ncclSum, root, comm_, stream());
  });
}

}  // namespace

std::string nccl_library_version() {
  int version = 0;
  if (ncclGetVersion(&version) != ncclSuccess) return "NCCL";
  return fmt::format("NCCL {}.{}.{}", version / 10000, version / 100 % 100, version % 100);
}

std::unique_ptr<Communicator> make_nccl_communicator(std::unique_ptr<HostCommunicator> host,
                                                     Memory& memory, seconds deadline) {
  return std::make_unique<NcclCommunicator>(std::move(host), memory, deadline);
}

}  // namespace quern

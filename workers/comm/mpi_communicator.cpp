#include "workers/comm/mpi_communicator.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <climits>
#include <exception>
#include <utility>

#include "kernels/core/error.h"
#include "workers/comm/checks.h"
#include "workers/comm/mpi_group.h"
#include "workers/comm/polling.h"

namespace quern {
namespace {

std::string_view name_of(std::int64_t kind) {
  return Call{static_cast<Collective>(kind)}.name();
}

/// Memory that an unfinished operation may still write to; leaked, not freed, after a failure.
struct Buffers {
  std::array<std::int64_t, 6> agreement{};
  std::int64_t size = 0;
  std::vector<std::int64_t> sizes;
  std::vector<std::byte> staging;
};

class MpiCommunicator final : public HostCommunicator {
 public:
  MpiCommunicator(Memory& memory, std::chrono::seconds deadline, std::size_t piece_bytes)
      : memory_(memory), deadline_(deadline), piece_bytes_(piece_bytes) {
    ensure(piece_bytes >= sizeof(std::int64_t) && piece_bytes <= INT_MAX,
           "a piece of 8 bytes to INT_MAX");
  }
  ~MpiCommunicator() override {
    if (!broken_) return;
    group_.abandon();
    static_cast<void>(buffers_.release());
  }

  int rank() const noexcept override { return group_.rank(); }
  int size() const noexcept override { return group_.size(); }

  void barrier() override;
  void broadcast(std::span<std::byte> bytes, int root) override;
  std::vector<std::vector<std::byte>> gather(std::span<const std::byte> bytes, int root) override;
  void sum(std::span<std::int64_t> values) override;
  void maximum(std::span<std::int64_t> values) override;
  void broadcast(TensorView tensor, int root) override;
  void reduce_sum(TensorView tensor, int root) override;
  void with_all_ranks(const Call& call, const std::function<void()>& work) override;

 private:
  void join(const Call& call);
  void check_agreement(const Call& call) const;
  void wait(const Call& call, MPI_Request& request);
  template <typename Start>
  void in_pieces(const Call& call, std::size_t elems, std::size_t elem_bytes, Start&& start);
  template <typename Start>
  void tensor_in_pieces(const Call& call, TensorView tensor, Start&& start);
  MPI_Request start_broadcast(std::byte* bytes, int count, int root) const;
  MPI_Request start_reduce(std::byte* values, int count, int root) const;
  void all_reduce(Collective kind, std::span<std::int64_t> values, MPI_Op op);
  void gather_sizes(const Call& call, std::size_t bytes);
  void append_pieces(std::vector<MPI_Request>& requests, std::span<std::byte> bytes, int source);
  void append_pieces(std::vector<MPI_Request>& requests, std::span<const std::byte> bytes,
                     int target);

  MpiGroup group_;
  Memory& memory_;
  std::chrono::seconds deadline_;
  std::size_t piece_bytes_;
  std::unique_ptr<Buffers> buffers_ = std::make_unique<Buffers>();
  bool broken_ = false;
};

/// Everything waits for the slowest rank here, on memory of ours and asleep; when the work starts,
/// all ranks are present and mean the same.
void MpiCommunicator::with_all_ranks(const Call& call, const std::function<void()>& work) {
  check_root(call.name(), call.root, size());
  if (broken_) {
    throw CommunicationError(fmt::format(
        "{}: an earlier collective failed on rank {}; run again to resume", call.text(), rank()));
  }
  broken_ = true;
  join(call);
  broken_ = false;
  check_agreement(call);
  broken_ = true;
  work();
  broken_ = false;
}

void MpiCommunicator::join(const Call& call) {
  const auto kind = static_cast<std::int64_t>(call.kind);
  const auto bytes = static_cast<std::int64_t>(call.bytes);
  const std::int64_t root = call.root;
  auto& most = buffers_->agreement;
  most = {kind, -kind, bytes, -bytes, root, -root};
  MPI_Request request = MPI_REQUEST_NULL;
  check_mpi(MPI_Iallreduce(MPI_IN_PLACE, most.data(), static_cast<int>(most.size()), MPI_INT64_T,
                           MPI_MAX, group_.comm(), &request),
            "MPI_Iallreduce");
  constexpr std::chrono::microseconds kEager{200};
  if (!poll_until([&] { return is_complete(request); }, {kEager, deadline_})) {
    throw CommunicationError(
        fmt::format("{}: rank {} of {} waited {} s, but not every rank joined; one is lost, stuck "
                    "or slower than the deadline. Run again to resume, with a longer deadline if "
                    "it was only slow",
                    call.text(), rank(), size(), deadline_.count()));
  }
}

void MpiCommunicator::check_agreement(const Call& call) const {
  const auto& most = buffers_->agreement;
  if (most[0] != -most[1] || most[2] != -most[3] || most[4] != -most[5]) {
    throw InternalError(fmt::format(
        "rank {} of {} calls {}, but other ranks call another collective: from {} to {}, of {} to "
        "{} bytes, root {} to {}",
        rank(), size(), call.text(), name_of(-most[1]), name_of(most[0]), -most[3], most[2],
        -most[5], most[4]));
  }
}

void MpiCommunicator::wait(const Call& call, MPI_Request& request) {
  // Sleeping between questions would starve a transfer, which moves only while it is asked about.
  constexpr std::chrono::seconds kEager{1};
  if (poll_until([&] { return is_complete(request); }, {kEager, deadline_})) return;
  throw CommunicationError(
      fmt::format("{}: every rank joined, but a piece was not moved within {} s (rank {} of {}); a "
                  "rank is lost or stuck. Run again to resume",
                  call.text(), deadline_.count(), rank(), size()));
}

/// start(begin, count) begins the transfer of some elements; two are under way at a time.
template <typename Start>
void MpiCommunicator::in_pieces(const Call& call, std::size_t elems, std::size_t elem_bytes,
                                Start&& start) {
  const std::size_t step = piece_bytes_ / elem_bytes;
  MPI_Request previous = MPI_REQUEST_NULL;
  for (std::size_t begin = 0; begin < elems; begin += step) {
    MPI_Request next = start(begin, static_cast<int>(std::min(step, elems - begin)));
    wait(call, previous);
    previous = next;
  }
  wait(call, previous);
}

/// start(address, count) begins the transfer of some elements at a host address.
template <typename Start>
void MpiCommunicator::tensor_in_pieces(const Call& call, TensorView tensor, Start&& start) {
  const std::size_t elem_bytes = dtype_bytes(tensor.dtype);
  const auto elems = static_cast<std::size_t>(tensor.elems());
  if (std::byte* const host = memory_.host_address(tensor)) {
    in_pieces(call, elems, elem_bytes, [&](std::size_t begin, int count) {
      return start(host + begin * elem_bytes, count);
    });
    return;
  }
  const TensorView flat = tensor.reshaped({tensor.elems()});
  const std::size_t step = piece_bytes_ / elem_bytes;
  std::vector<std::byte>& staging = buffers_->staging;
  for (std::size_t begin = 0; begin < elems; begin += step) {
    const std::size_t count = std::min(step, elems - begin);
    const TensorView part =
        flat.rows(static_cast<std::int64_t>(begin), static_cast<std::int64_t>(count));
    staging.resize(part.bytes());
    if (call.kind == Collective::reduce_sum || rank() == call.root) memory_.download(part, staging);
    memory_.synchronize();
    MPI_Request request = start(staging.data(), static_cast<int>(count));
    wait(call, request);
    if (call.kind == Collective::tensor_broadcast ? rank() != call.root : rank() == call.root) {
      memory_.upload(staging, part);
      memory_.synchronize();
    }
  }
}

MPI_Request MpiCommunicator::start_broadcast(std::byte* bytes, int count, int root) const {
  MPI_Request request = MPI_REQUEST_NULL;
  check_mpi(MPI_Ibcast(bytes, count, MPI_BYTE, root, group_.comm(), &request), "MPI_Ibcast");
  return request;
}

MPI_Request MpiCommunicator::start_reduce(std::byte* values, int count, int root) const {
  MPI_Request request = MPI_REQUEST_NULL;
  const bool is_root = rank() == root;
  check_mpi(MPI_Ireduce(is_root ? MPI_IN_PLACE : values, is_root ? values : nullptr, count,
                        MPI_INT64_T, MPI_SUM, root, group_.comm(), &request),
            "MPI_Ireduce");
  return request;
}

void MpiCommunicator::barrier() {
  with_all_ranks({Collective::barrier}, [] {});
}

void MpiCommunicator::broadcast(std::span<std::byte> bytes, int root) {
  const Call call{Collective::broadcast, bytes.size(), root};
  with_all_ranks(call, [&] {
    in_pieces(call, bytes.size(), 1, [&](std::size_t begin, int count) {
      return start_broadcast(bytes.data() + begin, count, root);
    });
  });
}

void MpiCommunicator::broadcast(TensorView tensor, int root) {
  const Call call{Collective::tensor_broadcast, tensor.bytes(), root};
  const auto elem_bytes = static_cast<int>(dtype_bytes(tensor.dtype));
  memory_.synchronize();
  with_all_ranks(call, [&] {
    tensor_in_pieces(call, tensor, [&](std::byte* piece, int count) {
      return start_broadcast(piece, count * elem_bytes, root);
    });
  });
}

void MpiCommunicator::reduce_sum(TensorView tensor, int root) {
  check_summable(tensor);
  const Call call{Collective::reduce_sum, tensor.bytes(), root};
  memory_.synchronize();
  with_all_ranks(call, [&] {
    tensor_in_pieces(call, tensor,
                     [&](std::byte* piece, int count) { return start_reduce(piece, count, root); });
  });
}

void MpiCommunicator::all_reduce(Collective kind, std::span<std::int64_t> values, MPI_Op op) {
  const Call call{kind, values.size_bytes()};
  with_all_ranks(call, [&] {
    in_pieces(call, values.size(), sizeof(std::int64_t), [&](std::size_t begin, int count) {
      MPI_Request request = MPI_REQUEST_NULL;
      check_mpi(MPI_Iallreduce(MPI_IN_PLACE, values.data() + begin, count, MPI_INT64_T, op,
                               group_.comm(), &request),
                "MPI_Iallreduce");
      return request;
    });
  });
}

void MpiCommunicator::sum(std::span<std::int64_t> values) {
  all_reduce(Collective::sum, values, MPI_SUM);
}

void MpiCommunicator::maximum(std::span<std::int64_t> values) {
  all_reduce(Collective::maximum, values, MPI_MAX);
}

void MpiCommunicator::gather_sizes(const Call& call, std::size_t bytes) {
  buffers_->size = static_cast<std::int64_t>(bytes);
  buffers_->sizes.assign(static_cast<std::size_t>(size()), 0);
  MPI_Request request = MPI_REQUEST_NULL;
  check_mpi(MPI_Igather(&buffers_->size, 1, MPI_INT64_T, buffers_->sizes.data(), 1, MPI_INT64_T,
                        call.root, group_.comm(), &request),
            "MPI_Igather");
  wait(call, request);
}

void MpiCommunicator::append_pieces(std::vector<MPI_Request>& requests, std::span<std::byte> bytes,
                                    int source) {
  for (std::size_t begin = 0; begin < bytes.size(); begin += piece_bytes_) {
    const auto piece = bytes.subspan(begin, std::min(piece_bytes_, bytes.size() - begin));
    check_mpi(MPI_Irecv(piece.data(), static_cast<int>(piece.size()), MPI_BYTE, source, 0,
                        group_.comm(), &requests.emplace_back(MPI_REQUEST_NULL)),
              "MPI_Irecv");
  }
}

void MpiCommunicator::append_pieces(std::vector<MPI_Request>& requests,
                                    std::span<const std::byte> bytes, int target) {
  for (std::size_t begin = 0; begin < bytes.size(); begin += piece_bytes_) {
    const auto piece = bytes.subspan(begin, std::min(piece_bytes_, bytes.size() - begin));
    check_mpi(MPI_Isend(piece.data(), static_cast<int>(piece.size()), MPI_BYTE, target, 0,
                        group_.comm(), &requests.emplace_back(MPI_REQUEST_NULL)),
              "MPI_Isend");
  }
}

std::vector<std::vector<std::byte>> MpiCommunicator::gather(std::span<const std::byte> bytes,
                                                            int root) {
  const Call call{Collective::gather, 0, root};
  std::vector<std::vector<std::byte>> parts;
  with_all_ranks(call, [&] {
    gather_sizes(call, bytes.size());
    std::vector<MPI_Request> requests;
    if (rank() != root) {
      append_pieces(requests, bytes, root);
    } else {
      parts.resize(static_cast<std::size_t>(size()));
      for (int source = 0; source < size(); ++source) {
        auto& part = parts[static_cast<std::size_t>(source)];
        part.resize(static_cast<std::size_t>(buffers_->sizes[static_cast<std::size_t>(source)]));
        if (source != root) append_pieces(requests, std::span<std::byte>(part), source);
      }
      std::copy(bytes.begin(), bytes.end(), parts[static_cast<std::size_t>(root)].begin());
    }
    for (MPI_Request& request : requests) wait(call, request);
  });
  return parts;
}

}  // namespace

std::unique_ptr<HostCommunicator> make_mpi_communicator(Memory& memory,
                                                        std::chrono::seconds deadline,
                                                        std::size_t piece_bytes) {
  return std::make_unique<MpiCommunicator>(memory, deadline, piece_bytes);
}

}  // namespace quern

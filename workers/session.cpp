#include "workers/session.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <sstream>
#include <utility>
#include <vector>

#include "kernels/cuda_backend.h"
#include "kernels/cuda_stream.h"
#include "workers/agreement.h"
#include "workers/comm/mpi_environment.h"
#include "workers/host_memory.h"

namespace quern {

void Heartbeat::note(std::string_view activity) {
  const std::lock_guard lock(activity_mutex_);
  activity_ = activity;
}

std::function<void(const std::string&)> Heartbeat::tell(
    std::function<void(const std::string&)> listener) {
  const std::lock_guard lock(listener_mutex_);
  return std::exchange(listener_, std::move(listener));
}

void Heartbeat::beat() {
  std::string activity;
  {
    const std::lock_guard lock(activity_mutex_);
    activity = activity_;
  }
  const std::lock_guard lock(listener_mutex_);
  if (listener_) listener_(activity);
}

void Session::enter(std::string_view activity) {
  watchdog->enter(activity);
  heartbeat->note(activity);
}

namespace {

/// Of every rank, in order, on every rank. A collective.
std::vector<std::string> all_texts(Communicator& ranks, const std::string& own) {
  std::string joined;
  for (const auto& part : ranks.gather(std::as_bytes(std::span(own)), 0)) {
    joined.append(reinterpret_cast<const char*>(part.data()), part.size()).push_back('\n');
  }
  const auto bytes = std::as_bytes(std::span(joined));
  const auto message = broadcast_message(ranks, {bytes.begin(), bytes.end()}, 0);
  std::istringstream lines(
      std::string(reinterpret_cast<const char*>(message.data()), message.size()));
  std::vector<std::string> texts;
  for (std::string line; std::getline(lines, line);) texts.push_back(line);
  return texts;
}

/// A GPU that cannot be used counts as none where the choice is ours.
std::optional<int> usable_gpu(Session& session, DeviceKind kind, int local_rank) {
  if (kind == DeviceKind::cpu) return std::nullopt;
  const std::optional<int> gpu = gpu_of_rank(kind, cuda_device_count(), local_rank);
  if (!gpu || kind == DeviceKind::cuda) return gpu;
  try {
    cuda_device_summary(*gpu);
    return gpu;
  } catch (const ConfigError& error) {
    session.log->warn("{}; run.device: auto takes the CPU", error.what());
    return std::nullopt;
  }
}

/// What is asked for, or what the model is stored in; rank 0 reads it for all. A collective.
DType agree_on_activation(Session& session, const DeviceRequest& request) {
  DType dtype = request.activation.value_or(DType::bf16);
  run_agreed(session, [&] {
    if (!request.activation && request.model_dtype && session.is_root()) {
      dtype = request.model_dtype();
    }
  });
  session.communicator->broadcast(std::as_writable_bytes(std::span(&dtype, 1)), 0);
  return dtype;
}

/// Tensors by NCCL where every rank has a GPU of its own and it starts, else through the host.
std::unique_ptr<Communicator> make_communicator(Session& session, MpiEnvironment& mpi,
                                                Memory& memory, const DeviceMap& map,
                                                std::chrono::seconds deadline) {
  if (mpi.size() == 1) return make_self_communicator();
  std::string reason =
      fmt::format("{} ranks share {} GPUs; one rank per GPU is faster", map.ranks, map.gpus);
  if (!map.shares_gpus()) {
    try {
      auto communicator = mpi.make_nccl_communicator(memory, deadline);
      if (session.is_root()) {
        session.log->info("device: tensors go between {} GPUs by {}", map.gpus,
                          nccl_library_version());
      }
      return communicator;
    } catch (const DeviceError& error) {
      reason = error.what();
    }
  }
  if (session.is_root()) {
    session.log->warn("device: tensors go between ranks through host memory: {}", reason);
  }
  return mpi.make_communicator(memory, deadline);
}

/// Replaces the CPU backend and its communicator if GPUs are to be used. A collective.
void start_device(Session& session, MpiEnvironment* mpi, const SessionOptions& options) {
  const DeviceRequest& request = options.device;
  std::optional<int> gpu;
  std::string place;
  run_agreed(session, [&] {
    gpu = usable_gpu(session, request.kind, mpi == nullptr ? 0 : mpi->local_rank());
    if (!gpu) check_cpu_activation(request);
    const int host = mpi == nullptr ? 0 : mpi->first_rank_on_host();
    if (gpu) place = fmt::format("{}/{}", host, cuda_device_address(*gpu));
  });
  DeviceMap map;
  const std::vector<std::string> places = all_texts(*session.communicator, place);
  run_agreed(session, [&] { map = map_devices(places); });
  if (map.gpus == 0) return;

  const DType activation = agree_on_activation(session, request);
  std::unique_ptr<Backend> backend;
  run_agreed(session, [&] {
    backend = make_cuda_backend({.device = *gpu,
                                 .activation_dtype = activation,
                                 .memory_limit_bytes = request.memory_limit_bytes,
                                 .sharers = static_cast<int>(std::ranges::count(places, place))});
  });
  const std::vector<std::string> numerics = all_texts(*session.communicator, backend->numerics());
  run_agreed(session, [&] {
    if (!request.ignore_numerics) check_same_numerics(numerics);
  });
  if (session.is_root()) {
    session.log->info("device: {}; {} of them for {} ranks, {:.1f} GB each, activations {}",
                      cuda_device_summary(*gpu), map.gpus, map.ranks,
                      static_cast<double>(backend->memory().limit_bytes()) / 1e9,
                      dtype_name(activation));
  }
  if (mpi != nullptr) {
    session.communicator =
        make_communicator(session, *mpi, backend->memory(), map, options.deadline);
  }
  session.backend = std::move(backend);
  give_back_large_blocks();  // the host only reads and writes files
}

}  // namespace

void start_session(Session& session, MpiEnvironment* mpi, std::shared_ptr<spdlog::logger> log,
                   const SessionOptions& options) {
  session.log = std::move(log);
  session.threads = options.threads;
  session.backend =
      make_cpu_backend(options.threads, Memory::unlimited,
                       options.device.activation == DType::f64 ? DType::f64 : DType::f32);
  session.heartbeat = std::make_shared<Heartbeat>();
  session.ranks_on_host = mpi == nullptr ? 1 : mpi->ranks_on_host();
  session.communicator = mpi == nullptr
                             ? make_self_communicator()
                             : mpi->make_communicator(session.backend->memory(), options.deadline);
  start_device(session, mpi, options);
  Watchdog::Options watch;
  watch.silence = options.silence;
  watch.interval = std::min(watch.interval, watch.silence / 4);
  watch.on_beat = [heartbeat = session.heartbeat] { heartbeat->beat(); };
  watch.on_lost_rank = [logger = session.log](std::string_view message) {
    logger->critical(message);
    logger->flush();
  };
  session.watchdog =
      mpi == nullptr ? make_self_watchdog(std::move(watch)) : make_mpi_watchdog(std::move(watch));
}

Session make_session(MpiEnvironment* mpi, std::shared_ptr<spdlog::logger> log,
                     const SessionOptions& options) {
  Session session;
  start_session(session, mpi, std::move(log), options);
  return session;
}

}  // namespace quern

#pragma once

#include <cstdint>
#include <string>

namespace quern {

/// One process of one machine, told apart from a later one with the same number.
struct ProcessIdentity {
  std::string host;
  std::string boot;           ///< the kernel's boot identifier
  std::string pid_namespace;  ///< containers of one host may count their processes apart
  int process = 0;
  std::uint64_t start_time = 0;  ///< clock ticks after boot
};

ProcessIdentity this_process();

/// True if process numbers of `other` mean the same here, so that is_running() can judge them.
bool shares_process_table(const ProcessIdentity& other);

/// Whether that process still runs (a zombie does not). Only if shares_process_table().
bool is_running(const ProcessIdentity& other);

}  // namespace quern

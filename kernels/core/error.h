#pragma once

#include <source_location>
#include <stdexcept>
#include <string>

namespace quern {

/// Process exit codes, as in sysexits.h.
enum class ExitCode : int {
  done = 0,
  usage = 64,        ///< command line or run file
  data = 65,         ///< model or calibration data
  bug = 70,          ///< ourselves
  memory = 71,       ///< host or device memory exhausted
  file_system = 74,  ///< disk full, permission, read error
  interrupted = 75,  ///< stopped by a signal or a lost rank; run again to resume
};

/// Base of everything Quern throws. The message says what happened, where (file, line, key,
/// tensor), what was expected and what to do. Subclasses name who must act.
class Error : public std::runtime_error {
 public:
  ExitCode exit_code() const noexcept { return exit_code_; }

 protected:
  Error(ExitCode code, const std::string& message)
      : std::runtime_error(message), exit_code_(code) {}

 private:
  ExitCode exit_code_;
};

/// The run file or the command line is wrong.
class ConfigError : public Error {
 public:
  explicit ConfigError(const std::string& message) : Error(ExitCode::usage, message) {}
};

/// A model, tokenizer or calibration file is wrong or not supported.
class InputError : public Error {
 public:
  explicit InputError(const std::string& message) : Error(ExitCode::data, message) {}
};

/// The accelerator or its libraries failed.
class DeviceError : public Error {
 public:
  explicit DeviceError(const std::string& message) : Error(ExitCode::bug, message) {}
};

/// Host or device memory does not suffice.
class MemoryError : public Error {
 public:
  explicit MemoryError(const std::string& message) : Error(ExitCode::memory, message) {}
};

/// A rank is lost or a collective failed; the run can be resumed.
class CommunicationError : public Error {
 public:
  explicit CommunicationError(const std::string& message) : Error(ExitCode::interrupted, message) {}
};

/// The file system refused: disk full, permission, read error; the run can be resumed.
class StoreError : public Error {
 public:
  explicit StoreError(const std::string& message) : Error(ExitCode::file_system, message) {}
};

/// Stopped on request after finishing the unit in hand; the run can be resumed.
class Interrupted : public Error {
 public:
  explicit Interrupted(const std::string& message) : Error(ExitCode::interrupted, message) {}
};

/// A contract inside Quern was broken.
class InternalError : public Error {
 public:
  explicit InternalError(const std::string& message) : Error(ExitCode::bug, message) {}
};

/// Views passed to an operation do not fit its contract.
class ShapeError : public InternalError {
 public:
  using InternalError::InternalError;
};

/// Throws InternalError with the caller's file and line unless `holds`.
void ensure(bool holds, const char* expectation,
            std::source_location where = std::source_location::current());

}  // namespace quern

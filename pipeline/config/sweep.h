#pragma once

#include <map>
#include <string>
#include <vector>

#include "pipeline/config/run_config.h"

namespace quern {

/// A point of a sweep: every setting, also those that its method does not know, and the keys of
/// the run file that set them ("quantize.bits" -> "sweep.bits[1]").
struct SweepChoice {
  SweepPoint settings;
  std::map<std::string, std::string> source;
};

/// Whether the run file asks for several runs.
bool asks_for_sweep(const RunFile& run);

/// Points before anything is excluded; two may come to the same run.
std::vector<SweepChoice> swept_choices(const RunFile& run);

/// Whether the point has all that the entry of sweep.exclude sets, in keys its method knows.
bool matches(const SweepPoint& entry, const SweepPoint& point);

/// `run` with the settings of one point, without its sweep. Keys of quantize that have no effect on
/// the method return to their defaults; an output format that the method cannot fill gives way to
/// the method's own.
RunFile at_point(const RunFile& run, const SweepPoint& settings);

/// What output.format is where the run file does not say: packed, as the method's readers expect.
OutputFormat usual_format(Method method);

/// Whether the format can hold what the method makes.
bool holds(OutputFormat format, Method method);

/// Whether all modules that are not skipped have codes of quantize.bits bits.
bool one_bit_width(const QuantizeConfig& quantize);

}  // namespace quern

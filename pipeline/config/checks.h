#pragma once

#include <map>
#include <string>

#include "pipeline/config/run_config.h"
#include "pipeline/config/yaml_tree.h"

namespace quern {

/// Key path -> place of every value that the run file or an override sets; "" is the whole file.
using Places = std::map<std::string, Place>;

/// The place of a key, or of the nearest thing around it that is set.
Place place_of(const Places& places, std::string key);

/// Checks values against each other and settles defaults that follow from other keys.
/// Throws ConfigError for combinations that cannot work or in which a key has no effect.
/// Of a sweep, every point is checked; a key must have an effect on one of them.
void check_together(RunFile& run, const Places& places);

/// The same for what depends on the method of a single run.
void check_settings(RunFile& run, const Places& places);

}  // namespace quern

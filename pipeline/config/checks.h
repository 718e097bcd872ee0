#pragma once

#include <map>
#include <string>

#include "pipeline/config/run_config.h"
#include "pipeline/config/yaml_tree.h"

namespace quern {

/// Key path -> place of every value that the run file or an override sets; "" is the whole file.
using Places = std::map<std::string, Place>;

/// Checks values against each other and settles defaults that follow from other keys.
/// Throws ConfigError for combinations that cannot work or in which a key has no effect.
void check_together(RunFile& run, const Places& places);

}  // namespace quern

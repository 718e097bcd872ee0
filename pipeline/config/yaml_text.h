#pragma once

#include "pipeline/config/yaml_tree.h"

namespace quern {

/// Throws ConfigError, with the place, unless the text is at most 1 MiB of UTF-8 without control
/// characters and without tabs in indentation.
void check_yaml_text(const YamlSource& source);

}  // namespace quern

#pragma once

#include <string>
#include <string_view>

namespace quern {

/// Rewrites an Oniguruma expression (Oniguruma syntax, UTF-8) so that PCRE2 with UTF and UCP finds
/// the same matches. The two differ in quiet ways: \s and \w cover other characters, \h and \v mean
/// other things, script names other sets, {n}+ another repeat. What is not known to mean the same
/// in both is refused with an InputError that names it: ^ $ \b, back references, nested classes
/// and &&, inline options other than (?i:letters), and properties outside a fixed table.
std::string pcre2_from_oniguruma(std::string_view expression);

}  // namespace quern

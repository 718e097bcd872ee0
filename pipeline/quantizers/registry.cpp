#include <array>

#include "kernels/core/error.h"
#include "pipeline/quantizers/gptq.h"
#include "pipeline/quantizers/quantizer.h"
#include "pipeline/quantizers/rtn.h"
#include "pipeline/quantizers/squeezellm.h"

namespace quern {
namespace {

struct MethodRow {
  Method method;
  std::unique_ptr<Quantizer> (*make)(const QuantizeConfig&);
};

constexpr std::array kMethods = {
    MethodRow{Method::rtn, make_rtn},
    MethodRow{Method::gptq, make_gptq},
    MethodRow{Method::squeezellm, make_squeezellm},
};

}  // namespace

std::unique_ptr<Quantizer> make_quantizer(const QuantizeConfig& config) {
  for (const MethodRow& row : kMethods) {
    if (row.method == config.method) return row.make(config);
  }
  throw InternalError("quantize.method: no quantizer is registered for the configured method");
}

}  // namespace quern

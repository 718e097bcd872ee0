#pragma once

#include "kernels/layer_ops.h"

namespace quern {

/// activation(x) and its derivative.
struct Slope {
  float value;
  float derivative;
};

__device__ inline float sigmoid(float x) {
  return 1.0F / (1.0F + expf(-x));
}

/// Beyond 100 a sigmoid or its complement is 0, and 0 times an infinite factor is not.
__device__ inline float hold(float x) {
  return fminf(fmaxf(x, -100.0F), 100.0F);
}

/// 0.5 x (1 + tanh(u)) = x sigmoid(2 u), with 2 u = kGeluFactor (x + kGeluCubic x^3).
inline constexpr float kGeluFactor = 1.5957691216057308F;  // 2 sqrt(2 / pi)
inline constexpr float kGeluCubic = 0.044715F;

template <Activation kActivation>
__device__ Slope activate(float x) {
  if constexpr (kActivation == Activation::relu) {
    return {x < 0.0F ? 0.0F : x, x > 0.0F ? 1.0F : 0.0F};
  } else {
    constexpr bool kGelu = kActivation == Activation::gelu_tanh;
    const float argument = kGelu ? kGeluFactor * (x + kGeluCubic * x * x * x) : x;
    const float held = hold(x);
    const float inner = kGelu ? kGeluFactor * (1.0F + 3.0F * kGeluCubic * held * held) : 1.0F;
    const float s = sigmoid(argument);
    // sigmoid(-x) is 1 - s without its cancellation.
    return {x * s, s + held * inner * (s * sigmoid(-argument))};
  }
}

/// Calls with the activation as a template argument.
template <typename Call>
void with_activation_function(Activation activation, Call call) {
  switch (activation) {
    case Activation::silu:
      return call.template operator()<Activation::silu>();
    case Activation::relu:
      return call.template operator()<Activation::relu>();
    case Activation::gelu_tanh:
      return call.template operator()<Activation::gelu_tanh>();
  }
}

}  // namespace quern

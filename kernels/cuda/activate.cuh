#pragma once

#include "kernels/layer_ops.h"

namespace quern {

// W is the type of the arithmetic: float or double.

/// activation(x) and its derivative.
template <typename W>
struct Slope {
  W value;
  W derivative;
};

template <typename W>
__device__ W sigmoid(W x) {
  return W{1} / (W{1} + exp(-x));
}

/// Beyond it a sigmoid or its complement is 0, and 0 times an infinite factor is not.
template <typename W>
inline constexpr W kSaturation = sizeof(W) == sizeof(double) ? 710 : 100;

template <typename W>
__device__ W hold(W x) {
  return fmin(fmax(x, -kSaturation<W>), kSaturation<W>);
}

/// 0.5 x (1 + tanh(u)) = x sigmoid(2 u), with 2 u = kGeluFactor (x + kGeluCubic x^3).
template <typename W>
inline constexpr W kGeluFactor = static_cast<W>(1.5957691216057308);  // 2 sqrt(2 / pi)
template <typename W>
inline constexpr W kGeluCubic = static_cast<W>(0.044715);

template <Activation kActivation, typename W>
__device__ Slope<W> activate(W x) {
  if constexpr (kActivation == Activation::relu) {
    return {x < W{0} ? W{0} : x, x > W{0} ? W{1} : W{0}};
  } else {
    constexpr bool kGelu = kActivation == Activation::gelu_tanh;
    const W argument = kGelu ? kGeluFactor<W> * (x + kGeluCubic<W> * x * x * x) : x;
    const W held = hold(x);
    const W inner = kGelu ? kGeluFactor<W> * (W{1} + W{3} * kGeluCubic<W> * held * held) : W{1};
    const W s = sigmoid(argument);
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

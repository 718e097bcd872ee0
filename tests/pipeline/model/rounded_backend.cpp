#include "tests/pipeline/model/rounded_backend.h"

namespace quern::test {
namespace {

/// Rounds tensors in place.
class Rounding {
 public:
  Rounding(Backend& backend, DType dtype) : backend_(backend), dtype_(dtype) {}

  void round(TensorView x) const {
    Tensor narrow = backend_.memory().allocate(dtype_, x.shape);
    backend_.layers().convert(x, narrow.view());
    backend_.layers().convert(narrow.view(), x);
  }

 private:
  Backend& backend_;
  DType dtype_;
};

class RoundedLayers final : public LayerOps {
 public:
  RoundedLayers(LayerOps& exact, const Rounding& rounding) : exact_(exact), rounding_(rounding) {}

 private:
  void do_convert(ConstTensorView in, TensorView out) override { exact_.convert(in, out); }
  void do_count_nonfinite(ConstTensorView x, TensorView count) override {
    exact_.count_nonfinite(x, count);
  }
  void do_fingerprint(ConstTensorView x, TensorView out) override { exact_.fingerprint(x, out); }
  void do_embed(ConstTensorView table, ConstTensorView ids, TensorView out) override {
    exact_.embed(table, ids, out);
    rounding_.round(out);
  }
  void do_rms_norm(ConstTensorView x, ConstTensorView weight, float epsilon,
                   TensorView out) override {
    exact_.rms_norm(x, weight, epsilon, out);
    rounding_.round(out);
  }
  void do_linear(ConstTensorView x, ConstTensorView weight, std::optional<ConstTensorView> bias,
                 TensorView out) override {
    exact_.linear(x, weight, bias, out);
    rounding_.round(out);
  }
  void do_rotate(TensorView x, ConstTensorView table, std::int64_t head_dim) override {
    exact_.rotate(x, table, head_dim);
    rounding_.round(x);
  }
  void do_attention(ConstTensorView q, ConstTensorView k, ConstTensorView v,
                    const AttentionShape& shape, TensorView out) override {
    exact_.attention(q, k, v, shape, out);
    rounding_.round(out);
  }
  void do_gated_activation(TensorView gate, ConstTensorView up, Activation activation) override {
    exact_.gated_activation(gate, up, activation);
    rounding_.round(gate);
  }
  void do_add(TensorView x, ConstTensorView delta) override {
    exact_.add(x, delta);
    rounding_.round(x);
  }
  void do_token_nll(ConstTensorView logits, ConstTensorView targets, TensorView nll) override {
    exact_.token_nll(logits, targets, nll);
  }

  LayerOps& exact_;
  const Rounding& rounding_;
};

class RoundedGradients final : public GradientOps {
 public:
  RoundedGradients(GradientOps& exact, const Rounding& rounding)
      : exact_(exact), rounding_(rounding) {}

 private:
  void do_rms_norm(ConstTensorView x, ConstTensorView weight, float epsilon, ConstTensorView dy,
                   TensorView dx) override {
    exact_.rms_norm(x, weight, epsilon, dy, dx);
    rounding_.round(dx);
  }
  void do_linear(ConstTensorView dy, ConstTensorView weight, TensorView dx) override {
    exact_.linear(dy, weight, dx);
    rounding_.round(dx);
  }
  void do_rotate(TensorView dx, ConstTensorView table, std::int64_t head_dim) override {
    exact_.rotate(dx, table, head_dim);
    rounding_.round(dx);
  }
  void do_attention(const AttentionForward& forward, ConstTensorView dy,
                    const AttentionShape& shape, const AttentionGradient& gradient) override {
    exact_.attention(forward, dy, shape, gradient);
    for (const TensorView view : {gradient.q, gradient.k, gradient.v}) rounding_.round(view);
  }
  void do_gated_activation(TensorView gate, TensorView up, ConstTensorView dh,
                           Activation activation) override {
    exact_.gated_activation(gate, up, dh, activation);
    rounding_.round(gate);
    rounding_.round(up);
  }
  void do_token_nll(TensorView logits, ConstTensorView targets, float scale) override {
    exact_.token_nll(logits, targets, scale);
    rounding_.round(logits);
  }

  GradientOps& exact_;
  const Rounding& rounding_;
};

class RoundedBackend final : public Backend {
 public:
  RoundedBackend(int threads, DType dtype)
      : exact_(make_cpu_backend(threads)), rounding_(*exact_, dtype) {}

  Memory& memory() noexcept override { return exact_->memory(); }
  LayerOps& layers() noexcept override { return layers_; }
  GradientOps& gradients() noexcept override { return gradients_; }
  StatisticsOps& statistics() noexcept override { return exact_->statistics(); }
  Solver& solver() noexcept override { return exact_->solver(); }
  CodebookSolver& codebooks() noexcept override { return exact_->codebooks(); }
  DType activation_dtype() const noexcept override { return DType::f32; }
  std::string numerics() const override { return exact_->numerics() + ", rounded"; }

 private:
  std::unique_ptr<Backend> exact_;
  Rounding rounding_;
  RoundedLayers layers_{exact_->layers(), rounding_};
  RoundedGradients gradients_{exact_->gradients(), rounding_};
};

}  // namespace

std::unique_ptr<Backend> make_rounded_backend(int threads, DType dtype) {
  return std::make_unique<RoundedBackend>(threads, dtype);
}

}  // namespace quern::test

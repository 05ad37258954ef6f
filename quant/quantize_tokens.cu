#include "autograd/functions.h"
#include "kernels/launch/check_device.h"
#include "kernels/launch/launch.h"
#include "kernels/launch/rows.h"
#include "kernels/launch/tuned_guard.h"
#include "kernels/ops.h"
#include "quant/quantize_tokens.h"
#include "quant/token_guard.h"
#include "quant/token_rows.h"

namespace cbq {
namespace {

constexpr const char* op = "quantize_tokens";

/// A function of autograd/functions.h with what it becomes in front of quantizers.
struct TokenFunction {
  const char* name;  // of its launches
  Deferred::Function function;
  int operands, tensors;
  QuantizedTokens (*forward)(const TokenFunction&, const Deferred&,
                             const std::vector<TokenQuantizer>&);
  TokenGradients (*backward)(const TokenFunction&, const Deferred&,
                             const std::vector<TokenQuantizer>&, const QuantizedTokens&,
                             const std::vector<Tensor>& dy, bool want_x);
};

template <class T>
const T* data_or_null(const Var& v) {
  return v.defined() ? v.value().data<T>() : nullptr;
}

template <class P>
detail::PrologueView<P> view_of(const Deferred& y, const Tensor& statistics) {
  using T = typename P::Element;
  using A = acc_t<T>;
  return {y.x.value().data<T>(),
          data_or_null<T>(y.second),
          data_or_null<T>(y.third),
          P::Statistics::numbers > 0 ? statistics.data<A>() : nullptr,
          row_shape(op, y.x.value()).width,
          static_cast<A>(y.eps)};
}

/// Results and gradients, where there are any yet.
template <class T>
detail::OutputQuantizers<T> output_quantizers_of(const std::vector<TokenQuantizer>& quantizers,
                                                 const std::vector<Tensor>& y,
                                                 const std::vector<Tensor>& dy) {
  detail::OutputQuantizers<T> outputs{};
  for (const TokenQuantizer& q : quantizers) {
    const auto i = static_cast<size_t>(outputs.count++);
    outputs.at[i] = {q.clip.data<acc_t<T>>(), i < y.size() ? y[i].data<T>() : nullptr,
                     i < dy.size() ? dy[i].data<T>() : nullptr,
                     GridRule<acc_t<T>>(q.config.bits, q.config.symmetric, q.config.form)};
  }
  return outputs;
}

template <template <class> class Prologue>
QuantizedTokens forward(const TokenFunction& f, const Deferred& y,
                        const std::vector<TokenQuantizer>& quantizers) {
  const Tensor& x = y.x.value();
  const auto [rows, n] = row_shape(op, x);
  QuantizedTokens result;
  for (size_t i = 0; i < quantizers.size(); ++i) {
    result.outputs.emplace_back(x.shape(), x.dtype(), x.device());
  }
  dispatch_float(x.dtype(), op, [&]<class T>() {
    using P = Prologue<T>;
    using A = acc_t<T>;
    result.range = Tensor({rows, 2}, dtype_of<A>::value, x.device());
    if (P::Statistics::numbers > 0) {
      result.statistics = Tensor({rows, P::Statistics::numbers}, dtype_of<A>::value, x.device());
    }
    map_rows(f.name, x.device(), rows, n,
             detail::QuantizeTokens<P>{view_of<P>(y, result.statistics),
                                       output_quantizers_of<T>(quantizers, result.outputs, {}),
                                       result.range.template data<A>()});
  });
  return result;
}

template <template <class> class Prologue>
TokenGradients backward(const TokenFunction& f, const Deferred& y,
                        const std::vector<TokenQuantizer>& quantizers,
                        const QuantizedTokens& forward, const std::vector<Tensor>& dy,
                        bool want_x) {
  const Tensor& x = y.x.value();
  const auto [rows, n] = row_shape(op, x);
  TokenGradients result;
  dispatch_float(x.dtype(), op, [&]<class T>() {
    using P = Prologue<T>;
    using A = acc_t<T>;
    if (P::Statistics::numbers > 0) {
      check_shape(op, "statistics", forward.statistics, {rows, P::Statistics::numbers});
      check_device(op, "statistics", forward.statistics, x.device());
    }
    const auto like_x = [&](bool wanted) {
      return wanted ? Tensor(x.shape(), x.dtype(), x.device()) : Tensor();
    };
    result.x = like_x(want_x);
    result.second = like_x(want_x && P::tensors == 2);
    const Tensor d_clip({static_cast<int64_t>(dy.size()), rows}, dtype_of<A>::value, x.device());
    map_rows(f.name, x.device(), rows, n,
             detail::QuantizeTokensBackward<P>{
                 view_of<P>(y, forward.statistics), output_quantizers_of<T>(quantizers, {}, dy),
                 forward.range.template data<A>(), want_x ? result.x.template data<T>() : nullptr,
                 result.second.defined() ? result.second.template data<T>() : nullptr,
                 d_clip.template data<A>(), rows});
    for (int64_t i = 0; i < d_clip.size(0); ++i) {
      result.clips.push_back(kernels::sum(d_clip.slice(i, i + 1)));
    }
  });
  return result;
}

template <template <class> class Prologue>
TokenFunction token_function(const char* name, Deferred::Function function) {
  using P = Prologue<float>;
  return {name, function, P::operands, P::tensors, &forward<Prologue>, &backward<Prologue>};
}

// ---- the functions ----------------------------------------------------------------------------

using formulas::PortableMath;

template <class T>
using Relu = detail::UnaryPrologue<T, formulas::Relu>;
template <class T>
using Gelu = detail::UnaryPrologue<T, formulas::Gelu<PortableMath>>;
template <class T>
using SwiGlu = detail::BinaryPrologue<T, formulas::SwiGlu<PortableMath>>;
template <class T>
using RmsNorm = detail::NormPrologue<T, formulas::RmsNorm<T>, 1>;
template <class T>
using LayerNorm = detail::NormPrologue<T, formulas::LayerNorm<T>, 0>;
template <class T>
using AffineLayerNorm = detail::NormPrologue<T, formulas::LayerNorm<T>, 2>;

/// What is not listed here is computed before it is quantized.
const std::vector<TokenFunction>& token_functions() {
  static const std::vector<TokenFunction> all = {
      token_function<detail::IdentityPrologue>("quantize_activation", {}),
      token_function<Relu>("quantize_relu", &ag::relu),
      token_function<Gelu>("quantize_gelu", &ag::gelu),
      token_function<SwiGlu>("quantize_swiglu", &ag::swiglu),
      token_function<RmsNorm>("quantize_rms_norm", &ag::rms_norm),
      token_function<LayerNorm>("quantize_layer_norm", &ag::layer_norm),
      token_function<AffineLayerNorm>("quantize_layer_norm", &ag::layer_norm)};
  return all;
}

/// The function of y with as many operands, or nullptr.
const TokenFunction* find(const Deferred& y) {
  const int operands = 1 + (y.second.defined() ? 1 : 0) + (y.third.defined() ? 1 : 0);
  for (const TokenFunction& f : token_functions()) {
    if (f.function == y.function && f.operands == operands) return &f;
  }
  return nullptr;
}

void check_parameter(const char* what, const Var& p, const Tensor& x) {
  if (!p.defined()) return;
  check_shape(op, what, p.value(), {x.size(-1)});
  check(p.dtype() == x.dtype(), op, ": ", what, " is ", p.dtype(), ", x is ", x.dtype());
  check_device(op, what, p.value(), x.device());
}

#ifdef CBQ_KERNELS
[[maybe_unused]] const bool guarded =
    tuned::guard({detail::token_kernel_name, detail::token_tolerance, detail::token_difference});
#endif

const TokenFunction& checked(const Deferred& y, const std::vector<TokenQuantizer>& quantizers) {
  const TokenFunction* f = find(y);
  check(f != nullptr, op,
        ": has no kernel for this function with these operands; quantize value()");
  const Tensor& x = y.x.value();
  check(!quantizers.empty() && quantizers.size() <= detail::max_quantizers, op, ": 1 to ",
        detail::max_quantizers, " quantizers, got ", quantizers.size());
  if (f->tensors == 2) {
    check_same(op, x, y.second.value());
  } else {
    check_parameter("weight", y.second, x);
  }
  check_parameter("bias", y.third, x);
  for (const TokenQuantizer& q : quantizers) {
    check_shape(op, "clip", q.clip, {1});
    check_device(op, "clip", q.clip, x.device());
    check(
        q.config.quantizes() && q.config.dynamic && q.config.granularity == Granularity::per_token,
        op, ": needs ranges per token, taken from the token; use quantize_activation");
  }
  return *f;
}

}  // namespace

std::vector<detail::FusedTokenFunction> detail::fused_token_functions() {
  std::vector<FusedTokenFunction> all;
  for (const TokenFunction& f : token_functions()) {
    all.push_back({f.function, f.operands, f.tensors});
  }
  return all;
}

bool quantize_tokens_takes(const Deferred& y, size_t quantizers) {
  const TokenFunction* f = find(y);
  if (f == nullptr || quantizers < 1 || quantizers > detail::max_quantizers) return false;
  if (should_record({f->tensors == 2 ? &y.third : &y.second, &y.third})) return false;
  const Device device = y.x.device();
  return !runs_on_grid(device) || tuned::trusted(detail::token_kernel_name, device);
}

QuantizedTokens quantize_tokens(const Deferred& y, const std::vector<TokenQuantizer>& quantizers) {
  const TokenFunction& f = checked(y, quantizers);
  return f.forward(f, y, quantizers);
}

TokenGradients quantize_tokens_backward(const Deferred& y,
                                        const std::vector<TokenQuantizer>& quantizers,
                                        const QuantizedTokens& forward,
                                        const std::vector<Tensor>& dy, bool want_x) {
  const TokenFunction& f = checked(y, quantizers);
  const Tensor& x = y.x.value();
  check(dy.size() == quantizers.size(), op, ": ", dy.size(), " gradients for ", quantizers.size(),
        " quantizers");
  for (const Tensor& g : dy) check_same(op, x, g);
  check_shape(op, "range", forward.range, {row_shape(op, x).rows, 2});
  check_device(op, "range", forward.range, x.device());
  const OpTimer timer(f.name, x.device());  // the sums at the end, too
  return f.backward(f, y, quantizers, forward, dy, want_x);
}

}  // namespace cbq

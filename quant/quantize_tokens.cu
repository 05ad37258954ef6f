#include "kernels/launch/check_device.h"
#include "kernels/launch/rows.h"
#include "kernels/ops.h"
#include "quant/quantize_tokens.h"
#include "quant/token_rows.h"
#include "quant/token_tuned.h"

namespace cbq {
namespace {

using Function = Deferred::Function;
constexpr const char* op = "quantize_tokens";

/// Calls f.template operator()<Prologue>() for the function and the dtype of y.
template <class F>
void dispatch_source(const Deferred& y, F&& f) {
  dispatch_float(y.x.dtype(), op, [&]<class T>() {
    switch (y.function) {
      case Function::identity:
        return f.template operator()<detail::IdentityPrologue<T>>();
      case Function::rms_norm:
        return f.template operator()<detail::RmsNormPrologue<T>>();
      case Function::layer_norm:
        if (y.weight.defined()) return f.template operator()<detail::AffineLayerNormPrologue<T>>();
        return f.template operator()<detail::LayerNormPrologue<T>>();
      case Function::swiglu:
        return f.template operator()<detail::SwiGluPrologue<T>>();
      case Function::relu:
        return f.template operator()<detail::ReluPrologue<T>>();
      case Function::gelu:
        return f.template operator()<detail::GeluPrologue<T>>();
    }
  });
}

void check_parameter(const char* what, const Var& p, const Tensor& x) {
  check_shape(op, what, p.value(), {x.size(-1)});
  check(p.dtype() == x.dtype(), op, ": ", what, " is ", p.dtype(), ", x is ", x.dtype());
  check_device(op, what, p.value(), x.device());
}

void check_arguments(const Deferred& y, const std::vector<TokenQuantizer>& quantizers) {
  const Tensor& x = y.x.value();
  check(quantize_tokens_takes(quantizers.size()), op, ": 1 to ", detail::max_readers,
        " quantizers, got ", quantizers.size());
  if (y.function == Function::swiglu) check_same(op, x, y.up.value());
  if (y.function == Function::rms_norm) check_parameter("weight", y.weight, x);
  if (y.function == Function::layer_norm) {
    check(y.weight.defined() == y.bias.defined(), op,
          ": weight and bias come together or not at all");
    if (y.weight.defined()) check_parameter("weight", y.weight, x);
    if (y.weight.defined()) check_parameter("bias", y.bias, x);
  }
  for (const TokenQuantizer& q : quantizers) {
    check_shape(op, "clip", q.clip, {1});
    check_device(op, "clip", q.clip, x.device());
    check(
        q.config.quantizes() && q.config.dynamic && q.config.granularity == Granularity::per_token,
        op, ": needs ranges per token, taken from the token; use quantize_activation");
  }
}

template <class T>
const T* data_or_null(const Var& v) {
  return v.defined() ? v.value().data<T>() : nullptr;
}

template <class Prologue>
detail::PrologueView<Prologue> view_of(const Deferred& y, const Tensor& statistics) {
  using T = typename Prologue::Element;
  using A = acc_t<T>;
  const Tensor& x = y.x.value();
  return {x.data<T>(),
          data_or_null<T>(Prologue::second_is_tensor ? y.up : y.weight),
          data_or_null<T>(y.bias),
          Prologue::statistics > 0 ? statistics.data<A>() : nullptr,
          row_shape(op, x).width,
          static_cast<A>(y.eps)};
}

/// Results and gradients, where there are any yet.
template <class T>
detail::Readers<T> readers_of(const std::vector<TokenQuantizer>& quantizers,
                              const std::vector<Tensor>& y, const std::vector<Tensor>& dy) {
  detail::Readers<T> readers{};
  for (const TokenQuantizer& q : quantizers) {
    const auto i = static_cast<size_t>(readers.count++);
    readers.at[i] = {q.clip.data<acc_t<T>>(), i < y.size() ? y[i].data<T>() : nullptr,
                     i < dy.size() ? dy[i].data<T>() : nullptr,
                     GridRule<acc_t<T>>(q.config.bits, q.config.symmetric, q.config.form)};
  }
  return readers;
}

}  // namespace

bool quantize_tokens_takes(size_t quantizers) {
  return quantizers >= 1 && quantizers <= detail::max_readers;
}

QuantizedTokens quantize_tokens(const Deferred& y, const std::vector<TokenQuantizer>& quantizers) {
  check_arguments(y, quantizers);
  const Tensor& x = y.x.value();
  const auto [rows, n] = row_shape(op, x);
  QuantizedTokens result;
  for (size_t i = 0; i < quantizers.size(); ++i) {
    result.outputs.emplace_back(x.shape(), x.dtype(), x.device());
  }
  dispatch_source(y, [&]<class Prologue>() {
    using T = typename Prologue::Element;
    using A = acc_t<T>;
    result.range = Tensor({rows, 2}, dtype_of<A>::value, x.device());
    if (Prologue::statistics > 0) {
      result.statistics = Tensor({rows, Prologue::statistics}, dtype_of<A>::value, x.device());
    }
    const auto view = view_of<Prologue>(y, result.statistics);
    const auto readers = readers_of<T>(quantizers, result.outputs, {});
    A* range = result.range.data<A>();
    if (detail::fast_forward<Prologue>(view, readers, range, x.device(), rows)) return;
    map_rows(Prologue::name, x.device(), rows, n,
             detail::QuantizeTokens<Prologue>{view, readers, range});
  });
  return result;
}

TokenGradients quantize_tokens_backward(const Deferred& y,
                                        const std::vector<TokenQuantizer>& quantizers,
                                        const QuantizedTokens& forward,
                                        const std::vector<Tensor>& dy, bool want_x) {
  check_arguments(y, quantizers);
  const Tensor& x = y.x.value();
  const auto [rows, n] = row_shape(op, x);
  check(dy.size() == quantizers.size(), op, ": ", dy.size(), " gradients for ", quantizers.size(),
        " quantizers");
  for (const Tensor& g : dy) check_same(op, x, g);
  check_shape(op, "range", forward.range, {rows, 2});
  check_device(op, "range", forward.range, x.device());
  TokenGradients result;
  dispatch_source(y, [&]<class Prologue>() {
    using T = typename Prologue::Element;
    using A = acc_t<T>;
    if (Prologue::statistics > 0) {
      check_shape(op, "statistics", forward.statistics, {rows, Prologue::statistics});
      check_device(op, "statistics", forward.statistics, x.device());
    }
    const OpTimer timer(Prologue::name, x.device());  // the sums at the end, too
    const auto like_x = [&](bool wanted) {
      return wanted ? Tensor(x.shape(), x.dtype(), x.device()) : Tensor();
    };
    result.x = like_x(want_x);
    result.up = like_x(want_x && Prologue::second_is_tensor);
    const Tensor d_clip({static_cast<int64_t>(dy.size()), rows}, dtype_of<A>::value, x.device());
    const auto view = view_of<Prologue>(y, forward.statistics);
    const auto readers = readers_of<T>(quantizers, {}, dy);
    const A* range = forward.range.data<A>();
    const detail::GradientView<T> d{want_x ? result.x.data<T>() : nullptr,
                                    result.up.defined() ? result.up.data<T>() : nullptr,
                                    d_clip.data<A>()};
    if (!detail::fast_backward<Prologue>(view, readers, range, d, x.device(), rows)) {
      map_rows(Prologue::name, x.device(), rows, n,
               detail::QuantizeTokensBackward<Prologue>{view, readers, range, d.x, d.second, d.clip,
                                                        rows});
    }
    for (int64_t i = 0; i < d_clip.size(0); ++i) {
      result.clips.push_back(kernels::sum(d_clip.slice(i, i + 1)));
    }
  });
  return result;
}

}  // namespace cbq

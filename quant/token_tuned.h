// quantize_tokens on the tuned kernels, where they cover the case: f32 or bf16 on a GPU,
// rows of whole groups of eight columns at 16-byte addresses, neither too short for a block of
// threads nor too long for its registers.
#pragma once

#include <cstdint>
#include <type_traits>

#include "kernels/fused/quantize_tokens.h"
#include "quant/token_rows.h"

namespace cbq::detail {

/// Shorter rows (a head's, say) are left to the reference kernel, which gives them fewer threads.
constexpr int64_t shortest_tuned_row = 512;
constexpr int64_t longest_fast_norm = 8192, longest_fast_row = 32768;

template <class... P>
bool all_at_16_bytes(const P*... p) {
  return ((reinterpret_cast<std::uintptr_t>(p) % 16 == 0) && ...);
}

/// True where the tuned kernels can run.
template <class Prologue>
bool fast_covers(const PrologueView<Prologue>& view,
                 const Readers<typename Prologue::Element>& readers, Device device, int64_t rows) {
  if (!runs_on_grid(device) || !tuned::enabled() || rows == 0) return false;
  const int64_t longest = Prologue::sums > 0 ? longest_fast_norm : longest_fast_row;
  if (view.n % 8 != 0 || view.n < shortest_tuned_row || view.n > longest) {
    return false;
  }
  for (int i = 0; i < readers.count; ++i) {
    if (!all_at_16_bytes(readers.at[i].y, readers.at[i].dy)) return false;
  }
  return rows < (int64_t{1} << 31) && all_at_16_bytes(view.x, view.second, view.third);
}

/// Calls f.template operator()<threads, steps>() for the least that holds a row of n.
template <bool norm, class F>
void dispatch_row(int64_t n, F&& f) {
  if (n <= 4096) {
    f.template operator()<256, 2>();
  } else if (n <= 8192) {
    f.template operator()<512, 2>();
  } else if constexpr (!norm) {
    if (n <= 16384) {
      f.template operator()<512, 4>();
    } else {
      f.template operator()<512, 8>();
    }
  }
}

/// x^ of all readers; false, and nothing done, where the reference kernel has to.
template <class Prologue>
bool fast_forward([[maybe_unused]] const PrologueView<Prologue>& view,
                  [[maybe_unused]] const Readers<typename Prologue::Element>& readers,
                  [[maybe_unused]] acc_t<typename Prologue::Element>* range,
                  [[maybe_unused]] Device device, [[maybe_unused]] int64_t rows) {
#ifdef CBQ_KERNELS
  using T = typename Prologue::Element;
  if constexpr (std::is_same_v<T, float> || std::is_same_v<T, bf16>) {
    if (!fast_covers(view, readers, device, rows)) return false;
    dispatch_row<(Prologue::sums > 0)>(view.n, [&]<int threads, int steps>() {
      using Kernel = tuned::QuantizeTokens<PrologueView<Prologue>, Readers<T>, threads, steps>;
      tuned::launch_blocks(Prologue::name, device, rows, Kernel{view, readers, range});
    });
    return true;
  }
#endif
  return false;
}

/// Where gradients go.
template <class T>
struct GradientView {
  T *x, *second;  // or nullptr
  acc_t<T>* clip;
};

/// All gradients; false, and nothing done, where the reference kernel has to.
template <class Prologue>
bool fast_backward([[maybe_unused]] const PrologueView<Prologue>& view,
                   [[maybe_unused]] const Readers<typename Prologue::Element>& readers,
                   [[maybe_unused]] const acc_t<typename Prologue::Element>* range,
                   [[maybe_unused]] const GradientView<typename Prologue::Element>& d,
                   [[maybe_unused]] Device device, [[maybe_unused]] int64_t rows) {
#ifdef CBQ_KERNELS
  using T = typename Prologue::Element;
  if constexpr (std::is_same_v<T, float> || std::is_same_v<T, bf16>) {
    if (!fast_covers(view, readers, device, rows)) return false;
    if (!all_at_16_bytes(d.x, d.second)) return false;
    if constexpr (Prologue::sums > 0) {
      dispatch_row<true>(view.n, [&]<int threads, int steps>() {
        using Kernel =
            tuned::QuantizeTokensNormBackward<PrologueView<Prologue>, Readers<T>, threads, steps>;
        tuned::launch_blocks(Prologue::name, device, rows,
                             Kernel{view, readers, range, d.x, d.clip, rows});
      });
    } else {
      if (readers.count > 1) return false;
      using Kernel =
          tuned::QuantizeTokensElementBackward<PrologueView<Prologue>, OutputQuantizer<T>>;
      tuned::launch_blocks(Prologue::name, device, rows,
                           Kernel{view, readers.at[0], range, d.x, d.second, d.clip});
    }
    return true;
  }
#endif
  return false;
}

}  // namespace cbq::detail

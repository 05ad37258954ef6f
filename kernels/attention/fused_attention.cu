#include <limits>
#include <string>

#include "kernels/attention/attention_guard.h"
#include "kernels/attention/fused_attention.h"
#include "kernels/attention/fused_backward.h"
#include "kernels/attention/fused_forward.h"
#include "kernels/launch/tuned_guard.h"
#include "tensor/runtime/environment.h"

namespace cbq::tuned {

AttentionForm attention_form() {
  static const bool fused = environment_value("CBQ_ATTENTION") == "fused";
  return fused ? AttentionForm::fused : AttentionForm::tiles;
}

#ifdef CBQ_KERNELS
namespace {

/// Calls f.template operator()<dim>() for the head sizes that there are kernels for; false for
/// others.
template <class F>
bool with_head_size(int64_t dim, F&& f) {
  switch (dim) {
    case 64:
      f.template operator()<64>();
      return true;
    case 80:
      f.template operator()<80>();
      return true;
    case 96:
      f.template operator()<96>();
      return true;
    case 128:
      f.template operator()<128>();
      return true;
    default:
      return false;
  }
}

bool at_16_bytes(const Tensor& t) { return reinterpret_cast<std::uintptr_t>(t.raw()) % 16 == 0; }

/// True where there are kernels for heads of `dim` and `device` gives their blocks the shared
/// memory.
bool device_can([[maybe_unused]] Device device, int64_t dim) {
  bool can = false;
  with_head_size(dim, [&]<int head_size>() {
    constexpr int needed = std::max({AttentionForward<head_size>::shared_bytes,
                                     AttentionGradientQ<head_size>::shared_bytes,
                                     AttentionGradientK<head_size>::shared_bytes});
#ifdef __CUDACC__
    int shared = 0;
    cuda_check(
        cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, device.index),
        "attention");
    can = shared >= needed;
#else
    can = needed <= 227 * 1024;
#endif
  });
  return can;
}

AttentionView view_of(const AttentionOperands& in) {
  return {in.q.data<bf16>(),
          in.k.data<bf16>(),
          in.v.data<bf16>(),
          in.slopes.defined() ? in.slopes.data<float>() : nullptr,
          static_cast<int>(in.heads.heads),
          static_cast<int>(in.heads.kv_heads),
          static_cast<int>(in.tokens()),
          static_cast<float>(1.0 / std::sqrt(static_cast<double>(in.dim())))};
}

int64_t tiles_of(int64_t rows, int64_t tile) { return (rows + tile - 1) / tile; }

std::string guarded_name(int64_t dim) { return concat("attention, heads of ", dim); }

[[maybe_unused]] const bool guarded = [] {
  for (const int64_t dim : {64, 80, 96, 128}) {
    guard({guarded_name(dim), attention_tolerance,
           [dim](Device device) { return attention_difference(dim, device); }});
  }
  return true;
}();

/// Blocks that keep a GPU busy to the end: two for each of 132 multiprocessors (H100, H200), four
/// times over. The count is the same for every device, because it decides the order of sums:
/// results do not depend on the GPU's size.
constexpr int64_t enough_blocks = 132 * 2 * 4;

/// The smallest divisor of the group with enough blocks, or the group.
int64_t parts_of(const AttentionOperands& in) {
  const kernels::AttentionHeads& h = in.heads;
  const int64_t group = h.heads / h.kv_heads;
  const int64_t blocks = h.batch * h.kv_heads * tiles_of(in.tokens(), tile_rows);
  for (int64_t parts = 1; parts < group; ++parts)
    if (group % parts == 0 && blocks * parts >= enough_blocks) return parts;
  return group;
}

constexpr const char* backward_op = "attention_backward";

template <int dim>
void launch_gradient_q(const AttentionOperands& in, const AttentionBackwardView& view,
                       const Tensor& dq) {
  const int64_t pairs = in.heads.batch * in.heads.heads;
  launch_blocks(backward_op, in.q.device(), pairs * tiles_of(in.tokens(), tile_rows),
                AttentionGradientQ<dim>{view, dq.data<bf16>(), static_cast<int>(pairs)});
}

template <int dim>
void launch_gradient_k(const AttentionOperands& in, const AttentionBackwardView& view, int parts,
                       const Tensor& dk, const Tensor& dv) {
  const Device device = in.q.device();
  const int64_t pairs = in.heads.batch * in.heads.kv_heads * parts, size = in.k.count();
  Tensor sums;
  if (parts > 1) sums = Tensor({2, parts, size}, Dtype::f32, device);
  float* first = parts > 1 ? sums.data<float>() : nullptr;
  float* second = parts > 1 ? first + parts * size : nullptr;
  launch_blocks(backward_op, device, pairs * tiles_of(in.tokens(), tile_rows),
                AttentionGradientK<dim>{view, dk.data<bf16>(), dv.data<bf16>(), first, second,
                                        parts, static_cast<int>(pairs), size});
  if (parts == 1) return;
  map(backward_op, device, size, AttentionSumParts{first, dk.data<bf16>(), size, parts});
  map(backward_op, device, size, AttentionSumParts{second, dv.data<bf16>(), size, parts});
}

template <int dim>
Tensor row_dots(const AttentionOperands& in, const Tensor& o, const Tensor& d_o) {
  using Kernel = AttentionRowDots<dim>;
  const Tensor dots({in.heads.batch * in.heads.heads, in.tokens()}, Dtype::f32, o.device());
  const int64_t count = o.count() / dim;
  launch_blocks(backward_op, o.device(), tiles_of(count, Kernel::rows),
                Kernel{o.data<bf16>(), d_o.data<bf16>(), dots.data<float>(),
                       static_cast<int>(in.heads.heads), static_cast<int>(in.tokens()), count});
  return dots;
}

}  // namespace

bool covers_attention(const AttentionOperands& in, std::initializer_list<const Tensor*> more) {
  const Device device = in.q.device();
  const bool wanted = attention_form() == AttentionForm::fused;  // a wrong name is always an error
  if (!wanted || !enabled() || !runs_on_grid(device)) return false;
  if (in.q.dtype() != Dtype::bf16 || in.q.count() == 0) return false;
  // Numbers of tokens, blocks and pairs of element and head are 32-bit integers in the kernels.
  constexpr int64_t most = std::numeric_limits<int>::max();
  if (in.tokens() >= 1 << 24 ||
      in.heads.batch * in.heads.heads * tiles_of(in.tokens(), tile_rows) > most)
    return false;
  for (const Tensor* t : more)
    if (!at_16_bytes(*t)) return false;
  return device_can(device, in.dim()) && at_16_bytes(in.q) && at_16_bytes(in.k) &&
         at_16_bytes(in.v) && trusted(guarded_name(in.dim()), device);
}

void attention_forward(const AttentionOperands& in, const kernels::AttentionResult& result) {
  const int64_t pairs = in.heads.batch * in.heads.heads;
  with_head_size(in.dim(), [&]<int dim>() {
    using Kernel = AttentionForward<dim>;
    launch_blocks("attention", in.q.device(), pairs * tiles_of(in.tokens(), Kernel::queries),
                  Kernel{view_of(in), result.o.data<bf16>(), result.log_sum.data<float>(),
                         static_cast<int>(pairs)});
  });
}

void attention_backward(const AttentionOperands& in, const kernels::AttentionResult& forward,
                        const Tensor& d_o, const kernels::AttentionGradient& result, int parts) {
  const int64_t group = in.heads.heads / in.heads.kv_heads;
  if (parts == 0) parts = static_cast<int>(parts_of(in));
  check(parts > 0 && group % parts == 0, backward_op, ": ", group, " query heads in ", parts,
        " parts");
  with_head_size(in.dim(), [&]<int dim>() {
    const Tensor dots = row_dots<dim>(in, forward.o, d_o);
    const AttentionBackwardView view{view_of(in), d_o.data<bf16>(), forward.log_sum.data<float>(),
                                     dots.data<float>()};
    launch_gradient_q<dim>(in, view, result.dq);
    launch_gradient_k<dim>(in, view, parts, result.dk, result.dv);
  });
}

#else  // A program without kernels has no device for them.

bool covers_attention(const AttentionOperands&, std::initializer_list<const Tensor*>) {
  attention_form();  // a wrong name is an error here, too
  return false;
}
void attention_forward(const AttentionOperands&, const kernels::AttentionResult&) {
  fail("attention: this binary was built without CUDA");
}
void attention_backward(const AttentionOperands&, const kernels::AttentionResult&, const Tensor&,
                        const kernels::AttentionGradient&, int) {
  fail("attention_backward: this binary was built without CUDA");
}

#endif

}  // namespace cbq::tuned

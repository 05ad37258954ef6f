#include "autograd/routed_rows.h"

#include "autograd/outputs.h"
#include "kernels/ops.h"

namespace cbq::ag {
namespace {

/// All parts, one behind the other. Undefined ones are left out.
Tensor stacked(const std::vector<Tensor>& parts) {
  int64_t rows = 0;
  const Tensor* any = nullptr;
  for (const Tensor& part : parts) {
    if (!part.defined()) continue;
    any = &part;
    rows += part.size(0);
  }
  Shape shape = any->shape();
  shape[0] = rows;
  const Tensor all(shape, any->dtype(), any->device());
  int64_t begin = 0;
  for (const Tensor& part : parts) {
    if (!part.defined() || part.size(0) == 0) continue;
    all.slice(begin, begin + part.size(0)).copy_from(part);
    begin += part.size(0);
  }
  return all;
}

}  // namespace

std::vector<Var> split_rows(const Var& x, const std::vector<Tensor>& ids) {
  std::vector<Tensor> parts;
  for (const Tensor& of_part : ids) parts.push_back(kernels::embedding(of_part, x.value()));
  return differentiable_outputs(
      parts, {x}, [ids, x = x.gradient()](const std::vector<Tensor>& grads) {
        std::vector<Tensor> arrived;
        for (size_t p = 0; p < ids.size(); ++p) {
          arrived.push_back(grads[p].defined() ? ids[p] : Tensor());
        }
        x.accumulate(kernels::embedding_backward(stacked(arrived), stacked(grads), x.shape()[0]));
      });
}

Var merge_rows(const std::vector<Var>& parts, const std::vector<Tensor>& ids, int64_t rows) {
  check(!parts.empty() && parts.size() == ids.size(), "merge_rows: ", parts.size(), " parts, and ",
        "ids of ", ids.size());
  std::vector<Tensor> values;
  std::vector<Gradient> gradients;
  for (size_t p = 0; p < parts.size(); ++p) {
    values.push_back(parts[p].value());
    gradients.push_back(parts[p].gradient());
    check(ids[p].count() == parts[p].size(0), "merge_rows: ids ", ids[p].shape(),
          " do not fit part ", p, ", ", parts[p].shape());
  }
  const Tensor y = kernels::embedding_backward(stacked(ids), stacked(values), rows);
  return differentiable_outputs({y}, parts, [gradients, ids](const std::vector<Tensor>& grads) {
    for (size_t p = 0; p < gradients.size(); ++p) {
      if (gradients[p].wanted()) {
        gradients[p].accumulate(kernels::embedding(ids[p], grads.front()));
      }
    }
  })[0];
}

}  // namespace cbq::ag

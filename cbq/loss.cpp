#include "cbq/loss.h"

#include "cbq/setting_choices.h"
#include "tensor/runtime/device_profile.h"

namespace cbq {

LossConfig loss_config(const Settings& settings, int64_t hidden) {
  LossConfig config;
  config.l2_weight = settings.l2_weight;
  switch (squared_error_form_from_name(settings.l2)) {
    case SquaredErrorForm::sum:
      break;
    case SquaredErrorForm::mean:
      config.l2_weight /= static_cast<double>(hidden);
      break;
    case SquaredErrorForm::norm:
      config.l2 = kernels::L2Form::norm;
      break;
    case SquaredErrorForm::relative:
      config.l2 = kernels::L2Form::relative;
      break;
  }
  config.kl_weight = settings.kl_weight;
  return config;
}

LossValue reconstruction_loss(const Tensor& prediction, const std::vector<Tensor>& targets,
                              const LossConfig& config, bool want_gradient) {
  check(!targets.empty() && prediction.count() > 0, "reconstruction_loss: nothing to compare");
  const int64_t rows = prediction.count() / prediction.size(-1);
  const OpTimer timer("reconstruction_loss", prediction.device());
  const double weight = 1.0 / (static_cast<double>(rows) * static_cast<double>(targets.size()));
  LossValue value;
  for (const Tensor& target : targets) {
    const kernels::RowErrorResult error = kernels::row_error(
        prediction, target, config.l2_weight, config.l2, config.kl_weight, want_gradient);
    const Tensor sum = kernels::sum(error.loss);
    if (!value.mean.defined()) {
      value = {sum, error.gradient};
    } else {
      kernels::add_into(value.mean, sum);
      if (want_gradient) kernels::add_into(value.gradient, error.gradient);
    }
  }
  value.mean = kernels::scale(value.mean, weight);
  if (want_gradient) value.gradient = kernels::scale(value.gradient, weight);
  return value;
}

}  // namespace cbq

#include "kernels/launch.h"
#include "kernels/math.h"
#include "quant/scale_form.h"

namespace cbq {
namespace {

template <class T>
struct ScaleOf {
  const T* start;
  const T* x;
  T* scale;
  ScaleForm form;
  CBQ_HD void operator()(int64_t i) const {
    const T s0 = start[i];
    if (form == ScaleForm::log) {
      scale[i] = s0 * math::exp(x[i]);
    } else {
      const T s = form == ScaleForm::relative ? s0 * (T(1) + x[i]) : s0 + x[i];
      scale[i] = math::max(s, s0 / T(1024));
    }
  }
};

template <class T>
struct ScaleGradient {
  const T* start;
  const T* scale;
  const T* d_scale;
  T* dx;
  ScaleForm form;
  CBQ_HD void operator()(int64_t i) const {
    const T slope =
        form == ScaleForm::log ? scale[i] : (form == ScaleForm::relative ? start[i] : T(1));
    dx[i] = d_scale[i] * slope;
  }
};

// Scales are f32, or f64 where truth is wanted.
template <class F>
void dispatch_scale(const char* op, Dtype dtype, F&& f) {
  if (dtype == Dtype::f32) return f.template operator()<float>();
  if (dtype == Dtype::f64) return f.template operator()<double>();
  throw std::invalid_argument(message_of(op, ": scales are f32 or f64, got ", dtype));
}

}  // namespace

std::string name_of(ScaleForm form) {
  switch (form) {
    case ScaleForm::log:
      return "log";
    case ScaleForm::relative:
      return "relative";
    case ScaleForm::raw:
      return "raw";
  }
  return "?";
}

ScaleForm scale_form_from_name(const std::string& name) {
  for (const auto form : {ScaleForm::log, ScaleForm::relative, ScaleForm::raw}) {
    if (name == name_of(form)) return form;
  }
  throw std::invalid_argument(
      message_of("unknown scale form '", name, "'; known: log, relative, raw"));
}

Tensor scale_of(ScaleForm form, const Tensor& start, const Tensor& x) {
  check_same("scale_of", start, x);
  Tensor s(x.shape(), x.dtype(), x.device());
  dispatch_scale("scale_of", x.dtype(), [&]<class T>() {
    map("scale_of", x.device(), x.count(),
        ScaleOf<T>{start.data<T>(), x.data<T>(), s.data<T>(), form});
  });
  return s;
}

Tensor scale_gradient(ScaleForm form, const Tensor& start, const Tensor& scale,
                      const Tensor& d_scale) {
  check_same("scale_gradient", start, scale);
  check_same("scale_gradient", start, d_scale);
  Tensor dx(scale.shape(), scale.dtype(), scale.device());
  dispatch_scale("scale_gradient", scale.dtype(), [&]<class T>() {
    map("scale_gradient", scale.device(), scale.count(),
        ScaleGradient<T>{start.data<T>(), scale.data<T>(), d_scale.data<T>(), dx.data<T>(), form});
  });
  return dx;
}

}  // namespace cbq

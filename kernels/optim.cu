// Optimizer steps, and tensors of random numbers.
#include <cmath>

#include "kernels/launch.h"
#include "kernels/math.h"
#include "kernels/ops.h"
#include "kernels/philox.h"

namespace cbq::kernels {
namespace {

struct AdamStep {
  float* p;
  const float* g;
  float* m;
  float* v;
  float rate, beta1, beta2, rest1, rest2, eps, decay, correction1, correction2;
  CBQ_HD void operator()(int64_t i) const {
    const float gi = g[i];
    const float mi = beta1 * m[i] + rest1 * gi;
    const float vi = beta2 * v[i] + rest2 * gi * gi;
    m[i] = mi;
    v[i] = vi;
    p[i] -= rate * (mi * correction1 / (math::sqrt(vi * correction2) + eps) + decay * p[i]);
  }
};

struct SignStep {
  float* p;
  const float* g;
  float rate;
  CBQ_HD void operator()(int64_t i) const {
    p[i] -= g[i] > 0.0f ? rate : (g[i] < 0.0f ? -rate : 0.0f);
  }
};

template <class T>
struct Normal {
  T* y;
  float mean, deviation;
  uint64_t seed, stream;
  int64_t n;
  CBQ_HD void operator()(int64_t block) const {  // four words, two elements
    const PhiloxBlock words = philox_block(seed, stream, static_cast<uint64_t>(block));
    for (int64_t k = 0; k < 2 && 2 * block + k < n; ++k) {
      const float radius = math::sqrt(-2.0f * math::log(philox_uniform(words.x[2 * k])));
      const float angle = 6.283185307179586f * philox_uniform(words.x[2 * k + 1]);
      y[2 * block + k] = T(mean + deviation * radius * ::cosf(angle));
    }
  }
};

template <class T>
struct Uniform {
  T* y;
  float low, width;
  uint64_t seed, stream;
  int64_t n;
  CBQ_HD void operator()(int64_t block) const {  // four words, four elements
    const PhiloxBlock words = philox_block(seed, stream, static_cast<uint64_t>(block));
    for (int64_t k = 0; k < 4 && 4 * block + k < n; ++k) {
      y[4 * block + k] = T(low + width * philox_uniform(words.x[k]));
    }
  }
};

void check_f32(const char* op, const Tensor& p) {
  check(p.dtype() == Dtype::f32, op, ": optimized tensors are f32, got ", name_of(p.dtype()));
}

}  // namespace

void adam_step(const Tensor& p, const Tensor& g, const Tensor& m, const Tensor& v,
               const AdamSettings& settings, int64_t t) {
  check_same("adam_step", p, g);
  check_same("adam_step", p, m);
  check_same("adam_step", p, v);
  check_f32("adam_step", p);
  check(t >= 1, "adam_step: steps count from 1, got ", t);
  const auto steps = static_cast<double>(t);
  AdamStep f;
  f.p = p.data<float>();
  f.g = g.data<float>();
  f.m = m.data<float>();
  f.v = v.data<float>();
  f.rate = static_cast<float>(settings.rate);
  f.beta1 = static_cast<float>(settings.beta1);
  f.beta2 = static_cast<float>(settings.beta2);
  f.rest1 = static_cast<float>(1.0 - settings.beta1);  // in f32, 1 - 0.999 is 5e-5 off
  f.rest2 = static_cast<float>(1.0 - settings.beta2);
  f.eps = static_cast<float>(settings.eps);
  f.decay = static_cast<float>(settings.decay);
  f.correction1 = static_cast<float>(1.0 / (1.0 - std::pow(settings.beta1, steps)));
  f.correction2 = static_cast<float>(1.0 / (1.0 - std::pow(settings.beta2, steps)));
  map("adam_step", p.device(), p.count(), f);
}

void sign_sgd_step(const Tensor& p, const Tensor& g, double rate) {
  check_same("sign_sgd_step", p, g);
  check_f32("sign_sgd_step", p);
  map("sign_sgd_step", p.device(), p.count(),
      SignStep{p.data<float>(), g.data<float>(), static_cast<float>(rate)});
}

void fill_normal(const Tensor& t, double mean, double deviation, uint64_t seed, uint64_t stream) {
  dispatch_float(t.dtype(), "fill_normal", [&]<class T>() {
    map("fill_normal", t.device(), (t.count() + 1) / 2,
        Normal<T>{t.data<T>(), static_cast<float>(mean), static_cast<float>(deviation), seed,
                  stream, t.count()});
  });
}

void fill_uniform(const Tensor& t, double low, double high, uint64_t seed, uint64_t stream) {
  dispatch_float(t.dtype(), "fill_uniform", [&]<class T>() {
    map("fill_uniform", t.device(), (t.count() + 3) / 4,
        Uniform<T>{t.data<T>(), static_cast<float>(low), static_cast<float>(high - low), seed,
                   stream, t.count()});
  });
}

}  // namespace cbq::kernels

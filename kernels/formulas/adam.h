// Steps of the optimizers for one element, for kernels/optim.cu. All numbers are f32.
#pragma once

#include "kernels/formulas/math.h"

namespace cbq::formulas {

/// Adam with decoupled weight decay (Kingma & Ba 2015; Loshchilov & Hutter 2019), g = dL/dp:
///   m <- b1 m + (1 - b1) g,  v <- b2 v + (1 - b2) g^2,
///   p <- p - rate (m c1 / (sqrt(v c2) + eps) + decay p),  c1 = 1 / (1 - b1^t), c2 = 1 / (1 -
///   b2^t).
struct Adam {
  float beta1, beta2, rest1, rest2, eps, decay;  // rest = 1 - beta
  bool operator==(const Adam&) const = default;

  CBQ_HD void step(float& p, float g, float& m, float& v, float rate, float correction1,
                   float correction2) const {
    const float mi = beta1 * m + rest1 * g;
    const float vi = beta2 * v + rest2 * g * g;
    m = mi;
    v = vi;
    p -= rate * (mi * correction1 / (math::sqrt(vi * correction2) + eps) + decay * p);
  }
};

/// p <- p - rate sign(g); sign(0) = 0.
struct SignDescent {
  CBQ_HD static void step(float& p, float g, float rate) {
    p -= g > 0.0f ? rate : (g < 0.0f ? -rate : 0.0f);
  }
};

}  // namespace cbq::formulas

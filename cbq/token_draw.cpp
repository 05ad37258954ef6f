#include "cbq/token_draw.h"

#include <algorithm>
#include <cmath>

#include "tensor/error.h"

namespace cbq {

int32_t draw_token(const float* logits, int64_t vocabulary, double temperature, double uniform,
                   double* weights, const char* remedy) {
  const float top = *std::max_element(logits, logits + vocabulary);
  double total = 0.0;
  for (int64_t i = 0; i < vocabulary; ++i) {
    weights[i] = std::exp(static_cast<double>(logits[i] - top) / temperature);
    total += weights[i];
  }
  if (!std::isfinite(total)) {  // NaN passes no comparison, so every draw would be the last id
    throw NonFiniteError(message_of("the model's logits hold NaN or infinity; ", remedy));
  }
  double left = uniform * total;
  for (int64_t i = 0; i < vocabulary; ++i) {
    left -= weights[i];
    if (left < 0.0) return static_cast<int32_t>(i);
  }
  return static_cast<int32_t>(vocabulary - 1);
}

int32_t likeliest_token(const float* logits, int64_t vocabulary, const char* remedy) {
  int64_t best = 0;
  for (int64_t i = 0; i < vocabulary; ++i) {
    if (std::isnan(logits[i]) || logits[i] == INFINITY) {
      throw NonFiniteError(message_of("the model's logits hold NaN or infinity; ", remedy));
    }
    if (logits[i] > logits[best]) best = i;
  }
  return static_cast<int32_t>(best);
}

}  // namespace cbq

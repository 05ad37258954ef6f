// One token from the logits behind a text.
#pragma once

#include <cstdint>

namespace cbq {

/// An id drawn from softmax(logits / temperature): the first at which the cumulative probability
/// passes `uniform` in [0, 1). Sums in f64. `weights` has room for one number per logit. Throws
/// NonFiniteError where a logit is NaN or +infinity; `remedy` ends the message.
int32_t draw_token(const float* logits, int64_t vocabulary, double temperature, double uniform,
                   double* weights, const char* remedy);

/// The id of the largest logit; of several equal ones the smallest. Throws NonFiniteError as above.
int32_t likeliest_token(const float* logits, int64_t vocabulary, const char* remedy);

}  // namespace cbq

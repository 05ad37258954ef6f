#include "tensor/dtype.h"

namespace cbq {

const char* name_of(Dtype dtype) {
  switch (dtype) {
    case Dtype::f64:
      return "f64";
    case Dtype::f32:
      return "f32";
    case Dtype::bf16:
      return "bf16";
    case Dtype::f16:
      return "f16";
    case Dtype::i32:
      return "i32";
    case Dtype::u8:
      return "u8";
  }
  return "?";
}

Dtype dtype_from_name(const std::string& name) {
  for (Dtype dtype : {Dtype::f64, Dtype::f32, Dtype::bf16, Dtype::f16, Dtype::i32, Dtype::u8}) {
    if (name == name_of(dtype)) return dtype;
  }
  throw std::invalid_argument(
      message_of("unknown dtype '", name, "'; known: f64, f32, bf16, f16, i32, u8"));
}

}  // namespace cbq

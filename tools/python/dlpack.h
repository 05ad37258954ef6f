// The part of DLPack's binary interface that is used here: how array libraries hand each other
// memory without copies (https://dmlc.github.io/dlpack). Layouts are fixed by that standard.
#pragma once

#include <cstdint>

namespace cbq::python::dlpack {

enum DeviceType : int32_t { cpu = 1, cuda_host = 3 };
enum TypeCode : uint8_t { signed_integer = 0, unsigned_integer = 1, floating = 2, bfloat = 4 };

struct DeviceTag {
  int32_t type, number;
};
struct TypeTag {
  uint8_t code, bits;
  uint16_t lanes;
};
struct View {
  void* data;
  DeviceTag device;
  int32_t rank;
  TypeTag dtype;
  int64_t* shape;
  int64_t* strides;  // in elements; null: compact, the last axis first
  uint64_t byte_offset;
};
/// What a capsule named "dltensor" points to; who takes it renames the capsule and calls `release`.
struct Managed {
  View view;
  void* owner;
  void (*release)(Managed* self);
};

inline constexpr const char* offered = "dltensor";
inline constexpr const char* taken = "used_dltensor";

}  // namespace cbq::python::dlpack

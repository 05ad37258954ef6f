// Tensor: a contiguous row-major array = shape + dtype + shared storage.
//
// `reshape` and first-axis `slice` are views; everything else copies. There are no general strides:
// a transpose is a flag of the matrix product, which also reads heads where they lie. That halves
// every kernel, and a reader never has to ask whether a tensor is contiguous.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

#include "tensor/dtype.h"
#include "tensor/runtime/device.h"
#include "tensor/storage.h"

namespace cbq {

using Shape = std::vector<int64_t>;

/// Product of the extents (1 for a scalar). Throws std::invalid_argument on a negative extent or
/// when the product overflows 63 bits.
int64_t element_count(const Shape& shape);
/// "[2, 3]".
std::string to_string(const Shape& shape);

class Tensor {
 public:
  /// No tensor at all: defined() is false.
  Tensor() = default;
  /// Uninitialized elements.
  Tensor(Shape shape, Dtype dtype, Device device = Device::cpu());

  static Tensor zeros(Shape shape, Dtype dtype, Device device = Device::cpu());
  /// Uninitialized elements in page-locked host memory (Storage::page_locked).
  static Tensor page_locked(Shape shape, Dtype dtype);
  /// Over memory that is there already (Storage::adopt), at its beginning. Throws where it is too
  /// small, or not aligned to the elements.
  static Tensor over(std::shared_ptr<Storage> storage, Shape shape, Dtype dtype);
  /// Copies host values (converted to `dtype`); throws if the count does not fit the shape.
  template <class T>
  static Tensor from(const std::vector<T>& values, Shape shape, Dtype dtype = dtype_of<T>::value,
                     Device device = Device::cpu());

  bool defined() const { return storage_ != nullptr; }
  const Shape& shape() const { return shape_; }
  Dtype dtype() const { return dtype_; }
  Device device() const { return device_; }
  int64_t rank() const { return static_cast<int64_t>(shape_.size()); }
  /// Extent of `axis`; negative counts from the end.
  int64_t size(int64_t axis) const;
  int64_t count() const { return count_; }
  int64_t bytes() const { return count_ * size_of(dtype_); }

  /// Pointer to the first element. Throws if T is not the tensor's dtype.
  template <class T>
  T* data() const {
    check(dtype_of<T>::value == dtype_, "Tensor::data: tensor is ", dtype_, ", asked for ",
          dtype_of<T>::value);
    return static_cast<T*>(raw());
  }
  void* raw() const;

  /// View with another shape of the same count; one extent may be -1.
  Tensor reshape(Shape shape) const;
  /// View of the rows [begin, end) of the first axis.
  Tensor slice(int64_t begin, int64_t end) const;
  /// Copy of the bytes in new storage on the same device.
  Tensor clone() const;
  /// This tensor if it is there already, else a copy on `device`.
  Tensor to(Device device) const;
  /// Overwrites the elements with those of `source` (same shape and dtype; any device).
  void copy_from(const Tensor& source) const;
  /// Sets all bytes to zero.
  void fill_zero() const;

  /// Elements on the host, converted to T.
  template <class T>
  std::vector<T> to_vector() const;
  /// The only element of a one-element tensor.
  double item() const;

 private:
  Shape shape_;
  Dtype dtype_ = Dtype::f32;
  Device device_;
  int64_t count_ = 0;
  int64_t offset_ = 0;  // bytes from the start of the storage
  std::shared_ptr<Storage> storage_;
};

/// Throws std::invalid_argument, naming `op`, unless the shapes (and dtypes, devices) agree.
void check_same(const char* op, const Tensor& a, const Tensor& b);
/// Throws std::invalid_argument, naming `op` and `what`, unless `t` has exactly this shape.
void check_shape(const char* op, const char* what, const Tensor& t, const Shape& expected);
/// The same for extents written out: they need no Shape, which would be allocated.
void check_shape(const char* op, const char* what, const Tensor& t,
                 std::initializer_list<int64_t> expected);

}  // namespace cbq

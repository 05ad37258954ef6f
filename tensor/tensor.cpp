#include "tensor/tensor.h"

#include <algorithm>
#include <cstring>
#include <limits>

namespace cbq {

int64_t element_count(const Shape& shape) {
  int64_t count = 1;
  for (int64_t extent : shape) {
    check(extent >= 0, "negative extent in shape ", shape);
    check(extent == 0 || count <= std::numeric_limits<int64_t>::max() / 16 / extent,
          "element count of shape ", shape, " overflows");
    count *= extent;
  }
  return count;
}

void detail::write_part(std::ostream& out, const Shape& shape) {
  out << '[';
  for (size_t i = 0; i < shape.size(); ++i) out << (i ? ", " : "") << shape[i];
  out << ']';
}

std::string to_string(const Shape& shape) { return concat(shape); }

Tensor::Tensor(Shape shape, Dtype dtype, Device device)
    : shape_(std::move(shape)),
      dtype_(dtype),
      device_(device),
      count_(element_count(shape_)),
      storage_(std::make_shared<Storage>(count_ * size_of(dtype), device)) {}

Tensor Tensor::zeros(Shape shape, Dtype dtype, Device device) {
  Tensor t(std::move(shape), dtype, device);
  t.fill_zero();
  return t;
}

Tensor Tensor::page_locked(Shape shape, Dtype dtype) {
  Tensor t;
  t.shape_ = std::move(shape);
  t.dtype_ = dtype;
  t.count_ = element_count(t.shape_);
  t.storage_ = Storage::page_locked(t.bytes());
  return t;
}

Tensor Tensor::over(std::shared_ptr<Storage> storage, Shape shape, Dtype dtype) {
  Tensor t;
  t.shape_ = std::move(shape);
  t.dtype_ = dtype;
  t.device_ = storage->device();
  t.count_ = element_count(t.shape_);
  check(t.bytes() <= storage->bytes(), "Tensor::over: ", dtype, t.shape_, " needs ", t.bytes(),
        " bytes, there are ", storage->bytes());
  check(reinterpret_cast<uintptr_t>(storage->data()) % static_cast<uintptr_t>(size_of(dtype)) == 0,
        "Tensor::over: the memory is not aligned to elements of ", size_of(dtype), " bytes");
  t.storage_ = std::move(storage);
  return t;
}

int64_t Tensor::size(int64_t axis) const {
  const int64_t i = axis < 0 ? axis + rank() : axis;
  check(i >= 0 && i < rank(), "Tensor::size: axis ", axis, " of a tensor of shape ", shape_);
  return shape_[static_cast<size_t>(i)];
}

void* Tensor::raw() const {
  check(defined(), "Tensor: use of an undefined tensor");
  check(storage_->data() != nullptr, "Tensor: use of the elements of a ", to_string(shape_),
        " tensor that was made without memory (tensor/runtime/shapes_only.h)");
  return static_cast<char*>(storage_->data()) + offset_;
}

Tensor Tensor::reshape(Shape shape) const {
  const auto wildcard = std::find(shape.begin(), shape.end(), -1);
  if (wildcard != shape.end()) {
    check(std::find(wildcard + 1, shape.end(), -1) == shape.end(), "reshape: more than one -1 in ",
          shape);
    *wildcard = 1;
    const int64_t known = element_count(shape);
    *wildcard = known > 0 ? count_ / known : 0;
  }
  check(element_count(shape) == count_, "reshape: ", shape_, " has ", count_,
        " elements, cannot become ", shape);
  Tensor view = *this;
  view.shape_ = std::move(shape);
  return view;
}

Tensor Tensor::slice(int64_t begin, int64_t end) const {
  check(rank() >= 1 && 0 <= begin && begin <= end && end <= shape_[0], "slice: rows [", begin, ", ",
        end, ") of a tensor of shape ", shape_);
  Tensor view = *this;
  const int64_t row = shape_[0] > 0 ? count_ / shape_[0] : 0;
  view.shape_[0] = end - begin;
  view.count_ = row * (end - begin);
  view.offset_ = offset_ + begin * row * size_of(dtype_);
  return view;
}

Tensor Tensor::clone() const {
  Tensor copy(shape_, dtype_, device_);
  copy.copy_from(*this);
  return copy;
}

Tensor Tensor::to(Device device) const {
  count_host_transfer();
  if (device == device_) return *this;
  Tensor copy(shape_, dtype_, device);
  copy.copy_from(*this);
  return copy;
}

void Tensor::copy_from(const Tensor& source) const {
  check(shape_ == source.shape_ && dtype_ == source.dtype_, "copy_from: ", source.dtype_,
        source.shape_, " into ", dtype_, shape_);
  copy_bytes(raw(), device_, source.raw(), source.device_, bytes());
}

void Tensor::fill_zero() const { zero_bytes(raw(), device_, bytes()); }

void check_same(const char* op, const Tensor& a, const Tensor& b) {
  check(a.shape() == b.shape(), op, ": shapes differ: ", a.shape(), " and ", b.shape());
  check(a.dtype() == b.dtype(), op, ": dtypes differ: ", a.dtype(), " and ", b.dtype());
  check(a.device() == b.device(), op, ": devices differ: ", a.device(), " and ", b.device());
}

namespace {
template <class Extents>
void check_extents(const char* op, const char* what, const Tensor& t, const Extents& expected) {
  check(t.defined(), op, ": ", what, " is undefined");
  check(std::equal(t.shape().begin(), t.shape().end(), expected.begin(), expected.end()), op, ": ",
        what, " has shape ", t.shape(), ", expected ", [&] { return to_string(Shape(expected)); });
}
}  // namespace

void check_shape(const char* op, const char* what, const Tensor& t, const Shape& expected) {
  check_extents(op, what, t, expected);
}

void check_shape(const char* op, const char* what, const Tensor& t,
                 std::initializer_list<int64_t> expected) {
  check_extents(op, what, t, expected);
}

namespace {

template <class F>
decltype(auto) dispatch_any(Dtype dtype, F&& f) {
  if (dtype == Dtype::i32) return f.template operator()<int32_t>();
  if (dtype == Dtype::u8) return f.template operator()<uint8_t>();
  return dispatch_float(dtype, "Tensor", f);
}

// bf16 and f16 convert through float only; doubles and integers directly.
template <class To, class From>
To convert(From value) {
  if constexpr (std::is_same_v<From, bf16> || std::is_same_v<From, f16>) {
    return static_cast<To>(static_cast<float>(value));
  } else if constexpr (std::is_same_v<To, bf16> || std::is_same_v<To, f16>) {
    return To(static_cast<float>(value));
  } else {
    return static_cast<To>(value);
  }
}

}  // namespace

template <class T>
Tensor Tensor::from(const std::vector<T>& values, Shape shape, Dtype dtype, Device device) {
  count_host_transfer();
  Tensor host(std::move(shape), dtype, Device::cpu());
  check(static_cast<int64_t>(values.size()) == host.count(), "Tensor::from: ", values.size(),
        " values for shape ", host.shape());
  dispatch_any(dtype, [&]<class D>() {
    D* out = host.data<D>();
    for (size_t i = 0; i < values.size(); ++i) out[i] = convert<D>(values[i]);
  });
  return host.to(device);
}

template <class T>
std::vector<T> Tensor::to_vector() const {
  const Tensor host = to(Device::cpu());
  std::vector<T> values(static_cast<size_t>(count_));
  dispatch_any(dtype_, [&]<class S>() {
    const S* in = host.data<S>();
    for (size_t i = 0; i < values.size(); ++i) values[i] = convert<T>(in[i]);
  });
  return values;
}

double Tensor::item() const {
  check(count_ == 1, "item: tensor of shape ", shape_, " has ", count_, " elements");
  return to_vector<double>()[0];
}

// clang-format off
template Tensor Tensor::from(const std::vector<double>&, Shape, Dtype, Device);
template Tensor Tensor::from(const std::vector<float>&, Shape, Dtype, Device);
template Tensor Tensor::from(const std::vector<int32_t>&, Shape, Dtype, Device);
template Tensor Tensor::from(const std::vector<uint8_t>&, Shape, Dtype, Device);
template std::vector<double> Tensor::to_vector() const;
template std::vector<float> Tensor::to_vector() const;
template std::vector<int32_t> Tensor::to_vector() const;
template std::vector<uint8_t> Tensor::to_vector() const;
// clang-format on

}  // namespace cbq

// What follows from an op's case (op_case.h): this file knows no op by name.
#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <sstream>

#include "autograd/gradcheck.h"
#include "autograd/worst_error.h"
#include "tests/compared_device.h"
#include "tests/op_case.h"

namespace cbq::test::test_ops {
namespace {

// ---- tolerances -------------------------------------------------------------------------------

// |got - want| <= tolerance * (|want| + rms(want) + floor), by the dtype of the output. The rms
// stands for the size of the terms that a sum cancelled; the floor for outputs that are all zero.
struct Tolerance {
  Dtype dtype;
  double relative;  // units in the last place: f64 450, f32 17, bf16 3, f16 3
};
constexpr Tolerance tolerances[] = {
    {Dtype::f64, 1e-13}, {Dtype::f32, 2e-6}, {Dtype::bf16, 2e-2}, {Dtype::f16, 3e-3}};
constexpr double absolute_floor = 0.01;

double tolerance_of(Dtype dtype) {
  for (const Tolerance& entry : tolerances) {
    if (entry.dtype == dtype) return entry.relative;
  }
  return 0.0;  // integers are exact
}

/// Largest error in units of what is tolerated: passes up to 1.
double worst_ratio(const Tensor& got, const Array& want) {
  const std::vector<double> values = got.to_vector<double>();
  double squares = 0.0;
  for (double value : want.values) squares += value * value;
  const double rms = values.empty() ? 0.0 : std::sqrt(squares / static_cast<double>(values.size()));
  if (!std::isfinite(rms)) return INFINITY;  // beside such a size, no error would count
  WorstError worst;
  for (size_t i = 0; i < values.size(); ++i) {
    const double scale = std::abs(want.values[i]) + rms + absolute_floor;
    worst.add(std::abs(values[i] - want.values[i]) / scale);
  }
  const double tolerance = tolerance_of(got.dtype());
  if (tolerance > 0.0) return worst.value() / tolerance;
  return worst.value() > 0.0 ? INFINITY : 0.0;
}

// ---- guard bands ------------------------------------------------------------------------------

constexpr uint8_t poison = 0xff;  // NaN in every floating-point dtype

/// A copy of a tensor on `device`, in the middle of a larger buffer of poison: where rows are short
/// at no multiple of 16 bytes, unless it shall be `aligned`.
class Guarded {
 public:
  Guarded(const Tensor& source, Device device, bool aligned) : original_(source.clone()) {
    // Bands of whole rows, so that a slice of the first axis is the tensor: [band + n + band].
    const int64_t row =
        source.rank() > 0 && source.size(0) > 0 ? source.count() / source.size(0) : 1;
    rows_ = source.rank() > 0 ? (row > 0 ? source.size(0) : 0) : 1;
    band_ = 1 + 64 / std::max<int64_t>(1, row);
    if (aligned) band_ = (band_ + 15) / 16 * 16;
    Shape shape = source.rank() > 0 ? source.shape() : Shape{1};
    shape[0] = rows_ + 2 * band_;
    const Tensor poisoned(shape, source.dtype());
    std::memset(poisoned.raw(), poison, static_cast<size_t>(poisoned.bytes()));
    buffer_ = poisoned.to(device);
    tensor_ = buffer_.slice(band_, band_ + rows_).reshape(source.shape());
    tensor_.copy_from(source);
  }
  const Tensor& tensor() const { return tensor_; }
  bool intact() const {
    return all_poison(buffer_.slice(0, band_)) &&
           all_poison(buffer_.slice(band_ + rows_, rows_ + 2 * band_));
  }
  bool unchanged() const {
    const Tensor now = tensor_.to(Device::cpu());
    return std::memcmp(now.raw(), original_.raw(), static_cast<size_t>(now.bytes())) == 0;
  }
  bool shares_memory_with(const Tensor& other) const {
    const auto* begin = static_cast<const uint8_t*>(buffer_.raw());
    const auto* at = static_cast<const uint8_t*>(other.raw());
    return other.device() == buffer_.device() && at >= begin && at < begin + buffer_.bytes();
  }

 private:
  static bool all_poison(const Tensor& where) {
    const Tensor band = where.to(Device::cpu());
    const auto* bytes = static_cast<const uint8_t*>(band.raw());
    return std::all_of(bytes, bytes + band.bytes(), [](uint8_t b) { return b == poison; });
  }
  Tensor original_, buffer_, tensor_;
  int64_t rows_ = 0, band_ = 0;
};

/// Fills free blocks of the sizes of `outputs` with poison: the allocator hands them out again, so
/// an output element that the op forgets is NaN, and the unused tail of a block is a guard band.
class PoisonedBlocks {
 public:
  explicit PoisonedBlocks(const Tensors& outputs) {
    for (const Tensor& output : outputs) {
      std::vector<Tensor> held;  // several, for an op's temporaries of the same size
      for (int i = 0; i < 4; ++i) {
        held.emplace_back(Shape{output.bytes()}, Dtype::u8, output.device());
        const std::vector<uint8_t> bytes(static_cast<size_t>(block_size(output.bytes())), poison);
        copy_bytes(held.back().raw(), output.device(), bytes.data(), Device::cpu(),
                   static_cast<int64_t>(bytes.size()));
        blocks_[held.back().raw()] = static_cast<int64_t>(bytes.size());
      }
    }
  }
  /// Bytes behind the output that still hold poison; -1 if one does not.
  int64_t intact_tail(const Tensor& output) const {
    const auto found = blocks_.find(output.raw());
    if (found == blocks_.end()) return 0;  // a view, or a block from elsewhere
    std::vector<uint8_t> bytes(static_cast<size_t>(found->second - output.bytes()));
    copy_bytes(bytes.data(), Device::cpu(), static_cast<uint8_t*>(output.raw()) + output.bytes(),
               output.device(), static_cast<int64_t>(bytes.size()));
    for (const uint8_t byte : bytes) {
      if (byte != poison) return -1;
    }
    return static_cast<int64_t>(bytes.size());
  }

 private:
  std::map<void*, int64_t> blocks_;
};

// ---- the properties ---------------------------------------------------------------------------

int64_t values_checked = 0, gradients_checked = 0, errors_checked = 0, tails_checked = 0;
using Closest = std::map<Dtype, std::pair<double, std::string>>;
Closest closest;  // how near each tolerance was

void print_closest(const char* where, const Closest& all) {
  for (const auto& [dtype, nearest] : all) {
    std::printf("[   INFO   ] nearest to the %s tolerance%s: %.2f, %s\n", name_of(dtype), where,
                nearest.first, nearest.second.c_str());
  }
}

std::string describe(const OpCase& op, const Shapes& shapes, Dtype dtype) {
  std::string text = concat(op.title(), " ", name_of(dtype));
  for (const Shape& shape : shapes) text = concat(text, " ", to_string(shape));
  return text;
}

class Op : public testing::TestWithParam<size_t> {
 protected:
  const OpCase& op() const { return op_cases()[GetParam()]; }
};

void check_inputs(const OpCase& op, const std::vector<Guarded>& guarded, const Tensors& outputs) {
  for (size_t i = 0; i < guarded.size(); ++i) {
    EXPECT_TRUE(guarded[i].intact()) << op.title() << " wrote outside of input " << i;
    bool in_place = false;
    for (const Tensor& output : outputs) in_place |= guarded[i].shares_memory_with(output);
    EXPECT_TRUE(in_place || guarded[i].unchanged()) << op.title() << " changed input " << i;
  }
}

/// Where and how strictly a value is checked.
struct Place {
  Device device = Device::cpu();
  bool aligned = false;         // inputs
  double most = 1.0;            // the largest error that passes, in units of the tolerance
  Closest* nearest = &closest;  // how near it was
};

void check_value(const OpCase& op, const Shapes& shapes, Dtype dtype, const Place& place = {}) {
  SCOPED_TRACE(concat(describe(op, shapes, dtype), " ", name_of(place.device),
                      place.aligned ? ", aligned" : ""));
  const Tensors inputs = make_inputs(op, shapes, dtype);
  Arrays arrays;
  std::vector<Guarded> guarded;
  Tensors arguments, scratch;
  for (const Tensor& input : inputs) {
    arrays.push_back(to_array(input));
    guarded.emplace_back(input, place.device, place.aligned);
    arguments.push_back(guarded.back().tensor());
    scratch.push_back(input.to(place.device).clone());
  }
  const Arrays want = op.expected(arrays);
  const Tensors rehearsal = op.call(scratch);  // tells the sizes of the outputs
  const PoisonedBlocks blocks(rehearsal);
  const Tensors got = op.call(arguments);
  check_inputs(op, guarded, got);
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < got.size(); ++i) {
    ASSERT_EQ(got[i].shape(), want[i].shape) << "output " << i;
    values_checked += got[i].count();
    const double ratio = worst_ratio(got[i], want[i]);
    EXPECT_LE(ratio, place.most) << "output " << i << ": error over tolerance";
    auto& [nearest, who] = (*place.nearest)[got[i].dtype()];
    if (ratio > nearest) nearest = ratio, who = describe(op, shapes, dtype);
    // Temporaries may use the same block to a later byte: f32 ones of an op in half precision, and
    // the partial results of a scalar.
    if (op.large_temporaries || size_of(got[i].dtype()) < 4 || got[i].bytes() <= 8) continue;
    const int64_t tail = blocks.intact_tail(got[i]);
    EXPECT_GE(tail, 0) << "wrote behind output " << i;
    tails_checked += tail > 0;
  }
}

TEST_P(Op, ValueMatchesTheReference) {
  for (const Shapes& shapes : op().sizes) {
    for (Dtype dtype : op().dtypes) check_value(op(), shapes, dtype);
  }
}

TEST_P(Op, GradientMatchesCentralDifferences) {
  if (!op().apply) return;  // not a differentiable function
  int checked = 0;
  for (const Shapes& shapes : op().sizes) {
    int64_t elements = 0;
    for (const Shape& shape : shapes) elements += element_count(shape);
    if (elements > 300) continue;  // two forward passes per element
    SCOPED_TRACE(describe(op(), shapes, Dtype::f64));
    const Tensors inputs = make_inputs(op(), shapes, Dtype::f64);
    std::vector<size_t> leaves = op().leaves;
    for (size_t i = 0; op().leaves.empty() && i < inputs.size(); ++i) leaves.push_back(i);
    std::vector<Tensor> points;
    for (size_t i : leaves) points.push_back(inputs[i]);
    const GradcheckResult result = gradcheck(
        [&](const std::vector<Var>& moved) {
          std::vector<Var> all;
          for (const Tensor& input : inputs) all.emplace_back(input);
          for (size_t i = 0; i < leaves.size(); ++i) all[leaves[i]] = moved[i];
          return op().apply(all);
        },
        points);
    EXPECT_TRUE(result.passed) << result.message << ", error " << result.worst;
    ++checked;
    gradients_checked += elements;
  }
  EXPECT_GT(checked, 0) << "no size of " << op().title() << " is small enough";
}

void expect_named_error(const OpCase& op, const std::string& what, const std::function<void()>& f) {
  const std::string word = op.name.substr(op.name.rfind(':') + 1);
  try {
    f();
    ADD_FAILURE() << what << " was accepted";
  } catch (const std::invalid_argument& error) {
    // The whole word: "add_row" does not name "add".
    EXPECT_TRUE(std::regex_search(error.what(), std::regex("\\b" + word + "\\b")))
        << what << ": the message does not name " << word << ": " << error.what();
  } catch (const std::exception& error) {
    ADD_FAILURE() << what << " threw something else: " << error.what();
  }
  ++errors_checked;
}

TEST_P(Op, WrongArgumentsThrowAndNameTheOp) {
  EXPECT_FALSE(op().wrong.empty() && op().wrong_calls.empty()) << "the case lists no wrong call";
  for (const Shapes& shapes : op().wrong) {
    const Tensors inputs = make_inputs(op(), shapes, op().dtypes[0]);
    expect_named_error(op(), describe(op(), shapes, op().dtypes[0]), [&] { op().call(inputs); });
  }
  for (size_t i = 0; i < op().wrong_calls.size(); ++i) {
    expect_named_error(op(), op().title() + " wrong call " + std::to_string(i),
                       op().wrong_calls[i]);
  }
}

/// False for an input that a case shares with others and does not read: NaN in it changes nothing.
bool reads_input(const OpCase& op, const Shapes& shapes, size_t i) {
  std::vector<std::vector<uint8_t>> results[2];
  for (const bool poisoned : {false, true}) {
    const Tensors inputs = make_inputs(op, shapes, op.dtypes[0]);
    if (poisoned) std::memset(inputs[i].raw(), poison, static_cast<size_t>(inputs[i].bytes()));
    for (const Tensor& output : op.call(inputs)) {
      const auto* data = static_cast<const uint8_t*>(output.raw());
      results[poisoned].emplace_back(data, data + output.bytes());
    }
  }
  return results[0] != results[1];
}

// Host memory that counts as a device of its own stands for a second GPU: no op may combine the
// two.
TEST_P(Op, OperandsOnTwoDevicesThrow) {
  constexpr Device elsewhere{Device::Kind::cpu, 1};
  const std::string name = op().name.substr(op().name.rfind(':') + 1);
  // A case of a backward pass may call the forward pass, a differentiable function its kernels.
  const std::string forward = name.substr(0, name.find("_backward"));
  const Tensors inputs = make_inputs(op(), op().sizes[0], op().dtypes[0]);
  for (size_t i = 0; inputs.size() > 1 && i < inputs.size(); ++i) {
    SCOPED_TRACE(concat(op().title(), ", input ", i, " elsewhere"));
    Tensors arguments = inputs;
    arguments[i] = inputs[i].to(elsewhere);
    try {
      op().call(arguments);
      EXPECT_FALSE(reads_input(op(), op().sizes[0], i)) << "was accepted";
    } catch (const std::invalid_argument& error) {
      const std::string message = error.what();
      EXPECT_TRUE(message.find("device") != std::string::npos ||
                  message.find(name_of(elsewhere)) != std::string::npos)
          << message;
      EXPECT_TRUE(op().apply || message.find(forward) != std::string::npos) << message;
    }
  }
}

std::vector<std::vector<uint8_t>> bytes_with_threads(const OpCase& op, const Shapes& shapes,
                                                     Dtype dtype, int threads) {
  const int before = omp_get_max_threads();
  omp_set_num_threads(threads);
  std::vector<std::vector<uint8_t>> bytes;
  for (const Tensor& output : op.call(make_inputs(op, shapes, dtype))) {
    const auto* data = static_cast<const uint8_t*>(output.raw());
    bytes.emplace_back(data, data + output.bytes());
  }
  omp_set_num_threads(before);
  return bytes;
}

TEST_P(Op, BytesDoNotDependOnTheNumberOfThreads) {
  for (const Shapes& shapes : op().sizes) {
    for (Dtype dtype : op().dtypes) {
      const auto one = bytes_with_threads(op(), shapes, dtype, 1);
      for (int threads : {2, 3}) {
        EXPECT_TRUE(one == bytes_with_threads(op(), shapes, dtype, threads))
            << describe(op(), shapes, dtype) << " with " << threads << " threads";
      }
    }
  }
}

std::string parameter_name(const testing::TestParamInfo<size_t>& info) {
  std::string name = op_cases()[info.param].title();
  for (char& c : name) {
    if (std::isalnum(static_cast<unsigned char>(c)) == 0) c = '_';
  }
  return name + "_" + std::to_string(info.param);
}

INSTANTIATE_TEST_SUITE_P(All, Op, testing::Range<size_t>(0, op_cases().size()), parameter_name);

// The same as on the CPU: the naive reference, guard bands around inputs, poison in what outputs
// are made of. Once with inputs at multiples of 16 bytes, as tensors begin, once where the bands
// move them elsewhere. Sums have other orders there and products are contracted, so the tolerances,
// which fit the CPU closely, count twice.
TEST(Ops, CudaAgreesWithCpu) {
  SKIP_WITHOUT_GRIDS();
  const Device device = *compared_device();
  const int64_t before = values_checked;
  Closest on_grids;
  for (const OpCase& op : op_cases()) {
    for (const Shapes& shapes : op.sizes) {
      for (Dtype dtype : op.dtypes) {
        for (bool aligned : {false, true}) {
          check_value(op, shapes, dtype, {device, aligned, 2.0, &on_grids});
        }
      }
    }
  }
  EXPECT_GT(values_checked, before);
  print_closest(device.is_cuda() ? " on CUDA" : " of emulated grids", on_grids);
}

// ---- coverage ---------------------------------------------------------------------------------

/// Names of the functions that a header declares: a return type at the start of a line, a name,
/// "(".
std::set<std::string> functions_in(const std::string& header, const std::string& prefix) {
  std::ifstream file(std::string(CBQ_SOURCE_DIR) + "/" + header);
  std::set<std::string> names;
  const std::regex declaration(R"(^[A-Za-z_][\w:<>, &*]*[ &*](\w+)\(.*)");
  for (std::string line; std::getline(file, line);) {
    std::smatch match;
    if (std::regex_match(line, match, declaration)) names.insert(prefix + match[1].str());
  }
  return names;
}

TEST(Ops, EveryDeclaredFunctionHasACase) {
  std::set<std::string> cased;
  for (const OpCase& op : op_cases()) cased.insert(op.name);
  std::set<std::string> declared_kernels = functions_in("kernels/ops.h", "kernels::");
  declared_kernels.merge(functions_in("kernels/divergence.h", "kernels::"));
  const std::set<std::string> declared_gradients = functions_in("autograd/functions.h", "ag::");
  // The search itself must work: these are known to be there.
  EXPECT_TRUE(declared_kernels.count("kernels::swiglu_backward"));
  EXPECT_TRUE(declared_kernels.count("kernels::has_non_finite"));
  EXPECT_TRUE(declared_gradients.count("ag::attention"));
  std::set<std::string> declared = declared_kernels;
  declared.insert(declared_gradients.begin(), declared_gradients.end());
  for (const std::string& name : declared) {
    EXPECT_TRUE(cased.count(name)) << name << " has no OpCase (tests/op_cases_*.cpp)";
  }
  for (const std::string& name : cased) {
    EXPECT_TRUE(declared.count(name)) << "the case " << name << " tests nothing that is declared";
  }
  for (const std::string& name : declared_gradients) {
    for (const OpCase& op : op_cases()) {
      EXPECT_TRUE(op.name != name || op.apply) << op.title() << " has no differentiable form";
    }
  }
}

// Every case ran, and compared something; prints how close the tolerances were. In a process that
// was asked for a single test (ctest runs each alone), or for a share of them (gpu_check), there is
// nothing to look back on.
class RanSomething : public testing::Environment {
 public:
  void TearDown() override {
    if (testing::GTEST_FLAG(filter) != "*") return;
    if (std::getenv("GTEST_TOTAL_SHARDS") != nullptr) return print_closest("", closest);
    EXPECT_GT(values_checked, 100000);
    EXPECT_GT(gradients_checked, 100);
    EXPECT_GT(errors_checked, 100);
#ifndef CBQ_DEBUG
    EXPECT_GT(tails_checked, 100);
#endif
    print_closest("", closest);
  }
};
const auto* const ran_something = testing::AddGlobalTestEnvironment(new RanSomething);

TEST(Ops, TheHarnessRunsAndCompares) {
  ASSERT_GT(op_cases().size(), 60u);
  const int64_t before = values_checked;
  for (const OpCase& op : op_cases()) {
    ASSERT_FALSE(op.sizes.empty()) << op.title();
    ASSERT_TRUE(op.expected) << op.title();
    ASSERT_TRUE(op.run || op.apply) << op.title();
    ASSERT_FALSE(op.dtypes.empty()) << op.title();
    check_value(op, op.sizes[0], op.dtypes[0]);
  }
  EXPECT_GE(values_checked - before, static_cast<int64_t>(op_cases().size()));
}

// One likely token among tens of thousands of unlikely ones: each of these is less than half of the
// last place of the sum's beginning, and all of them together are 1e-3 of it.
TEST(Ops, CrossEntropyOfALargeVocabularyKeepsItsTail) {
  constexpr int64_t n = 49152;
  std::vector<float> logits(static_cast<size_t>(n), -17.5f);
  for (const int64_t likely : {int64_t{0}, int64_t{1000}, n - 1}) {
    std::vector<float> row = logits;
    row[static_cast<size_t>(likely)] = 0.0f;
    double total = 0.0;
    for (const float x : row) total += std::exp(static_cast<double>(x));
    const Tensor target = Tensor::from<int32_t>({static_cast<int32_t>(likely)}, {1});
    const Tensor nll = kernels::cross_entropy(Tensor::from(row, {1, n}), target);
    EXPECT_NEAR(nll.item(), std::log(total), 1e-7) << likely;
  }
}

}  // namespace
}  // namespace cbq::test::test_ops

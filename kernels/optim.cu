// Optimizer steps, and tensors of random numbers.
#include <algorithm>
#include <cmath>

#include "kernels/formulas/adam.h"
#include "kernels/formulas/math.h"
#include "kernels/formulas/philox.h"
#include "kernels/launch/launch.h"
#include "kernels/ops.h"

namespace cbq::kernels {
namespace {

/// The numbers of an Adam step that stay from step to step.
formulas::Adam form_of(const AdamSettings& settings) {
  return {static_cast<float>(settings.beta1),       static_cast<float>(settings.beta2),
          static_cast<float>(1.0 - settings.beta1),  // in f32, 1 - 0.999 is 5e-5 off
          static_cast<float>(1.0 - settings.beta2), static_cast<float>(settings.eps),
          static_cast<float>(settings.decay)};
}

// Many variables in one launch. Their table travels as an argument of the launch (CUDA takes 4 KB
// of arguments), so it costs no copy, and a captured launch keeps it, with the gradients where the
// captured backward pass puts them. A row of the launch is a piece of one variable.
constexpr int64_t table_size = 64;
constexpr int64_t table_forms = 8;
constexpr int64_t piece = 4096;

struct TableEntry {
  float* p;
  const float* g;
  float* m;  // m, v: null for sign descent
  float* v;
  int64_t count;
  int64_t first_row;
  int32_t at;    // of its numbers in `now`
  int32_t form;  // index into the table's forms
};

struct Table {
  TableEntry entry[table_size];
  const double* now;
  int64_t entries, rows;

  void add(TableEntry e) {
    e.first_row = rows;
    entry[entries++] = e;
    rows += (e.count + piece - 1) / piece;
  }
  /// The entry that holds row r.
  CBQ_HD const TableEntry& of_row(int64_t r) const {
    int64_t low = 0, high = entries - 1;
    while (low < high) {
      const int64_t middle = (low + high + 1) / 2;
      if (entry[middle].first_row <= r) {
        low = middle;
      } else {
        high = middle - 1;
      }
    }
    return entry[low];
  }
};

struct AdamSteps {
  Table table;
  formulas::Adam forms[table_forms];
  int64_t used_forms;

  template <class Row>
  CBQ_HD void operator()(Row& row, int64_t r) const {
    const TableEntry& e = table.of_row(r);
    const double* now = table.now + e.at;
    const auto rate = static_cast<float>(now[0]), correction1 = static_cast<float>(now[1]),
               correction2 = static_cast<float>(now[2]);
    const formulas::Adam form = forms[e.form];
    const int64_t begin = (r - e.first_row) * piece, n = math::min(piece, e.count - begin);
    float* p = e.p + begin;
    const float* g = e.g + begin;
    float* m = e.m + begin;
    float* v = e.v + begin;
#pragma omp simd
    for (int64_t j = row.lane(); j < n; j += row.lanes()) {
      form.step(p[j], g[j], m[j], v[j], rate, correction1, correction2);
    }
  }

  /// Where the form stands among the table's, added if it is new; -1: no place left.
  int32_t form_index(const formulas::Adam& form) {
    for (int64_t i = 0; i < used_forms; ++i) {
      if (forms[i] == form) return static_cast<int32_t>(i);
    }
    if (used_forms == table_forms) return -1;
    forms[used_forms] = form;
    return static_cast<int32_t>(used_forms++);
  }
};
static_assert(sizeof(AdamSteps) <= 4088, "with the number of rows, 4 KB of arguments at most");

struct SignSteps {
  Table table;
  template <class Row>
  CBQ_HD void operator()(Row& row, int64_t r) const {
    const TableEntry& e = table.of_row(r);
    const int64_t begin = (r - e.first_row) * piece, n = math::min(piece, e.count - begin);
    const auto rate = static_cast<float>(table.now[e.at]);
    float* p = e.p + begin;
    const float* g = e.g + begin;
#pragma omp simd
    for (int64_t j = row.lane(); j < n; j += row.lanes()) {
      formulas::SignDescent::step(p[j], g[j], rate);
    }
  }
};

// Numbers as arguments of a launch: they are copied when it is queued.
constexpr int64_t values_per_launch = 32;
struct WriteValues {
  double* y;
  double values[values_per_launch];
  CBQ_HD void operator()(int64_t i) const { y[i] = values[i]; }
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
  check(p.dtype() == Dtype::f32, op, ": optimized tensors are f32, got ", p.dtype());
}

}  // namespace

std::array<double, 3> AdamSettings::at_step(double factor, int64_t t) const {
  check(t >= 1, "adam_steps: steps count from 1, got ", t);
  const auto steps = static_cast<double>(t);
  return {rate * factor, 1.0 / (1.0 - std::pow(beta1, steps)),
          1.0 / (1.0 - std::pow(beta2, steps))};
}

namespace {
/// Numbers of the step: on the variables' device, and as many as they read.
void check_now(const char* op, const Tensor& now, const Tensor& p, int64_t at, int64_t count) {
  check(now.dtype() == Dtype::f64 && now.device() == p.device() && at >= 0 &&
            at + count <= now.count() && now.count() <= (1 << 30),
        op, ": needs f64 numbers of the step at [", at, ", ", at + count, ") on ", p.device(),
        ", got ", now.dtype(), now.shape(), " on ", now.device());
}
}  // namespace

void adam_steps(const std::vector<AdamVariable>& variables, const Tensor& now) {
  AdamSteps f{};
  Device device;
  const auto launch = [&] {
    if (f.table.rows > 0) map_rows("adam_step", device, f.table.rows, piece, f);
    f = AdamSteps{};
  };
  for (const AdamVariable& x : variables) {
    check_same("adam_steps", x.p, x.g);
    check_same("adam_steps", x.p, x.m);
    check_same("adam_steps", x.p, x.v);
    check_f32("adam_steps", x.p);
    check_now("adam_steps", now, x.p, x.at, 3);
    const formulas::Adam form = form_of(x.settings);
    if (f.table.entries == table_size || f.form_index(form) < 0) launch();
    device = x.p.device();
    f.table.now = now.data<double>();
    f.table.add({x.p.data<float>(), x.g.data<float>(), x.m.data<float>(), x.v.data<float>(),
                 x.p.count(), 0, static_cast<int32_t>(x.at), f.form_index(form)});
  }
  launch();
}

void sign_sgd_steps(const std::vector<SignVariable>& variables, const Tensor& now) {
  SignSteps f{};
  Device device;
  const auto launch = [&] {
    if (f.table.rows > 0) map_rows("sign_sgd_step", device, f.table.rows, piece, f);
    f = SignSteps{};
  };
  for (const SignVariable& x : variables) {
    check_same("sign_sgd_steps", x.p, x.g);
    check_f32("sign_sgd_steps", x.p);
    check_now("sign_sgd_steps", now, x.p, x.at, 1);
    if (f.table.entries == table_size) launch();
    device = x.p.device();
    f.table.now = now.data<double>();
    f.table.add({x.p.data<float>(), x.g.data<float>(), nullptr, nullptr, x.p.count(), 0,
                 static_cast<int32_t>(x.at), 0});
  }
  launch();
}

void write_values(const Tensor& y, const std::vector<double>& values) {
  check(y.dtype() == Dtype::f64 && y.count() == static_cast<int64_t>(values.size()),
        "write_values: ", values.size(), " values into ", y.dtype(), y.shape());
  for (int64_t begin = 0; begin < y.count(); begin += values_per_launch) {
    WriteValues f{y.data<double>() + begin, {}};
    const int64_t n = math::min(values_per_launch, y.count() - begin);
    std::copy_n(values.begin() + begin, n, f.values);
    map("write_values", y.device(), n, f);
  }
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

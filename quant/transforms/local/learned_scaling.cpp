#include "quant/transforms/local/learned_scaling.h"

#include <algorithm>

#include "autograd/functions.h"
#include "quant/transforms/local/arithmetic.h"
#include "quant/transforms/local/sites.h"

namespace cbq {
namespace {

constexpr double least_factor = 1e-2;
constexpr const char* folded_mark = "folded";

Dtype factor_dtype(Dtype dtype) { return dtype == Dtype::f64 ? Dtype::f64 : Dtype::f32; }

/// The variables of one site.
class Factors {
 public:
  Factors(const ScalingStart& start, Dtype dtype, Device device)
      : start_(make(start.scale, dtype, device)), scale_(Var(start_.value().clone(), true)) {
    if (start.shift.empty()) return;
    std::vector<double> negated = start.shift;
    for (double& z : negated) z = -z;
    negated_shift_start_ = make(negated, dtype, device);
    shift_ = Var(make(start.shift, dtype, device).value(), true);
  }

  const Var& scale() const { return scale_; }
  const Var& shift() const { return shift_; }
  /// r and 1 / r, per slot.
  Var ratio() const { return ag::div(kept_scale(), start_); }
  Var inverse() const { return ag::div(start_, kept_scale()); }
  /// d; only with a shift.
  Var moved() const { return ag::div(ag::add(shift_, negated_shift_start_), start_); }

 private:
  static Var make(const std::vector<double>& values, Dtype dtype, Device device) {
    return Var(Tensor::from(values, {static_cast<int64_t>(values.size())}, dtype, device));
  }
  const Var& kept_scale() const {
    keep_from_zero(scale_.value(), least_factor);
    return scale_;
  }

  Var start_, scale_, shift_, negated_shift_start_;
};

/// From slots to the rows or columns of a matrix.
class Spread {
 public:
  /// slot_of[i]: the slot of element i; -1: it has none.
  Spread(const std::vector<int64_t>& slot_of, Dtype dtype, Device device) {
    identity_ = true;
    std::vector<int32_t> ids;
    std::vector<double> mask, rest;
    for (size_t i = 0; i < slot_of.size(); ++i) {
      identity_ = identity_ && slot_of[i] == static_cast<int64_t>(i);
      ids.push_back(static_cast<int32_t>(std::max<int64_t>(slot_of[i], 0)));
      mask.push_back(slot_of[i] < 0 ? 0.0 : 1.0);
      rest.push_back(slot_of[i] < 0 ? 1.0 : 0.0);
      partial_ = partial_ || slot_of[i] < 0;
    }
    const Shape shape = {static_cast<int64_t>(slot_of.size())};
    if (!identity_) ids_ = Tensor::from(ids, shape, Dtype::i32, device);
    if (!partial_) return;
    mask_ = Var(Tensor::from(mask, shape, dtype, device));
    rest_ = Var(Tensor::from(rest, shape, dtype, device));
  }
  /// Elements without a slot get 1.
  Var factors(const Var& of_slots) const {
    const Var values = offsets(of_slots);
    return partial_ ? ag::add(values, rest_) : values;
  }
  /// Elements without a slot get 0.
  Var offsets(const Var& of_slots) const {
    if (identity_) return of_slots;
    const Var table = ag::reshape(of_slots, {of_slots.size(0), 1});
    const Var values = ag::reshape(ag::embedding(ids_, table), {ids_.size(0)});
    return partial_ ? ag::mul(values, mask_) : values;
  }

 private:
  bool identity_ = false, partial_ = false;
  Tensor ids_;
  Var mask_, rest_;
};

struct Term {
  std::shared_ptr<const Factors> factors;
  Spread spread;
  bool multiplies;  // by the factor, else by its inverse
  Var factor() const { return spread.factors(multiplies ? factors->ratio() : factors->inverse()); }
  bool has_shift() const { return factors->shift().defined(); }
};

Var rescale_vector(const Var& x, const Var& factors) {
  return ag::reshape(ag::rescale(ag::reshape(x, {1, x.size(0)}), Var(), factors), x.shape());
}

/// rows of factors, columns of factors.
class ScaledLinear : public ParameterTransform {
 public:
  std::vector<Term> columns;  // one at most
  std::vector<Term> rows;

  Var weight(const Var& w) const override {
    return ag::rescale(w, row_factors(), columns.empty() ? Var() : columns.front().factor());
  }
  Var bias(const Var& b, const Var& w) const override {
    if (!b.defined()) return b;
    Var moved = b;
    if (!columns.empty() && columns.front().has_shift()) {
      const Term& term = columns.front();
      const Var d = ag::cast(term.spread.offsets(term.factors->moved()), w.dtype());
      moved = ag::reshape(ag::linear(ag::reshape(d, {1, d.size(0)}), w, b), b.shape());
    }
    for (const Term& term : rows) {
      if (!term.has_shift()) continue;
      const Var d = ag::cast(term.spread.offsets(term.factors->moved()), b.dtype());
      moved = ag::add(moved, ag::scale(d, -1.0));
    }
    return rows.empty() ? moved : rescale_vector(moved, row_factors());
  }

 private:
  Var row_factors() const {
    Var product;
    for (const Term& term : rows) {
      product = product.defined() ? ag::mul(product, term.factor()) : term.factor();
    }
    return product;
  }
};

class ScaledNorm : public ParameterTransform {
 public:
  explicit ScaledNorm(std::shared_ptr<const Factors> factors) : factors_(std::move(factors)) {}
  Var weight(const Var& w) const override { return rescale_vector(w, factors_->inverse()); }
  Var bias(const Var& b, const Var& /*w*/) const override {
    if (!b.defined()) return b;
    if (!factors_->shift().defined()) return rescale_vector(b, factors_->inverse());
    const Var d = ag::cast(factors_->moved(), b.dtype());
    return rescale_vector(ag::add(b, ag::scale(d, -1.0)), factors_->inverse());
  }

 private:
  std::shared_ptr<const Factors> factors_;
};

/// Slots of the rows that make queries (or keys); the other rows of a fused projection have none.
std::vector<int64_t> slots_of_rows(const QueryKeyRows& at, bool keys) {
  const Linear& linear = keys ? *at.keys : *at.queries;
  const int64_t heads = keys ? at.kv_heads : at.heads;
  const int64_t width = at.rotary ? at.head_dim / 2 : at.head_dim;
  std::vector<int64_t> slots(static_cast<size_t>(linear.out_features()), -1);
  for (int64_t h = 0; h < heads; ++h) {
    for (int64_t i = 0; i < at.head_dim; ++i) {
      const int64_t row = (keys ? at.first_key_row : 0) +
                          (h * at.parts + (keys ? at.key_part : at.query_part)) * at.head_dim + i;
      slots[static_cast<size_t>(row)] = h / (heads / at.kv_heads) * width + i % width;
    }
  }
  return slots;
}

}  // namespace

struct LearnedScaling::Place {
  std::shared_ptr<const ParameterTransform>* slot;  // of the layer
  std::shared_ptr<const ParameterTransform> transform;
  Var weight, bias;
};

LearnedScaling::LearnedScaling(Transformer& model, int64_t number, const ScalingStarts& starts) {
  Block& block = model.block(number);
  path_ = model.block_prefix(number);
  const Dtype dtype = factor_dtype(model.dtype());
  const Device device = model.device();
  std::map<Linear*, std::shared_ptr<ScaledLinear>> linears;
  const auto on = [&](Linear* linear) -> ScaledLinear& {
    auto& scaled = linears[linear];
    if (!scaled) scaled = std::make_shared<ScaledLinear>();
    return *scaled;
  };
  const auto make = [&](const std::string& name, const ScalingStart& start) {
    const auto factors = std::make_shared<const Factors>(start, dtype, device);
    variables_.emplace_back(name + ".scale", factors->scale());
    if (factors->shift().defined()) variables_.emplace_back(name + ".shift", factors->shift());
    return factors;
  };

  SkippedSites skipped;
  size_t found = 0;
  for (const FoldSite& site : fold_sites(model, number, skipped)) {
    const auto start = starts.find(site.path);
    if (start == starts.end()) continue;
    ++found;
    const auto factors = make(site.site.name, start->second);
    std::vector<int64_t> channels;
    for (int64_t c = 0; c < site.channels(); ++c) channels.push_back(site.slot_of(c));
    for (Linear* reader : site.site.consumers) {
      on(reader).columns.push_back({factors, Spread(channels, dtype, device), true});
    }
    if (site.site.norm_weight != nullptr) {
      Place norm{site.site.norm_equivalent, std::make_shared<ScaledNorm>(factors),
                 *site.site.norm_weight, Var()};
      if (site.site.norm_bias != nullptr) norm.bias = *site.site.norm_bias;
      places_.push_back(std::move(norm));
    } else {
      on(site.site.producer)
          .rows.push_back({factors, Spread(site.slot_of_rows(), dtype, device), false});
    }
  }
  check(found == starts.size(), path_, ": learned factors start at ", starts.size(),
        " places, of which the block has ", found);
  const QueryKeyRows rows = block.query_key_rows();
  if (rows.obstacle.empty()) {
    const int64_t width = rows.rotary ? rows.head_dim / 2 : rows.head_dim;
    const auto slots = static_cast<size_t>(rows.kv_heads * width);
    const auto factors = make("query_key", {std::vector<double>(slots, 1.0), {}});
    on(rows.queries)
        .rows.push_back({factors, Spread(slots_of_rows(rows, false), dtype, device), false});
    on(rows.keys).rows.push_back({factors, Spread(slots_of_rows(rows, true), dtype, device), true});
  }
  for (const auto& [name, linear] : block.linears()) {  // in an order that is the same every time
    const auto scaled = linears.find(linear);
    if (scaled == linears.end()) continue;
    places_.push_back({&linear->equivalent, scaled->second, linear->weight, linear->bias});
  }
  set_active(true);
}

LearnedScaling::~LearnedScaling() = default;

void LearnedScaling::set_active(bool active) {
  for (const Place& place : places_) *place.slot = active && !folded_ ? place.transform : nullptr;
}

void LearnedScaling::fold() {
  if (folded_) return;
  NoGrad none;
  for (Place& place : places_) {
    const Var bias = place.transform->bias(place.bias, place.weight);
    place.weight.set_value(place.transform->weight(place.weight).value());
    if (bias.defined()) place.bias.set_value(bias.value());
  }
  folded_ = true;
  set_active(false);
  for (Place& place : places_) place.weight = place.bias = Var();  // their memory may go
}

std::vector<std::pair<std::string, Tensor>> LearnedScaling::snapshot() const {
  std::vector<std::pair<std::string, Tensor>> values;
  for (const auto& [name, variable] : variables_) {
    values.emplace_back(name, variable.value().clone());
  }
  if (folded_) values.emplace_back(folded_mark, Tensor::zeros({1}, Dtype::f32));
  return values;
}

void LearnedScaling::restore(const std::vector<std::pair<std::string, Tensor>>& values) {
  check(!folded_, path_, ": factors are folded already, so they cannot be restored");
  const auto saved = [&](const std::string& name) {
    return std::find_if(values.begin(), values.end(),
                        [&](const auto& value) { return value.first == name; });
  };
  for (const auto& [name, variable] : variables_) {
    const auto value = saved(name);
    check(value != values.end() && value->second.shape() == variable.shape() &&
              value->second.dtype() == variable.dtype(),
          path_, ": the saved factors lack a fitting '", name, "'");
    variable.value().copy_from(value->second);
  }
  if (saved(folded_mark) != values.end()) fold();
}

}  // namespace cbq

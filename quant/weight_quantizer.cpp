#include "quant/weight_quantizer.h"

#include <algorithm>
#include <cmath>

#include "autograd/outputs.h"
#include "kernels/ops.h"

namespace cbq {
namespace {

Parameterization chosen_parameterization(const RoundingConfig& config, const RoundingScheme& scheme,
                                         const std::string& layer) {
  if (!config.parameterization) return scheme.default_parameterization();
  const Parameterization p = *config.parameterization;
  check(p == Parameterization::none || scheme.default_parameterization() != Parameterization::none,
        layer, ": rounding scheme '", scheme.name(), "' learns no rounding, so it takes no ", p,
        " variables; leave the parameterization at default");
  return p;
}

Start chosen_start(const RoundingConfig& config, const RoundingScheme& scheme,
                   const std::string& layer) {
  if (!config.start) return scheme.default_start();
  const Start start = *config.start;
  check(scheme.supports(start), layer, ": rounding scheme '", scheme.name(),
        "' always gives grid points, so it cannot start at the ", name_of(start),
        "; take start nearest or zero");
  return start;
}

const Tensor& named(const std::vector<std::pair<std::string, Tensor>>& values,
                    const std::string& name, const std::string& layer) {
  for (const auto& [key, tensor] : values) {
    if (key == name) return tensor;
  }
  throw std::invalid_argument(message_of(layer, ": the snapshot lacks '", name, "'"));
}

/// Small integers held in floating point -> u8.
Tensor as_codes(const Tensor& integers) {
  std::vector<uint8_t> codes;
  for (const float value : integers.to_vector<float>())
    codes.push_back(static_cast<uint8_t>(value));
  return Tensor::from(codes, integers.shape(), Dtype::u8, integers.device());
}

}  // namespace

WeightQuantizer::WeightQuantizer(const Tensor& w, const WeightConfig& weight,
                                 const RoundingConfig& rounding, const std::string& layer,
                                 uint64_t seed, uint64_t stream)
    : config_(weight),
      rounding_(rounding),
      layer_(layer),
      dtype_(w.dtype()),
      out_(w.size(0)),
      in_(w.size(1)),
      scheme_(rounding_schemes().make(rounding.scheme)),
      grid_(weight_grid(w, weight, layer)),
      grid_scheme_(grid_schemes().make(rounding.grid)) {
  const Parameterization parameterization = chosen_parameterization(rounding, *scheme_, layer);
  start_ = chosen_start(rounding, *scheme_, layer);
  const int64_t out = w.size(0), in = w.size(1);
  const Dtype dtype = grid_.scale.dtype();
  check(!rounding.learn_zero_point || !weight.symmetric, layer,
        ": the zero point of a symmetric grid is its middle code and cannot be learned");
  check(scheme_->gives_zero_point_gradient() ||
            !(rounding.learn_zero_point || grid_scheme_->moves_zero_point()),
        layer, ": rounding scheme '", scheme_->name(),
        "' gives no gradient of the zero point, which ",
        rounding.learn_zero_point ? "learn_zero_point" : "grid '" + rounding.grid + "'",
        " needs; choose another rounding scheme");
  start_grid_scheme(w, config_);
  if (rounding.learn_zero_point) {
    zero_point_variable_ = Var(Tensor::zeros(grid_.scale.shape(), dtype, w.device()), true);
  }
  if (parameterization == Parameterization::dense) {
    dense_ = Var(Tensor::zeros({out, in}, dtype, w.device()), true);
  } else if (parameterization == Parameterization::low_rank) {
    check(rounding.rank >= 1, layer, ": the rank of A1 A2 must be at least 1, got ", rounding.rank);
    a1_ = Var(Tensor({out, rounding.rank}, dtype, w.device()), true);
    kernels::fill_normal(a1_.value(), 0.0, 1.0 / std::sqrt(static_cast<double>(rounding.rank)),
                         seed, stream);
    a2_ = Var(Tensor::zeros({rounding.rank, in}, dtype, w.device()), true);
  }
}

WeightQuantizer::WeightQuantizer(PackedWeight packed, Tensor dequantized,
                                 const WeightConfig& weight, const std::string& layer)
    : config_(weight),
      layer_(layer),
      dtype_(dequantized.dtype()),
      out_(packed.out),
      in_(packed.in),
      grid_{packed.scale, packed.zero_point, packed.bits, packed.group},
      packed_(std::move(packed)),
      dequantized_(std::move(dequantized)) {
  check_shape(layer_.c_str(), "dequantized weight", dequantized_, {out_, in_});
}

void WeightQuantizer::start_grid_scheme(const Tensor& rounded, const WeightConfig& config) {
  const auto starts = grid_scheme_->start(rounded, grid_, config);
  if (grid_variables_.empty()) {
    for (const auto& [name, value] : starts) grid_variables_.emplace_back(name, Var(value, true));
    return;
  }
  for (size_t i = 0; i < starts.size(); ++i) {
    grid_variables_[i].second.value().copy_from(starts[i].second);
  }
}

namespace {

std::vector<Tensor> values_of(const std::vector<std::pair<std::string, Var>>& variables) {
  std::vector<Tensor> values;
  for (const auto& [name, variable] : variables) values.push_back(variable.value());
  return values;
}

bool any_requires_grad(const std::vector<std::pair<std::string, Var>>& variables) {
  return std::any_of(variables.begin(), variables.end(),
                     [](const auto& variable) { return variable.second.requires_grad(); });
}

}  // namespace

GridValues WeightQuantizer::grid_before_offset() const {
  GridValues values = grid_scheme_->values(values_of(grid_variables_));
  values.scale = stored_scales(values.scale, config_.scale_type);
  return values;
}

Tensor WeightQuantizer::zero_point_of(const GridValues& grid) const {
  if (!zero_point_variable_.defined()) return grid.zero_point;
  return moved_zero_point(grid.zero_point, zero_point_variable_.value(), config_.bits);
}

GridValues WeightQuantizer::grid() const {
  if (packed_) {
    const Tensor& z = packed_->zero_point;
    return {packed_->scale,
            Tensor::from(z.to_vector<double>(), z.shape(), grid_.scale.dtype(), z.device())};
  }
  GridValues values = grid_before_offset();
  values.zero_point = zero_point_of(values);
  return values;
}

RoundingPass WeightQuantizer::pass(const Tensor& w, const GridValues& grid) const {
  RoundingPass pass;
  pass.w = rounded(w);
  pass.scale = grid.scale;
  pass.zero_point = zero_point_of(grid);
  pass.bits = config_.bits;
  pass.group = grid_.group;
  pass.unit = grid_.scale;
  if (dense_.defined()) pass.dense = dense_.value();
  if (a1_.defined()) {
    pass.a1 = a1_.value();
    pass.a2 = a2_.value();
  }
  pass.start = start_;
  pass.hard = hard_;
  return pass;
}

void WeightQuantizer::start_from(const Tensor& weight, const WeightGrid& grid) {
  check(!packed_, layer_, ": hardened already, so a solver's result comes too late");
  check(!follows_, layer_,
        ": the weight is learned itself, so a solver's result would not stay one");
  check_shape(layer_.c_str(), "solver's weight", weight, {out_, in_});
  check_shape(layer_.c_str(), "solver's scale", grid.scale, grid_.scale.shape());
  check_shape(layer_.c_str(), "solver's zero point", grid.zero_point, grid_.zero_point.shape());
  check(weight.dtype() == dtype_ && grid.scale.dtype() == grid_.scale.dtype() &&
            grid.bits == config_.bits && grid.group == grid_.group,
        layer_, ": the solver's result is for ", grid.bits, " bits in groups of ", grid.group,
        ", expected ", config_.bits, " bits in groups of ", grid_.group);
  solution_ = weight;
  grid_ = grid;
  WeightConfig solved = config_;
  solved.search = ScaleSearch::squared_error;  // whatever it was: the grid is the solver's
  start_grid_scheme(weight, solved);
}

std::vector<std::pair<std::string, Tensor>> WeightQuantizer::solution() const {
  if (!solution_.defined()) return {};
  return {{"solved_weight", solution_.clone()},
          {"solved_scale", grid_.scale.clone()},
          {"solved_zero_point", grid_.zero_point.clone()}};
}

void WeightQuantizer::follow_weight() {
  std::string able;
  for (const std::string& name : grid_schemes().names()) {
    if (grid_schemes().make(name)->follows_weight()) able += (able.empty() ? "" : ", ") + name;
  }
  check(grid_scheme_->follows_weight(), layer_, ": grid '", grid_scheme_->name(),
        "' cannot follow a weight that is learned itself; take one that can: ", able);
  check(scheme_->gives_weight_gradient(), layer_, ": rounding scheme '", scheme_->name(),
        "' gives no gradient of the weight; choose another one, for example nearest");
  check(!solution_.defined(), layer_,
        ": a solver's result is fixed, so the weight cannot be learned; leave the solver out");
  follows_ = true;
}

Var WeightQuantizer::fake_quant(const Var& w) const {
  if (packed_) return Var(dequantized_);
  if (follows_) grid_scheme_->follow(w.value());
  const GridValues grid = grid_before_offset();
  RoundingPass now = pass(w.value(), grid);
  const bool grid_learns = any_requires_grad(grid_variables_);
  const Var offset = zero_point_variable_;
  now.wants_zero_point =
      offset.requires_grad() || ((grid_learns || follows_) && grid_scheme_->moves_zero_point());
  std::vector<Var> inputs{follows_ ? w : Var(), offset, dense_, a1_, a2_};
  for (const auto& [name, variable] : grid_variables_) inputs.push_back(variable);
  const auto vjp = [=, scheme = scheme_, regularizer = regularizer_, grid_scheme = grid_scheme_,
                    variables = grid_variables_, bits = config_.bits, dense = dense_, a1 = a1_,
                    a2 = a2_, weight = inputs.front()](const std::vector<Tensor>& dy) {
    RoundingGradients g = scheme->backward(now, dy[0], regularizer);
    if (offset.defined() && now.wants_zero_point) {
      g.zero_point = moved_zero_point_gradient(grid.zero_point, offset.value(), bits, g.zero_point);
    }
    if (offset.requires_grad()) offset.accumulate(g.zero_point);
    if (weight.requires_grad()) {
      const Tensor dw = scheme->weight_gradient(now, dy[0]);
      grid_scheme->add_weight_gradient(now.w, values_of(variables), {g.scale, g.zero_point}, dw);
      weight.accumulate(dw);
    }
    if (grid_learns) {
      const std::vector<Tensor> d =
          grid_scheme->gradients(values_of(variables), grid, {g.scale, g.zero_point});
      for (size_t i = 0; i < variables.size(); ++i) {
        const Var& x = variables[i].second;
        if (x.requires_grad()) x.accumulate(d[i]);
      }
    }
    if (dense.requires_grad()) dense.accumulate(g.dense);
    if (a1.requires_grad()) a1.accumulate(g.a1);
    if (a2.requires_grad()) a2.accumulate(g.a2);
  };
  return differentiable_outputs({scheme_->forward(now)}, inputs, vjp).front();
}

std::vector<LearnedGroup> WeightQuantizer::groups() const {
  std::vector<LearnedGroup> all;
  if (packed_) return all;
  if (!grid_variables_.empty()) {
    all.push_back({grid_scheme_->rate(), {}});
    for (const auto& [name, variable] : grid_variables_) all.back().variables.push_back(variable);
  }
  if (zero_point_variable_.defined()) all.push_back({"zero_point", {zero_point_variable_}});
  if (dense_.defined()) all.push_back({"rounding", {dense_}, true});
  if (a1_.defined()) all.push_back({"rounding", {a1_, a2_}, true});
  return all;
}

std::vector<Var> WeightQuantizer::variables(const std::string& rate) const {
  for (const LearnedGroup& group : groups()) {
    if (group.rate == rate) return group.variables;
  }
  return {};
}

double WeightQuantizer::regularizer_value(const Tensor& w) const {
  return packed_ ? 0.0 : scheme_->regularizer(pass(w), regularizer_);
}

void WeightQuantizer::harden(const Tensor& w) {
  check(!packed_, layer_, ": hardened already");
  if (follows_) grid_scheme_->follow(w);
  PackedWeight packed;
  packed.bits = config_.bits;
  packed.out = out_;
  packed.in = in_;
  packed.group = grid_.group;
  packed.codes = pack_codes(scheme_->codes(pass(w)), config_.bits);
  const GridValues values = grid();
  packed.scale = values.scale;
  packed.zero_point = as_codes(values.zero_point);
  freeze(std::move(packed));
}

void WeightQuantizer::freeze(PackedWeight packed) {
  const Tensor weight = dequantize(packed, dtype_, grid_.scale.device());
  if (dequantized_.defined()) {
    dequantized_.copy_from(weight);
  } else {
    dequantized_ = weight;
  }
  packed_ = std::move(packed);
  // Their memory, and the optimizer's, is free.
  grid_variables_.clear();
  zero_point_variable_ = dense_ = a1_ = a2_ = Var();
  solution_ = Tensor();
}

const PackedWeight& WeightQuantizer::packed() const {
  check(packed_.has_value(), layer_, ": not hardened yet, so there are no codes");
  return *packed_;
}

std::vector<std::pair<std::string, Tensor>> WeightQuantizer::snapshot() const {
  std::vector<std::pair<std::string, Tensor>> values;
  if (packed_) {
    values.emplace_back("codes", packed_->codes.clone());
    values.emplace_back("scale", packed_->scale.clone());
    values.emplace_back("zero_point", packed_->zero_point.clone());
    return values;
  }
  for (const auto& [name, variable] : named_variables()) {
    values.emplace_back(name, variable.value().clone());
  }
  return values;
}

void WeightQuantizer::restore(const std::vector<std::pair<std::string, Tensor>>& values) {
  if (!values.empty() && values.front().first == "codes") {
    PackedWeight packed;
    packed.bits = config_.bits;
    packed.out = out_;
    packed.in = in_;
    packed.group = grid_.group;
    const Device device = grid_.scale.device();
    packed.codes = named(values, "codes", layer_).to(device).clone();
    packed.scale = named(values, "scale", layer_).to(device).clone();
    packed.zero_point = named(values, "zero_point", layer_).to(device).clone();
    freeze(std::move(packed));
    return;
  }
  check(!packed_, layer_, ": hardened already, so its variables cannot be restored");
  const bool solved = std::any_of(values.begin(), values.end(),
                                  [](const auto& value) { return value.first == "solved_weight"; });
  if (solved) {
    const auto own = [&](const char* name) {
      return named(values, name, layer_).to(grid_.scale.device()).clone();
    };
    start_from(own("solved_weight"),
               {own("solved_scale"), own("solved_zero_point"), config_.bits, grid_.group});
  }
  for (const auto& [name, variable] : named_variables()) {
    variable.value().copy_from(named(values, name, layer_));
  }
}

std::vector<std::pair<std::string, Var>> WeightQuantizer::named_variables() const {
  std::vector<std::pair<std::string, Var>> all = grid_variables_;
  if (zero_point_variable_.defined()) all.emplace_back("zero_point_variable", zero_point_variable_);
  if (dense_.defined()) all.emplace_back("dense", dense_);
  if (a1_.defined()) all.emplace_back("a1", a1_);
  if (a2_.defined()) all.emplace_back("a2", a2_);
  return all;
}

}  // namespace cbq

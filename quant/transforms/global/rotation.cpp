// Rotation (QuaRot, Ashkboos et al. 2024; SpinQuant, Liu et al. 2025). Outlier channels of
// activations are spread over all channels by orthogonal matrices, which the weights around them
// absorb. W [out, in], Q of OrthogonalMatrix:
//
//   norms   y = g * n(x) + b. All linears that read the norm: W <- W diag(g), bias <- bias + W b.
//           Then g <- 1, b <- 0.
//   R1      writers of the stream (embedding, attention output, fc2): W <- Q W, bias <- Q bias;
//           readers (query, key, value, gate, up, head):              W <- W Q^T.
//           "block64": Q is block-diagonal with blocks of 64 channels.
//   R2      values: W <- Q_g W, bias <- Q_g bias for each key-value head g; columns of the output
//           projection that read a query head of g: W <- W Q_g^T. The attention's average over
//           tokens commutes with Q_g. Of a fused projection, only the rows of the values change.
//   R3      attention multiplies H q with H k instead of q with k, head by head (OnlineHadamard);
//           (H q)^T (H k) = q^T k, so no weight changes.
//   R4      fc2 reads H x instead of x (OnlineHadamard): W <- W H^T
//
// An RMSNorm without a gain commutes with every Q, a LayerNorm with a Q that keeps the vector of
// ones. LayerNorm models take such a Q, so their mean subtraction stays where it is.
#include "quant/transforms/global/rotation.h"

#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>

#include "kernels/ops.h"
#include "quant/transforms/global/global_transform.h"
#include "quant/transforms/global/orthogonal.h"
#include "quant/transforms/online_hadamard.h"
#include "tensor/runtime/shapes_only.h"

namespace cbq {

RotationParts rotation_parts(const std::string& text) {
  RotationParts parts;
  if (text == "none") return parts;
  int last = 0;  // number of the part before
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find('_', begin), text.size());
    const std::string word = text.substr(begin, end - begin);
    const std::map<std::string, int> numbers = {
        {"r1", 1}, {"block64", 1}, {"r2", 2}, {"r3", 3}, {"r4", 4}};
    const auto found = numbers.find(word);
    check(found != numbers.end() && found->second > last, "rotation: '", text,
          "'; expected none, or r1 (or block64), r2, r3, r4 in this order, joined by '_', as in "
          "r1_r2");
    last = found->second;
    (last == 1 ? parts.r1 : last == 2 ? parts.r2 : last == 3 ? parts.r3 : parts.r4) = true;
    parts.block64 = parts.block64 || word == "block64";
    begin = end + 1;
  }
  return parts;
}

namespace {

// Streams of random signs: one for R1, then one per block for R2.
constexpr uint64_t stream_of_r1 = 0;
constexpr uint64_t first_stream_of_r2 = 1;
constexpr int64_t width_of_block64 = 64;

bool is_even(int64_t width) { return hadamard_shape(width).block >= 2; }

Tensor in_f64(const Var& v) { return kernels::cast(v.value().to(Device::cpu()), Dtype::f64); }

void store(Var& v, const Tensor& value) {
  v.set_value(kernels::cast(value, v.dtype()).to(v.device()));
}

void set_all(Var& v, double value) {
  const Tensor t(v.shape(), v.dtype(), v.device());
  kernels::fill(t, value);
  v.set_value(t);
}

/// f of the rows of a large table, some at a time, so that its f64 copy stays small.
void change_rows(Var& table, const std::function<Tensor(const Tensor&)>& f) {
  const Tensor from = table.value().to(Device::cpu()), to(from.shape(), from.dtype());
  constexpr int64_t rows_at_once = 4096;
  for (int64_t begin = 0; begin < from.size(0); begin += rows_at_once) {
    const int64_t end = std::min(from.size(0), begin + rows_at_once);
    const Tensor part = f(kernels::cast(from.slice(begin, end), Dtype::f64));
    to.slice(begin, end).copy_from(kernels::cast(part, from.dtype()));
  }
  table.set_value(to.to(table.device()));
}

/// The rows of a fused projection that make one of its parts: [head][part][head_dim].
struct FusedRows {
  int64_t parts = 1, part = 0, head_dim = 0;

  /// x, whose first axis are the rows of all parts, with f of this part's rows in their place.
  Tensor changed(const Tensor& x, const std::function<Tensor(const Tensor&)>& f) const {
    if (parts == 1) return f(x);
    Shape shape = x.shape();
    shape[0] /= parts;
    const Tensor own(shape, x.dtype()), all(x.shape(), x.dtype());
    all.copy_from(x);
    const auto of_own = [&](const Tensor& t, int64_t head) {
      return t.slice(head * head_dim, (head + 1) * head_dim);
    };
    const auto of_all = [&](int64_t head) { return of_own(all, head * parts + part); };
    const int64_t heads = shape[0] / head_dim;
    for (int64_t h = 0; h < heads; ++h) of_own(own, h).copy_from(of_all(h));
    const Tensor result = f(own);
    for (int64_t h = 0; h < heads; ++h) of_all(h).copy_from(of_own(result, h));
    return all;
  }
};

/// What becomes of one linear.
struct Change {
  std::optional<Tensor> gain, shift;           // of the norm that it reads
  std::function<Tensor(const Tensor&)> input;  // W [out, in] -> W Q^T
  std::optional<OrthogonalMatrix> output;      // Q W, Q bias ...
  FusedRows output_rows;                       // ... of these rows
};

void change_linear(Linear& linear, const Change& change) {
  Tensor w = in_f64(linear.weight);
  std::optional<Tensor> bias;
  if (linear.bias.defined()) bias = in_f64(linear.bias);
  if (change.shift) {
    const Tensor added =
        kernels::matmul(change.shift->reshape({1, -1}), kernels::Trans::no, w, kernels::Trans::yes);
    bias = kernels::add(*bias, added.reshape({-1}));
  }
  if (change.gain) w = kernels::mul_row(w, *change.gain);
  if (change.input) w = change.input(w);
  if (change.output) {
    const OrthogonalMatrix& q = *change.output;
    w = change.output_rows.changed(w, [&](const Tensor& rows) { return q.columns(rows); });
    if (bias) {
      bias = change.output_rows.changed(*bias, [&](const Tensor& rows) { return q.rows(rows); });
    }
  }
  store(linear.weight, w);
  if (bias) store(linear.bias, *bias);
}

/// A router reads the stream, too, but is no linear: W diag(gain) Q^T.
void change_router(Var& router, const Tensor& gain, const OrthogonalMatrix& stream) {
  store(router, stream.rows(kernels::mul_row(in_f64(router), gain)));
}

/// The parts of a block that rotation looks at, and what is in its way.
struct BlockParts {
  Linear* attention_output = nullptr;
  std::vector<Linear*> fc2;           // one, or one of every expert
  std::vector<ScalingSite> norms;     // sites behind norms, which read the stream
  std::optional<ScalingSite> values;  // from the values to the attention's output
  std::string r1_obstacle, r2_obstacle;
};

BlockParts parts_of(Block& block) {
  BlockParts parts;
  std::vector<NamedLinear> readers;  // of the stream
  for (const NamedLinear& named : block.linears()) {
    if (named.name == block.attention_output_name()) {
      parts.attention_output = named.linear;
    } else if (block.is_fc2(named.name)) {
      parts.fc2.push_back(named.linear);
    } else {
      readers.push_back(named);
    }
  }
  const auto reads = [](const ScalingSite& site, const Linear* linear) {
    return std::find(site.consumers.begin(), site.consumers.end(), linear) != site.consumers.end();
  };
  const std::vector<ScalingSite> sites = block.scaling_sites();
  for (const NamedLinear& reader : readers) {
    const auto site = std::find_if(sites.begin(), sites.end(),
                                   [&](const ScalingSite& s) { return reads(s, reader.linear); });
    if (site == sites.end() || !site->obstacle.empty() || site->norm_weight == nullptr) {
      parts.r1_obstacle =
          reader.name + ": " +
          (site != sites.end() && !site->obstacle.empty() ? site->obstacle : "it reads no norm");
    } else if (site->norm_bias != nullptr && !reader.linear->bias.defined()) {
      parts.r1_obstacle = reader.name + " has no bias, which the norm's bias could be moved to";
    } else if (site->consumers.front() == reader.linear) {
      parts.norms.push_back(*site);
    }
  }
  for (const ScalingSite& site : sites) {
    if (reads(site, parts.attention_output)) parts.values = site;
  }
  if (!parts.values || parts.values->producer == nullptr || !parts.values->obstacle.empty()) {
    parts.r2_obstacle = "the values are not what a linear layer wrote";
  } else if (parts.values->first_row > 0) {
    parts.r2_obstacle = "queries, keys and values lie one behind the other in a fused projection";
  }
  return parts;
}

/// The rotations of one model.
struct Plan {
  RotationParts parts;
  uint64_t seed = 0;
  int64_t head_dim = 0;
  std::optional<OrthogonalMatrix> stream;  // R1

  void change_block(Block& block, int64_t number) const;
  /// Embedding, the last norm and the head, by R1.
  void change_ends(Transformer& model) const;
};

void Plan::change_block(Block& block, int64_t number) const {
  const BlockParts found = parts_of(block);
  std::map<Linear*, Change> changes;
  if (parts.r1) {
    for (const ScalingSite& site : found.norms) {
      for (Linear* reader : site.consumers) {
        Change& change = changes[reader];
        change.gain = in_f64(*site.norm_weight);
        if (site.norm_bias != nullptr) change.shift = in_f64(*site.norm_bias);
        change.input = [this](const Tensor& w) { return stream->rows(w); };
      }
      if (site.router != nullptr) change_router(*site.router, in_f64(*site.norm_weight), *stream);
    }
    changes[found.attention_output].output = stream;
    for (Linear* fc2 : found.fc2) changes[fc2].output = stream;
  }
  if (parts.r2) {
    const ScalingSite& site = *found.values;
    const OrthogonalMatrix values = OrthogonalMatrix::random_per_head(
        site.producer->out_features() / site.parts / head_dim, head_dim, seed,
        first_stream_of_r2 + static_cast<uint64_t>(number));
    changes[site.producer].output = values;
    changes[site.producer].output_rows = {site.parts, site.part, head_dim};
    const OrthogonalMatrix heads = values.repeated(head_dim, site.head_group);
    changes[found.attention_output].input = [heads](const Tensor& w) { return heads.rows(w); };
  }
  if (parts.r3) {
    const Device device = found.attention_output->weight.device();
    block.attention_online = OnlineHadamard::of_width(head_dim, device);
  }
  for (Linear* fc2 : found.fc2) {
    if (!parts.r4) break;
    const int64_t width = fc2->in_features();
    changes[fc2].input = [width](const Tensor& w) {
      return OnlineHadamard::of_width(width, Device::cpu())->apply(Var(w)).value();
    };
    fc2->online = OnlineHadamard::of_width(width, fc2->weight.device());
  }
  for (const auto& [linear, change] : changes) change_linear(*linear, change);
  if (!parts.r1) return;
  for (const ScalingSite& site : found.norms) {
    set_all(*site.norm_weight, 1.0);
    if (site.norm_bias != nullptr) set_all(*site.norm_bias, 0.0);
  }
}

void Plan::change_ends(Transformer& model) const {
  model.untie_head();
  const ResidualEnds ends = model.residual_ends();
  for (Var* table : ends.embeddings) {
    change_rows(*table, [&](const Tensor& part) { return stream->rows(part); });
  }
  const bool has_norm = ends.norm_weight != nullptr;
  const Tensor gain = has_norm ? in_f64(*ends.norm_weight) : Tensor();
  change_rows(*ends.head, [&](const Tensor& part) {
    return stream->rows(has_norm ? kernels::mul_row(part, gain) : part);
  });
  if (!has_norm) return;
  set_all(*ends.norm_weight, 1.0);
  if (ends.norm_bias == nullptr) return;
  // A head has no bias that could take W b, so the norm keeps one: W diag(g) Q^T (Q b / g) = W b.
  std::vector<double> b = in_f64(*ends.norm_bias).to_vector<double>();
  const std::vector<double> g = gain.to_vector<double>();
  for (size_t i = 0; i < b.size(); ++i) {
    if (b[i] == 0.0) continue;
    check(g[i] != 0.0, "rotation: the last norm has a bias in channel ", i,
          ", but its gain there is 0");
    b[i] /= g[i];
  }
  store(*ends.norm_bias, stream->rows(Tensor::from(b, ends.norm_bias->shape())));
}

class Rotation : public GlobalTransform {
 public:
  std::string name() const override { return "rotation"; }
  std::string help() const override {
    return "rotation:<parts>: rotates activations by orthogonal matrices; has a setting of its own";
  }
  bool handles_activation_outliers() const override { return parts_.any(); }
  void configure(const std::string& variant, uint64_t seed) override {
    parts_ = rotation_parts(variant);
    variant_ = variant;
    seed_ = seed;
  }
  std::map<OnlinePlace, std::string> online_kinds() const override {
    std::map<OnlinePlace, std::string> kinds;
    if (parts_.r3) kinds[OnlinePlace::attention] = OnlineHadamard::kind_name;
    if (parts_.r4) kinds[OnlinePlace::fc2] = OnlineHadamard::kind_name;
    return kinds;
  }
  std::string obstacle(Transformer& model) const override;
  std::vector<std::string> apply(Transformer& model) const override;

 private:
  /// The part that is not possible in this block, and why; empty: all are possible.
  std::pair<const char*, std::string> obstacle_in(Block& block) const;

  RotationParts parts_;
  std::string variant_ = "none";
  uint64_t seed_ = 0;
};

std::pair<const char*, std::string> Rotation::obstacle_in(Block& block) const {
  const BlockParts found = parts_of(block);
  if (parts_.r1 && !found.r1_obstacle.empty()) return {"r1", found.r1_obstacle};
  if (parts_.r2 && !found.r2_obstacle.empty()) return {"r2", found.r2_obstacle};
  for (const Linear* fc2 : found.fc2) {
    if (!parts_.r4 || is_even(fc2->in_features())) continue;
    return {"r4", "the width of its feed-forward part is an odd number"};
  }
  return {"", ""};
}

std::string Rotation::obstacle(Transformer& model) const {
  const auto because = [&](const char* part, const std::string& reason) {
    return concat("rotation ", variant_, ": ", part, " is not possible for ",
                  model.config.architecture, ": ", reason);
  };
  const ShapesOnly without_memory;
  if (parts_.r1) {
    const std::string ends = model.residual_ends().obstacle;
    if (!ends.empty()) return because("r1", ends);
  }
  for (int64_t b = 0; b < model.block_count(); ++b) {
    const auto [part, reason] = obstacle_in(*model.make_block_at(b));
    if (!reason.empty()) return because(part, reason);
  }
  if (parts_.r1) {
    const int64_t width = model.config.hidden_size;
    if (parts_.block64 && width % width_of_block64 != 0) {
      return because("block64", concat("its width, ", width, ", is no multiple of ",
                                       width_of_block64, "; r1 takes every even width"));
    }
    if (!is_even(width)) return because("r1", "its width is an odd number");
  }
  if ((parts_.r2 || parts_.r3) && !is_even(model.config.head_dim)) {
    return because(parts_.r2 ? "r2" : "r3", "the width of its heads is an odd number");
  }
  return "";
}

std::vector<std::string> Rotation::apply(Transformer& model) const {
  const std::string problem = obstacle(model);
  check(problem.empty(), problem);
  if (!parts_.any()) return {};
  const auto plan = std::make_shared<Plan>();
  plan->parts = parts_;
  plan->seed = seed_;
  plan->head_dim = model.config.head_dim;
  std::vector<std::string> notes;
  const auto tell_blocks = [&](const char* part, int64_t width, int64_t block) {
    if (block < width) {
      notes.push_back(concat("rotation: ", part, " mixes blocks of ", block, " of the ", width,
                             " channels, since no Hadamard matrix for all of them is known here"));
    }
  };
  NoGrad none;
  if (parts_.r1) {
    const int64_t width = model.config.hidden_size;
    const bool centered = model.residual_ends().centered;
    plan->stream = parts_.block64 ? OrthogonalMatrix::random_blocks(width, width_of_block64, seed_,
                                                                    stream_of_r1, centered)
                                  : OrthogonalMatrix::random(width, seed_, stream_of_r1, centered);
    if (!parts_.block64) tell_blocks("r1", width, plan->stream->block());
    plan->change_ends(model);
  }
  if (parts_.r2) tell_blocks("r2", plan->head_dim, hadamard_shape(plan->head_dim).block);
  if (parts_.r3) tell_blocks("r3", plan->head_dim, hadamard_shape(plan->head_dim).block);
  std::set<int64_t> widths;  // blocks with experts have another one
  for (int64_t b = 0; b < model.block_count() && parts_.r4; ++b) {
    const ShapesOnly without_memory;
    const std::unique_ptr<Block> block = model.make_block_at(b);
    for (Linear* l : parts_of(*block).fc2) widths.insert(l->in_features());
  }
  for (const int64_t width : widths) tell_blocks("r4", width, hadamard_shape(width).block);
  model.change_blocks([plan](Block& block, int64_t number) {
    NoGrad no_record;
    plan->change_block(block, number);
  });
  return notes;
}

[[maybe_unused]] const bool registered =
    global_transforms().add("rotation", [] { return std::make_unique<Rotation>(); });

}  // namespace
}  // namespace cbq

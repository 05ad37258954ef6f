#include <cmath>
#include <nlohmann/json.hpp>

#include "kernels/launch/launch.h"
#include "kernels/launch/rows.h"
#include "kernels/ops.h"
#include "nn/formats/json.h"
#include "quant/transforms/channel_map.h"
#include "quant/transforms/stored_transforms.h"

namespace cbq {
namespace {

template <class T>
struct SumChannels {
  const T* x;
  const int32_t* begins;
  const int32_t* channels;
  const float* factors;
  T* y;
  int64_t n;
  template <class Row>
  CBQ_HD void operator()(Row& row, int64_t r) const {
    using A = acc_t<T>;
    const T* in = x + r * n;
    T* out = y + r * n;
    for (int64_t j = row.lane(); j < n; j += row.lanes()) {
      A sum = 0;
      for (int32_t e = begins[j]; e < begins[j + 1]; ++e) {
        sum += A(factors[e]) * A(in[channels[e]]);
      }
      out[j] = T(sum);
    }
  }
};

}  // namespace

ChannelMap::ChannelMap(const std::vector<Source>& sources, Device device) : sources_(sources) {
  const auto n = static_cast<int64_t>(sources.size());
  std::vector<Source> transposed(sources.size());  // channels alone: factors differ within a row
  for (size_t j = 0; j < sources.size(); ++j) {
    const Source& source = sources[j];
    check(!source.channels.empty(), "channel map: channel ", j, " is made of nothing");
    check(std::isfinite(source.factor) && source.factor > 0.0,
          "channel map: the factor of channel ", j, " is ", source.factor);
    for (const int64_t c : source.channels) {
      check(c >= 0 && c < n, "channel map: channel ", j, " is made of channel ", c, " of ", n);
      transposed[static_cast<size_t>(c)].channels.push_back(static_cast<int64_t>(j));
    }
  }
  forward_ = make_sums(sources, device);
  backward_ = make_sums(transposed, device);
  std::vector<float> factors;
  for (const Source& row : transposed) {
    for (const int64_t j : row.channels) {
      factors.push_back(static_cast<float>(sources[static_cast<size_t>(j)].factor));
    }
  }
  backward_.factors = Tensor::from(factors, backward_.factors.shape(), Dtype::f32, device);
}

std::shared_ptr<const ChannelMap> ChannelMap::in_order(const std::vector<int64_t>& order,
                                                       Device device) {
  std::vector<Source> sources;
  for (const int64_t channel : order) sources.push_back({{channel}, 1.0});
  return std::make_shared<ChannelMap>(sources, device);
}

ChannelMap::Sums ChannelMap::make_sums(const std::vector<Source>& rows, Device device) {
  std::vector<int32_t> begins = {0}, channels;
  std::vector<float> factors;
  for (const Source& row : rows) {
    for (const int64_t c : row.channels) {
      channels.push_back(static_cast<int32_t>(c));
      factors.push_back(static_cast<float>(row.factor));
    }
    begins.push_back(static_cast<int32_t>(channels.size()));
  }
  const auto count = static_cast<int64_t>(channels.size());
  return {Tensor::from(begins, {static_cast<int64_t>(begins.size())}, Dtype::i32, device),
          Tensor::from(channels, {count}, Dtype::i32, device),
          Tensor::from(factors, {count}, Dtype::f32, device)};
}

Tensor ChannelMap::sums_of(const Tensor& x, const Sums& sums) {
  const auto [rows, n] = row_shape("channel_map", x);
  check(n == sums.begins.count() - 1, "channel map: ", sums.begins.count() - 1,
        " channels, and rows of ", n);
  Tensor y(x.shape(), x.dtype(), x.device());
  dispatch_float(x.dtype(), "channel_map", [&]<class T>() {
    map_rows("channel_map", x.device(), rows, n,
             SumChannels<T>{x.data<T>(), sums.begins.data<int32_t>(), sums.channels.data<int32_t>(),
                            sums.factors.data<float>(), y.data<T>(), n});
  });
  return y;
}

Tensor ChannelMap::weight_behind(const Tensor& w) const {
  std::vector<Source> plain = sources_;
  for (Source& source : plain) source.factor = 1.0;
  const Tensor wide = kernels::cast(w, Dtype::f64);
  return kernels::cast(sums_of(wide, make_sums(plain, w.device())), w.dtype());
}

nlohmann::json ChannelMap::record() const { return {{"sources", forward_.channels.count()}}; }

std::vector<std::pair<std::string, Tensor>> ChannelMap::tensors() const {
  std::vector<double> channels, counts, factors;
  for (const Source& source : sources_) {
    channels.insert(channels.end(), source.channels.begin(), source.channels.end());
    counts.push_back(static_cast<double>(source.channels.size()));
    factors.push_back(source.factor);
  }
  const auto n = static_cast<int64_t>(sources_.size());
  return {{"channels", Tensor::from(channels, {forward_.channels.count()}, Dtype::f32)},
          {"counts", Tensor::from(counts, {n}, Dtype::f32)},
          {"factors", Tensor::from(factors, {n}, Dtype::f32)}};
}

Var ChannelMap::apply(const Var& x) const {
  return differentiable(
      sums_of(x.value(), forward_), {&x},
      [x = x.gradient(), sums = backward_](const Tensor& dy) { x.accumulate(sums_of(dy, sums)); });
}

Tensor ChannelMap::folded_into(const Tensor& w) const {
  return sums_of(kernels::cast(w, Dtype::f64), backward_);
}

namespace {

class Reader : public StoredTransformReader {
 public:
  std::vector<std::pair<std::string, Shape>> shapes(const StoredRecord& record) const override {
    // A channel is copied, or merged with others: never both.
    const int64_t sources = json_int(json_at(record.json, "sources", record.what), "sources",
                                     record.what, record.width, 2 * record.width);
    return {{"channels", {sources}}, {"counts", {record.width}}, {"factors", {record.width}}};
  }

  std::shared_ptr<const StoredTransform> read(const StoredRecord& record,
                                              const std::function<Tensor(const std::string&)>& load,
                                              Device device) const override {
    const auto channels = load("channels").to_vector<double>();
    const auto counts = load("counts").to_vector<double>();
    const auto factors = load("factors").to_vector<double>();
    double total = 0.0;
    for (const double count : counts) {
      whole(count, 1.0, static_cast<double>(channels.size()), record);
      total += count;
    }
    if (total != static_cast<double>(channels.size())) damaged(record);
    std::vector<ChannelMap::Source> sources;
    size_t at = 0;
    for (size_t j = 0; j < counts.size(); ++j) {
      ChannelMap::Source& source = sources.emplace_back();
      source.factor = factors[j];
      if (!(factors[j] > 0.0) || !std::isfinite(factors[j])) damaged(record);
      for (double i = 0; i < counts[j]; ++i) {
        source.channels.push_back(
            whole(channels[at++], 0.0, static_cast<double>(record.width - 1), record));
      }
    }
    return std::make_shared<ChannelMap>(sources, device);
  }

 private:
  [[noreturn]] static void damaged(const StoredRecord& record) {
    fail(record.what,
         ": the stored map of channels is not valid; the file is damaged, quantize again");
  }
  static int64_t whole(double value, double low, double high, const StoredRecord& record) {
    if (!(value >= low && value <= high) || value != std::floor(value)) damaged(record);
    return static_cast<int64_t>(value);
  }
};

[[maybe_unused]] const bool registered =
    stored_transforms().add(ChannelMap::kind_name, [] { return std::make_unique<Reader>(); });

}  // namespace
}  // namespace cbq

// A map of channels as an online part of a model: order, copies and means.
#pragma once

#include <memory>
#include <vector>

#include "nn/stored_transform.h"

namespace cbq {

/// T(x)_j = f_j sum_{c in S_j} x_c for j = 0 ... n - 1: channel j behind the map is made of the
/// channels S_j in front of it.
///   an order:     S_j = {order_j}, f_j = 1           (reorder: RPTQ, Yuan et al. 2023)
///   a copy:       S_j = {c}, f_j = 1 / copies of c   (channel_assembly: QLLM, Liu et al. 2024)
///   a mean:       S_j = {a, b, ...}, f_j = 1 / |S_j| (likewise)
/// As many channels as before, so the shape of the weight behind it stays what it was.
class ChannelMap : public StoredTransform {
 public:
  /// What one channel is made of.
  struct Source {
    std::vector<int64_t> channels;  // S_j
    double factor = 1.0;            // f_j
  };

  /// Throws std::invalid_argument for an empty S_j, a channel that is not there, and a factor that
  /// is not positive and finite.
  ChannelMap(const std::vector<Source>& sources, Device device);
  /// T(x)_j = x_{order_j}.
  static std::shared_ptr<const ChannelMap> in_order(const std::vector<int64_t>& order,
                                                    Device device);

  /// W'[:, j] = sum_{c in S_j} W[:, c], W [out, n]: the weight behind the map. W' T(x) = W x for an
  /// order and for copies, and for means where the channels that are merged are equal.
  Tensor weight_behind(const Tensor& w) const;

  static constexpr const char* kind_name = "channel_map";
  std::string kind() const override { return kind_name; }
  /// "sources": how many channels all S_j name.
  nlohmann::json record() const override;
  /// "channels" [sources]: S_0, S_1, ... one after the other; "counts" [n]: |S_j|; "factors" [n].
  std::vector<std::pair<std::string, Tensor>> tensors() const override;
  Var apply(const Var& x) const override;
  Tensor folded_into(const Tensor& w) const override;

 private:
  /// y_j = sum_{e = begins_j}^{begins_{j+1} - 1} factors_e x_{channels_e}, a sparse matrix by rows.
  struct Sums {
    Tensor begins, channels;  // i32 [n + 1], [sources]
    Tensor factors;           // f32 [sources]
  };
  static Sums make_sums(const std::vector<Source>& rows, Device device);
  static Tensor sums_of(const Tensor& x, const Sums& sums);

  std::vector<Source> sources_;
  Sums forward_, backward_;  // T, T^T
};

}  // namespace cbq

#include "quant/transforms/hadamard_matrix.h"

#include <algorithm>
#include <string_view>
#include <vector>

#include "tensor/error.h"

namespace cbq {
namespace {

constexpr int64_t largest_order = 1024;

/// Entries +-1 of a square matrix.
class Signs {
 public:
  explicit Signs(int64_t order) : order_(order), values_(static_cast<size_t>(order * order), 1) {}
  int& operator()(int64_t i, int64_t j) { return values_[static_cast<size_t>(i * order_ + j)]; }
  int operator()(int64_t i, int64_t j) const {
    return values_[static_cast<size_t>(i * order_ + j)];
  }

 private:
  int64_t order_;
  std::vector<int> values_;
};

bool is_prime(int64_t n) {
  for (int64_t d = 2; d * d <= n; ++d) {
    if (n % d == 0) return false;
  }
  return n >= 2;
}

bool is_paley_one(int64_t order) { return order % 4 == 0 && is_prime(order - 1); }
bool is_paley_two(int64_t order) {
  const int64_t q = order / 2 - 1;
  return order % 4 == 0 && q % 4 == 1 && is_prime(q);
}

/// Quadratic characters modulo the prime q: 0 for 0, 1 for squares, -1 for all others.
std::vector<int> characters(int64_t q) {
  std::vector<int> chi(static_cast<size_t>(q), -1);
  for (int64_t x = 1; x < q; ++x) chi[static_cast<size_t>(x * x % q)] = 1;
  chi[0] = 0;
  return chi;
}

/// H = I + [[0, 1], [-1, Q]] with Q_ij = chi(i - j), which is antisymmetric for q = 3 mod 4.
Signs paley_one(int64_t order) {
  const int64_t q = order - 1;
  const std::vector<int> chi = characters(q);
  Signs h(order);
  for (int64_t i = 0; i < q; ++i) {
    h(i + 1, 0) = -1;
    for (int64_t j = 0; j < q; ++j) {
      h(i + 1, j + 1) = i == j ? 1 : chi[static_cast<size_t>((i - j + q) % q)];
    }
  }
  return h;
}

/// The conference matrix C = [[0, 1], [1, Q]], symmetric for q = 1 mod 4, with every entry c != 0
/// replaced by c [[1, 1], [1, -1]], and 0 by [[1, -1], [-1, -1]].
Signs paley_two(int64_t order) {
  const int64_t half = order / 2, q = half - 1;
  const std::vector<int> chi = characters(q);
  const auto conference = [&](int64_t i, int64_t j) {
    if (i == j) return 0;
    return i == 0 || j == 0 ? 1 : chi[static_cast<size_t>((i - j + q) % q)];
  };
  Signs h(order);
  for (int64_t i = 0; i < half; ++i) {
    for (int64_t j = 0; j < half; ++j) {
      const int c = conference(i, j);
      h(2 * i, 2 * j) = c == 0 ? 1 : c;
      h(2 * i, 2 * j + 1) = h(2 * i + 1, 2 * j) = c == 0 ? -1 : c;
      h(2 * i + 1, 2 * j + 1) = c == 0 ? -1 : -c;
    }
  }
  return h;
}

/// First rows of four symmetric circulant matrices A, B, C, D with A^2 + B^2 + C^2 + D^2 = 4 n I.
struct Williamson {
  int64_t n;
  std::string_view rows[4];
};
// For 43, rows that are constant on the classes of the multipliers 6 and -1.
constexpr Williamson williamson_rows[] = {
    {13, {"+--++++++++--", "+++-+-++-+-++", "+-++--++--++-", "+-+++----+++-"}},
    {23,
     {"+--+-+-++++++++++-+-+--", "+--++-+-+-++++-+-+-++--", "+++---++--++++--++---++",
      "+--+--+++------+++--+--"}},
    {25,
     {"+-++---++++++++++++---++-", "+-+---+---++++++---+---+-", "+-+--+-++--++++--++-+--+-",
      "++--+--++-+----+-++--+--+"}},
    {43,
     {"+---++--++++-+-+++-++--++-+++-+-++++--++---", "++---++++-+--+--++--------++--+--+-++++---+",
      "+++-+-++--+-+-++++-+----+-++++-+-+--++-+-++",
      "++-++++++----+-+--++-++-++--+-+----++++++-+"}},
};

const Williamson* find_williamson(int64_t order) {
  for (const Williamson& known : williamson_rows) {
    if (4 * known.n == order) return &known;
  }
  return nullptr;
}

/// [[A, B, C, D], [-B, A, -D, C], [-C, D, A, -B], [-D, -C, B, A]].
Signs williamson(const Williamson& w) {
  constexpr int which[4][4] = {{0, 1, 2, 3}, {1, 0, 3, 2}, {2, 3, 0, 1}, {3, 2, 1, 0}};
  constexpr int sign[4][4] = {{1, 1, 1, 1}, {-1, 1, -1, 1}, {-1, 1, 1, -1}, {-1, -1, 1, 1}};
  Signs h(4 * w.n);
  for (int64_t i = 0; i < 4 * w.n; ++i) {
    for (int64_t j = 0; j < 4 * w.n; ++j) {
      const auto a = static_cast<size_t>(i / w.n), b = static_cast<size_t>(j / w.n);
      const std::string_view row = w.rows[which[a][b]];
      h(i, j) = sign[a][b] * (row[static_cast<size_t>((j - i % w.n + w.n) % w.n)] == '+' ? 1 : -1);
    }
  }
  return h;
}

}  // namespace

bool has_hadamard_matrix(int64_t order) {
  if (order == 1 || order == 2) return true;
  return is_paley_one(order) || is_paley_two(order) || find_williamson(order) != nullptr;
}

Tensor hadamard_matrix(int64_t order) {
  check(has_hadamard_matrix(order), "no Hadamard matrix of order ", order, " is known here");
  Signs h(order);
  if (order == 2) {
    h(1, 1) = -1;
  } else if (is_paley_one(order)) {
    h = paley_one(order);
  } else if (is_paley_two(order)) {
    h = paley_two(order);
  } else if (const Williamson* known = find_williamson(order)) {
    h = williamson(*known);
  }
  const Tensor matrix({order, order}, Dtype::f32);
  for (int64_t i = 0; i < order; ++i) {
    for (int64_t j = 0; j < order; ++j) {
      matrix.data<float>()[i * order + j] = static_cast<float>(h(i, 0) * h(i, j));
    }
  }
  return matrix;
}

HadamardShape hadamard_shape(int64_t width) {
  check(width >= 1, "hadamard_shape: a row of ", width, " elements");
  HadamardShape best;
  for (int64_t order = 1; order <= std::min(width, largest_order); ++order) {
    if (width % order != 0 || !has_hadamard_matrix(order)) continue;
    int64_t block = order;
    while (width % (2 * block) == 0) block *= 2;
    if (block > best.block) best = {block, order};
  }
  return best;
}

}  // namespace cbq

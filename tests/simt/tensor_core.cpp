// Instructions of tensor cores and asynchronous copies, written from the layouts that the PTX ISA
// gives for them; kernels/attention/tensor_core.h repeats the layouts and names the sections.
#include <algorithm>

#include "tensor/dtype.h"
#include "tensor/error.h"
#include "tests/simt/simt.h"

namespace cbq::simt {
namespace {

float low(uint64_t pair) { return detail::float_of(static_cast<uint32_t>(pair) << 16); }
float high(uint64_t pair) { return detail::float_of(static_cast<uint32_t>(pair) & 0xffff0000u); }

uint64_t two(uint32_t first, uint32_t second) {
  return first | static_cast<uint64_t>(second) << 32;
}

}  // namespace

// Lane l: group l / 4, place p = l % 4. It holds of A the rows group (registers 0 and 2) and
// group + 8 (1 and 3) at columns 2p, 2p + 1 (0 and 1) and 8 further (2 and 3); of B the column
// group at rows 2p, 2p + 1 (register 0) and 8 further (1); of C rows group (0 and 1) and group + 8
// at columns 2p, 2p + 1.
void multiply_16x8x16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, Site site) {
  const Words* all = gather({{two(a[0], a[1]), two(a[2], a[3]), two(b0, b1)}}, site);
  const unsigned group = lane() / 4, place = lane() % 4;
  for (unsigned p = 0; p < 4; ++p) {
    const Words& rows = all[4 * group + p];
    for (unsigned half = 0; half < 2; ++half) {  // columns of A and rows of B: 8 half + 2p, + 1
      const uint64_t upper = rows.x[half], lower = upper >> 32;
      for (unsigned j = 0; j < 2; ++j) {  // columns of B and C: 2 place + j
        const uint64_t b = all[4 * (2 * place + j) + p].x[2] >> (32 * half);
        c[j] += low(upper) * low(b) + high(upper) * high(b);
        c[2 + j] += low(lower) * low(b) + high(lower) * high(b);
      }
    }
  }
}

// Lane 8 m + r says where row r of matrix m lies: 8 elements of 16 bits. Register m of lane l gets
// the elements 2p, 2p + 1 of row l / 4, p = l % 4; transposed: of column l / 4.
void load_four_matrices(uint32_t (&to)[4], const void* row, bool transposed, Site site) {
  const auto address = reinterpret_cast<uintptr_t>(row);
  check(address % 16 == 0, site.file, ":", site.line, ": a row of a matrix begins at ", address,
        ", which 16 does not divide");
  const Words* all = gather({{address, 0, 0}}, site);
  const unsigned line = lane() / 4, pair = lane() % 4 * 2;
  for (unsigned m = 0; m < 4; ++m) {
    const auto at = [&](unsigned r, unsigned column) -> uint32_t {
      return reinterpret_cast<const uint16_t*>(all[8 * m + r].x[0])[column];
    };
    to[m] = transposed ? at(pair, line) | at(pair + 1, line) << 16
                       : at(line, pair) | at(line, pair + 1) << 16;
  }
}

namespace {

void finish(const AsyncCopies::Copy& copy) {
  if (copy.from == nullptr) {
    std::memset(copy.to, 0, static_cast<size_t>(copy.bytes));
  } else {
    std::memcpy(copy.to, copy.from, static_cast<size_t>(copy.bytes));
  }
}

}  // namespace

void copy_async(void* to, const void* from, int bytes, Site site) {
  const auto size = static_cast<uintptr_t>(bytes);
  check(
      reinterpret_cast<uintptr_t>(to) % size == 0 && reinterpret_cast<uintptr_t>(from) % size == 0,
      site.file, ":", site.line, ": a copy of ", bytes, " bytes between addresses that ", bytes,
      " does not divide");
  AsyncCopies& copies = async_copies();
  if (copies.at_once) {
    finish({to, from, bytes});
  } else {
    copies.open.push_back({to, from, bytes});
  }
}

void commit_copies() {
  AsyncCopies& copies = async_copies();
  copies.groups.push_back(std::move(copies.open));
  copies.open.clear();
}

void wait_copies(int pending) {
  auto& groups = async_copies().groups;
  while (static_cast<int>(groups.size()) > pending) {
    for (const AsyncCopies::Copy& copy : groups.front()) finish(copy);
    groups.erase(groups.begin());
  }
}

}  // namespace cbq::simt

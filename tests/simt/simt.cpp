#include "tests/simt/simt.h"

#include <algorithm>
#include <exception>
#include <memory>
#include <mutex>
#include <new>
#include <vector>

#include "tensor/error.h"

// This file is compiled without the sanitizer of cbq_simt_races: what the machine itself shares
// between fibers is no race of the kernel's.
#ifdef CBQ_SIMT_RACES
extern "C" {
void* __tsan_get_current_fiber();
void* __tsan_create_fiber(unsigned flags);
void __tsan_switch_to_fiber(void* fiber, unsigned flags);
void __tsan_acquire(void* at);
void __tsan_release(void* at);
}
#endif
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif

// Puts the callee-saved registers on the stack, notes the stack in *from, goes on with the stack
// `to`. (swapcontext does this too, and asks the system for the signal mask: twenty times slower.)
extern "C" void cbq_simt_switch(void** from, void* to);
asm(R"(
  .text
  .type cbq_simt_switch, @function
cbq_simt_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
  .size cbq_simt_switch, . - cbq_simt_switch
)");

namespace cbq::simt {
namespace {

constexpr unsigned warp_size = 32, largest_block = 1024;
constexpr int64_t largest_shared = 227 * 1024;  // of a block, compute capability 9.0
constexpr size_t stack_bytes = 256 * 1024;

enum class State { ready, at_barrier, in_warp, returned };

struct Fiber {
  std::unique_ptr<char[]> stack;
  void* at = nullptr;  // its stack pointer while another runs
  unsigned thread = 0;
  State state = State::returned;
  Site site{"", 0};
  unsigned exchanges = 0;
  void* race_fiber = nullptr;
  AsyncCopies copies;
};

// A lane may be one exchange ahead of another, never two: two sets of values suffice.
struct Warp {
  Words values[2][warp_size];
  char barrier = 0;  // as Machine's, for __syncwarp
};

constexpr std::align_val_t shared_alignment{128};
struct FreeShared {
  void operator()(char* p) const { ::operator delete[](p, shared_alignment); }
};

class Machine {
 public:
  void run(int64_t grid, int block, int64_t shared_bytes, const std::function<void()>& body);
  void wait(State state, Site site);
  const Words* exchange(uint32_t mask, const Words& mine, Site site);
  void warp_barrier(Site site);
  Fiber* current() { return current_; }
  void* shared() { return shared_.get(); }

  std::mutex mutex;
  int64_t launches = 0;
  const InOrder::Order* order = nullptr;

 private:
  static void enter();
  void live();
  void run_block(unsigned block, bool reverse);
  void step(Fiber& fiber);
  void leave();
  bool release_warp(unsigned first, unsigned last);
  void run_warp(unsigned first, unsigned last, bool reverse);
  bool release_block(unsigned block);
  std::string who_waits(unsigned block) const;
  void make_fibers(unsigned block);
  void make_shared(int64_t bytes);
  // What one thread did before release(point), another sees after acquire(point).
  static void release(char&point), acquire(char&point);

  std::vector<std::unique_ptr<Fiber>> fibers_;
  std::vector<Warp> warps_;
  std::unique_ptr<char[], FreeShared> shared_;
  size_t shared_bytes_ = 0;
  void* host_ = nullptr;
  const void* host_stack_ = nullptr;
  size_t host_stack_bytes_ = 0;
  void* host_race_fiber_ = nullptr;
  Fiber* current_ = nullptr;
  const std::function<void()>* body_ = nullptr;
  std::exception_ptr thrown_;
  // Their addresses are ThreadSanitizer's points. A thread that has returned orders nothing for
  // those of its block that start later: on a GPU they may have run before it.
  char block_begins_ = 0, barrier_ = 0, block_ends_ = 0;
};

Machine& machine() {
  static auto* instance = new Machine;  // its fibers never end
  return *instance;
}

// ---- switching --------------------------------------------------------------------------------

void Machine::step(Fiber& fiber) {
  current_ = &fiber;
  threadIdx = {fiber.thread, 0, 0};
#ifdef CBQ_SIMT_RACES
  __tsan_switch_to_fiber(fiber.race_fiber, 1);  // 1: the switch orders nothing
#endif
#ifdef __SANITIZE_ADDRESS__
  void* fake = nullptr;
  __sanitizer_start_switch_fiber(&fake, fiber.stack.get(), stack_bytes);
#endif
  cbq_simt_switch(&host_, fiber.at);
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
  current_ = nullptr;
}

void Machine::leave() {
  Fiber& fiber = *current_;
#ifdef CBQ_SIMT_RACES
  __tsan_switch_to_fiber(host_race_fiber_, 1);
#endif
#ifdef __SANITIZE_ADDRESS__
  void* fake = nullptr;
  __sanitizer_start_switch_fiber(&fake, host_stack_, host_stack_bytes_);
#endif
  cbq_simt_switch(&fiber.at, host_);
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(fake, &host_stack_, &host_stack_bytes_);
#endif
}

void Machine::enter() { machine().live(); }

void Machine::live() {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(nullptr, &host_stack_, &host_stack_bytes_);
#endif
  for (;;) {
    try {
      acquire(block_begins_);
      (*body_)();
      if (!current_->copies.open.empty() || !current_->copies.groups.empty())
        fail("simt: a thread returned without waiting for its asynchronous copies");
    } catch (...) {
      thrown_ = std::current_exception();
    }
    release(block_ends_);
    current_->state = State::returned;
    leave();
  }
}

void Machine::release([[maybe_unused]] char& point) {
#ifdef CBQ_SIMT_RACES
  __tsan_release(&point);
#endif
}
void Machine::acquire([[maybe_unused]] char& point) {
#ifdef CBQ_SIMT_RACES
  __tsan_acquire(&point);
#endif
}

void Machine::make_fibers(unsigned block) {
  while (fibers_.size() < block) {
    auto fiber = std::make_unique<Fiber>();
    fiber->stack = std::make_unique_for_overwrite<char[]>(stack_bytes);
    fiber->thread = static_cast<unsigned>(fibers_.size());
    // As if `enter` had been called from nowhere: its address for `ret`, six registers below.
    const auto end = reinterpret_cast<std::uintptr_t>(fiber->stack.get() + stack_bytes);
    auto** top = reinterpret_cast<void**>(end / 16 * 16);
    std::fill(top - 8, top, nullptr);
    top[-2] = reinterpret_cast<void*>(&Machine::enter);
    fiber->at = top - 8;
#ifdef CBQ_SIMT_RACES
    fiber->race_fiber = __tsan_create_fiber(0);
#endif
    fibers_.push_back(std::move(fiber));
  }
  warps_.resize((fibers_.size() + warp_size - 1) / warp_size);
}

// ---- waiting ----------------------------------------------------------------------------------

void Machine::wait(State state, Site site) {
  current_->state = state;
  current_->site = site;
  const bool orders = state == State::at_barrier;
  if (orders) release(barrier_);
  leave();
  if (orders) acquire(barrier_);
}

const Words* Machine::exchange(uint32_t mask, const Words& mine, Site site) {
  Fiber& me = *current_;
  const unsigned lane = me.thread % warp_size;
  if (mask != 0xffffffffu || me.thread / warp_size * warp_size + warp_size > blockDim.x) {
    fail(site.file, ":", site.line, ": a shuffle needs all 32 lanes; mask ", mask, ", ", blockDim.x,
         " threads in the block");
  }
  Words* values = warps_[me.thread / warp_size].values[me.exchanges++ % 2];
  values[lane] = mine;
  wait(State::in_warp, site);
  return values;
}

void Machine::warp_barrier(Site site) {
  char& point = warps_[current_->thread / warp_size].barrier;
  release(point);
  exchange(0xffffffffu, {}, site);
  acquire(point);
}

bool same(Site a, Site b) {
  return a.line == b.line && (a.file == b.file || std::strcmp(a.file, b.file) == 0);
}

bool Machine::release_warp(unsigned first, unsigned last) {
  for (unsigned t = first; t < last; ++t) {
    if (fibers_[t]->state != State::in_warp) return false;
    if (!same(fibers_[t]->site, fibers_[first]->site)) return false;
  }
  for (unsigned t = first; t < last; ++t) fibers_[t]->state = State::ready;
  return true;
}

bool Machine::release_block(unsigned block) {
  for (unsigned t = 0; t < block; ++t) {
    if (fibers_[t]->state != State::at_barrier) return false;
    if (!same(fibers_[t]->site, fibers_[0]->site)) return false;
  }
  for (unsigned t = 0; t < block; ++t) fibers_[t]->state = State::ready;
  return true;
}

std::string Machine::who_waits(unsigned block) const {
  std::string text = concat("block ", blockIdx.x, " waits for ever:");
  for (unsigned t = 0; t < block; ++t) {
    const Fiber& f = *fibers_[t];
    const bool returned = f.state == State::returned;
    const bool repeats = t > 0 && t + 1 < block && f.state == fibers_[t - 1]->state &&
                         (returned || same(f.site, fibers_[t - 1]->site));
    if (repeats) continue;  // ranges of threads: their first, and the last of all
    text += concat(" thread ", t, returned ? " has returned;" : " is at ");
    if (!returned) text += concat(f.site.file, ":", f.site.line, ";");
  }
  return text;
}

// ---- a grid -----------------------------------------------------------------------------------

// As far as it gets by itself: ahead of the other warps, so that what it overwrites too early is
// missed by them.
void Machine::run_warp(unsigned first, unsigned last, bool reverse) {
  do {
    for (unsigned i = first; i < last && !thrown_; ++i) {
      Fiber& fiber = *fibers_[reverse ? last - 1 - (i - first) : i];
      if (fiber.state == State::ready) step(fiber);
    }
  } while (!thrown_ && release_warp(first, last));
}

void Machine::run_block(unsigned block, bool reverse) {
  for (unsigned t = 0; t < block; ++t) {
    fibers_[t]->state = State::ready;
    fibers_[t]->exchanges = 0;
  }
  const unsigned warps = (block + warp_size - 1) / warp_size;
  do {
    for (unsigned i = 0; i < warps; ++i) {
      const unsigned first = (reverse ? warps - 1 - i : i) * warp_size;
      run_warp(first, std::min(first + warp_size, block), reverse);
      if (thrown_) return;
    }
  } while (release_block(block));
  for (unsigned t = 0; t < block; ++t) {
    if (fibers_[t]->state != State::returned) {
      thrown_ = std::make_exception_ptr(std::runtime_error(who_waits(block)));
      return;
    }
  }
}

void Machine::make_shared(int64_t bytes) {
  shared_bytes_ = static_cast<size_t>(bytes);
  shared_.reset(static_cast<char*>(::operator new[](shared_bytes_, shared_alignment)));
}

void Machine::run(int64_t grid, int block, int64_t shared_bytes,
                  const std::function<void()>& body) {
  check(shared_bytes >= 0 && shared_bytes <= largest_shared, "simt: ", shared_bytes,
        " bytes of shared memory for a block");
  check(grid >= 1 && grid < (int64_t{1} << 31) && block >= 1 &&
            block <= static_cast<int>(largest_block),
        "simt: a grid of ", grid, " blocks of ", block, " threads");
  const auto threads = static_cast<unsigned>(block);
  make_fibers(threads);
  make_shared(shared_bytes);
  const bool reverse = order != nullptr ? *order == InOrder::Order::reverse : launches % 2 == 1;
  ++launches;
  body_ = &body;
  thrown_ = nullptr;
  for (auto& fiber : fibers_) fiber->copies = {{}, {}, reverse};
#ifdef CBQ_SIMT_RACES
  host_race_fiber_ = __tsan_get_current_fiber();
#endif
  const auto blocks = static_cast<unsigned>(grid);
  gridDim = {blocks, 1, 1};
  blockDim = {threads, 1, 1};
  for (unsigned b = 0; b < blocks && !thrown_; ++b) {
    blockIdx = {reverse ? blocks - 1 - b : b, 0, 0};
    std::memset(shared_.get(), 0xff, shared_bytes_);
    release(block_begins_);
    run_block(threads, reverse);
    acquire(block_ends_);
  }
  if (thrown_) {
    for (auto& fiber : fibers_) static_cast<void>(fiber.release());  // they hang in their kernels
    fibers_.clear();
    std::rethrow_exception(thrown_);
  }
}

bool emulation = true;
InOrder::Order fixed_order = InOrder::Order::forward;

}  // namespace

void launch(int64_t grid, int block, const std::function<void()>& body) {
  launch(grid, block, 0, body);
}
void launch(int64_t grid, int block, int64_t shared_bytes, const std::function<void()>& body) {
  const std::lock_guard lock(machine().mutex);
  machine().run(grid, block, shared_bytes, body);
}
int64_t launches() { return machine().launches; }

bool emulating() { return emulation; }
OnTheHost::OnTheHost() : before_(emulation) { emulation = false; }
OnTheHost::~OnTheHost() { emulation = before_; }

InOrder::InOrder(Order order) {
  fixed_order = order;
  machine().order = &fixed_order;
}
InOrder::~InOrder() { machine().order = nullptr; }

void barrier(Site site) { machine().wait(State::at_barrier, site); }
void warp_barrier(Site site) { machine().warp_barrier(site); }
uint64_t exchange(uint32_t mask, uint64_t bits, unsigned source, Site site) {
  return machine().exchange(mask, {{bits, 0, 0}}, site)[source % warp_size].x[0];
}
const Words* gather(const Words& mine, Site site) {
  return machine().exchange(0xffffffffu, mine, site);
}
void* dynamic_shared() { return machine().shared(); }
AsyncCopies& async_copies() { return machine().current()->copies; }
unsigned lane() { return machine().current()->thread % warp_size; }

}  // namespace cbq::simt

#include "kernels/matmul/blas.h"

#include <cblas.h>
#include <dlfcn.h>
#include <omp.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "tensor/error.h"
#include "tensor/runtime/notice.h"

namespace cbq::kernels::blas {
namespace {

// Measured with Debian's 0.3.21: the library itself 38 MiB, and what the header tells.
constexpr size_t library_bytes = size_t{48} << 20;
constexpr size_t buffer_bytes = size_t{128} << 20;
// Left to the program, which would run out of memory next otherwise.
constexpr size_t spare_bytes = size_t{64} << 20;
// The table of buffers inside OpenBLAS has 256 entries, and it ends the program beyond them.
constexpr int most_buffers = 128;

struct Library {
  decltype(&cblas_sgemm) sgemm = nullptr;
  decltype(&cblas_dgemm) dgemm = nullptr;
  decltype(&openblas_get_corename) kernel_name = nullptr;
  decltype(&openblas_get_config) configuration = nullptr;
  // Neither is in cblas.h, but both are exported.
  void* (*take_buffer)(int) = nullptr;
  void (*give_buffer)(void*) = nullptr;
};

Library library;
std::atomic<int> buffers{0};  // products that may run at the same time; 0: not loaded
std::mutex loading;

/// Whether so much can be mapped now. A trial asks the kernel about all of its limits at once.
bool has_room(size_t bytes) {
  void* at = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED) return false;
  ::munmap(at, bytes);
  return true;
}

size_t stack_bytes() {
  rlimit stack{};
  constexpr rlim_t usual = rlim_t{8} << 20, large = rlim_t{1} << 30;
  if (::getrlimit(RLIMIT_STACK, &stack) != 0 || stack.rlim_cur > large) return usual;
  return stack.rlim_cur;
}

/// Room for `more` further products at a time, each on a thread that may not have been started yet.
size_t room_for(int more) {
  const size_t fixed = buffers == 0 ? library_bytes + buffer_bytes + spare_bytes : spare_bytes;
  return fixed + static_cast<size_t>(more) * (buffer_bytes + stack_bytes());
}

/// OpenBLAS reads the variable while it is loaded; libgomp has read it long before.
class OneThreadOfItsOwn {
 public:
  OneThreadOfItsOwn() {
    if (const char* value = std::getenv(name)) before_ = value;
    ::setenv(name, "1", 1);
  }
  ~OneThreadOfItsOwn() {
    if (before_) {
      ::setenv(name, before_->c_str(), 1);
    } else {
      ::unsetenv(name);
    }
  }
  OneThreadOfItsOwn(const OneThreadOfItsOwn&) = delete;
  OneThreadOfItsOwn& operator=(const OneThreadOfItsOwn&) = delete;

 private:
  static constexpr const char* name = "OMP_NUM_THREADS";
  std::optional<std::string> before_;
};

template <class Function>
void find(void* handle, const char* name, Function& function) {
  function = reinterpret_cast<Function>(::dlsym(handle, name));
  if (function == nullptr) {
    fail("OpenBLAS has no function ", name, "; install libopenblas0-openmp of Debian 12 or newer");
  }
}

void open_library() {
  const OneThreadOfItsOwn one;
  void* handle = nullptr;
  std::string reasons;
  for (const char* file : {CBQ_OPENBLAS, "libopenblas.so.0"}) {
    handle = ::dlopen(file, RTLD_NOW | RTLD_LOCAL);
    if (handle != nullptr) break;
    reasons += concat(reasons.empty() ? "" : "; ", ::dlerror());
  }
  if (handle == nullptr) {
    fail("cannot load OpenBLAS: ", reasons, "; install the package libopenblas0-openmp");
  }
  find(handle, "cblas_sgemm", library.sgemm);
  find(handle, "cblas_dgemm", library.dgemm);
  find(handle, "openblas_get_corename", library.kernel_name);
  find(handle, "openblas_get_config", library.configuration);
  find(handle, "blas_memory_alloc", library.take_buffer);
  find(handle, "blas_memory_free", library.give_buffer);
  const std::string configuration = library.configuration();
  if (configuration.find("USE_OPENMP") == std::string::npos) {
    notice_once(concat("warning: the OpenBLAS that was found is not built for OpenMP (",
                       configuration, "), which may be slow; install libopenblas0-openmp"));
  }
}

/// OpenBLAS keeps a buffer once it has mapped it.
void map_buffers(int count) {
  std::vector<void*> taken;
  for (int i = 0; i < count; ++i) taken.push_back(library.take_buffer(0));
  for (void* buffer : taken) library.give_buffer(buffer);
}

void load_for(int threads) {
  const std::lock_guard lock(loading);
  const int before = buffers;
  if (before >= threads) return;
  int more = threads - before;
  while (more > 0 && !has_room(room_for(more))) --more;
  if (before + more == 0) {
    fail("no room for a matrix product: OpenBLAS needs ", room_for(1) >> 20,
         " MiB of address space; raise the limit (ulimit -v, ulimit -d), or allow more overcommit");
  }
  if (before == 0) open_library();
  map_buffers(before + more);
  if (before + more < threads) {
    notice_once(
        concat(before + more, " threads instead of ", threads,
               ": the address space (ulimit -v, ulimit -d) has no room for more; each needs ",
               (buffer_bytes + stack_bytes()) >> 20, " MiB"));
    omp_set_num_threads(before + more);
  }
  buffers = before + more;
}

}  // namespace

void load() {
  const int wanted = omp_get_max_threads(), threads = std::min(wanted, most_buffers);
  if (wanted > threads) {
    notice_once(concat(threads, " threads instead of ", wanted,
                       ": OpenBLAS has no room for more products at a time"));
    omp_set_num_threads(threads);
  }
  if (buffers < threads) load_for(threads);
}

std::string library_name() {
  load();
  return concat(library.kernel_name(), ", ", library.configuration());
}

void gemm(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, double alpha,
          const float* a, int64_t lda, const float* b, int64_t ldb, double beta, float* c,
          int64_t ldc) {
  library.sgemm(CblasRowMajor, transpose_a ? CblasTrans : CblasNoTrans,
                transpose_b ? CblasTrans : CblasNoTrans, static_cast<int>(m), static_cast<int>(n),
                static_cast<int>(k), static_cast<float>(alpha), a, static_cast<int>(lda), b,
                static_cast<int>(ldb), static_cast<float>(beta), c, static_cast<int>(ldc));
}

void gemm(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, double alpha,
          const double* a, int64_t lda, const double* b, int64_t ldb, double beta, double* c,
          int64_t ldc) {
  library.dgemm(CblasRowMajor, transpose_a ? CblasTrans : CblasNoTrans,
                transpose_b ? CblasTrans : CblasNoTrans, static_cast<int>(m), static_cast<int>(n),
                static_cast<int>(k), alpha, a, static_cast<int>(lda), b, static_cast<int>(ldb),
                beta, c, static_cast<int>(ldc));
}

}  // namespace cbq::kernels::blas

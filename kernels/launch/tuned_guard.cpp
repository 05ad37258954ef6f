#include "kernels/launch/tuned_guard.h"

#include <cmath>
#include <exception>
#include <limits>
#include <map>
#include <mutex>
#include <new>
#include <utility>

#include "kernels/launch/tuned_switch.h"
#include "tensor/error.h"
#include "tensor/runtime/notice.h"

namespace cbq::tuned {
namespace {

std::map<std::string, GuardedKernel>& kernels_by_name() {
  static std::map<std::string, GuardedKernel> kernels;
  return kernels;
}

// Recursive: a comparison runs tuned kernels, which ask trusted() in the same thread.
std::recursive_mutex& guard_mutex() {
  static std::recursive_mutex mutex;
  return mutex;
}

using Place = std::pair<std::string, std::string>;  // name of the device, name of the kernel

std::map<Place, Agreement>& agreements() {
  static std::map<Place, Agreement> all;
  return all;
}

thread_local bool comparing = false;

/// While it lives, trusted() is true in this thread, and launches are not counted.
class Comparison {
 public:
  Comparison() { comparing = true; }
  ~Comparison() { comparing = false; }
  Comparison(const Comparison&) = delete;
  Comparison& operator=(const Comparison&) = delete;

 private:
  const UncountedLaunches uncounted_;
};

Agreement compare(const GuardedKernel& kernel, Device device) {
  Agreement found{kernel.name, 0.0, kernel.tolerance, ""};
  const Comparison comparison;
  try {
    found.difference = kernel.difference(device);
  } catch (const std::bad_alloc&) {
    throw;  // says nothing of the kernel
  } catch (const std::exception& e) {
    found.difference = std::numeric_limits<double>::quiet_NaN();
    found.error = e.what();
  }
  return found;
}

void tell(const Agreement& found, Device device) {
  const std::string what =
      found.error.empty()
          ? concat("differs from its reference kernel by ", found.difference, ", where ",
                   found.tolerance, " is allowed")
          : concat("cannot be compared with its reference kernel (", found.error, ")");
  notice_once(concat("warning: on ", name_of(device), " the tuned kernel '", found.kernel, "' ",
                     what,
                     ". Its reference kernel runs instead: results are right, steps take longer. "
                     "'cbq check-device' lists all tuned kernels; please report its table."));
}

const Agreement& agreement_of(const GuardedKernel& kernel, Device device) {
  const Place place{name_of(device), kernel.name};
  const auto found = agreements().find(place);
  if (found != agreements().end()) return found->second;
  const Agreement& fresh = agreements()[place] = compare(kernel, device);
  if (!fresh.holds()) tell(fresh, device);
  return fresh;
}

}  // namespace

bool guard(GuardedKernel kernel) {
  const std::string name = kernel.name;
  check(kernels_by_name().emplace(name, std::move(kernel)).second, "tuned kernel '", name,
        "' is guarded twice");
  return true;
}

std::vector<std::string> guarded_kernels() {
  std::vector<std::string> names;
  for (const auto& [name, kernel] : kernels_by_name()) names.push_back(name);
  return names;
}

bool trusted(const std::string& kernel, Device device) {
  if (comparing) return true;
  const std::lock_guard lock(guard_mutex());
  const auto found = kernels_by_name().find(kernel);
  check(found != kernels_by_name().end(), "tuned kernel '", kernel, "' has no guard");
  return agreement_of(found->second, device).holds();
}

std::vector<Agreement> compare_all(Device device) {
  const std::lock_guard lock(guard_mutex());
  std::vector<Agreement> all;
  for (const auto& [name, kernel] : kernels_by_name()) all.push_back(agreement_of(kernel, device));
  return all;
}

void set_agreement(const Agreement& agreement, Device device) {
  const std::lock_guard lock(guard_mutex());
  agreements()[{name_of(device), agreement.kernel}] = agreement;
}

double relative_difference(const Tensor& tuned, const Tensor& reference) {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  if (!tuned.defined() && !reference.defined()) return 0.0;
  if (tuned.defined() != reference.defined() || tuned.shape() != reference.shape()) return infinity;
  const auto a = tuned.to_vector<double>(), b = reference.to_vector<double>();
  double errors = 0.0, squares = 0.0;
  for (size_t i = 0; i < a.size(); ++i) {
    errors += (a[i] - b[i]) * (a[i] - b[i]);
    squares += b[i] * b[i];
  }
  if (errors == 0.0) return 0.0;
  return std::sqrt(errors / squares);
}

}  // namespace cbq::tuned

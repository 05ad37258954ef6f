#include "tensor/runtime/device_memory.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "tensor/runtime/stream.h"

namespace cbq {
namespace {

constexpr int64_t unlimited = std::numeric_limits<int64_t>::max();

/// The number behind `key` in a file of "key number" lines; nothing where there is none.
std::optional<int64_t> number_in(const std::filesystem::path& file, const std::string& key) {
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);) {
    if (!line.starts_with(key)) continue;
    try {
      return std::stoll(line.substr(key.size()));
    } catch (const std::exception&) {
      return std::nullopt;
    }
  }
  return std::nullopt;
}

int64_t kibibytes_in(const char* file, const char* key, int64_t otherwise) {
  const std::optional<int64_t> number = number_in(file, key);
  return number ? *number * 1024 : otherwise;
}

/// What is left below `limit`, of which `used` is taken.
int64_t left_of(rlim_t limit, int64_t used) {
  if (limit == RLIM_INFINITY || limit > static_cast<rlim_t>(unlimited)) return unlimited;
  return std::max<int64_t>(0, static_cast<int64_t>(limit) - used);
}

int64_t least_process_limit() {
  int64_t least = unlimited;
  for (const auto resource : {RLIMIT_AS, RLIMIT_DATA}) {
    rlimit limit{};
    if (::getrlimit(resource, &limit) == 0) least = std::min(least, left_of(limit.rlim_cur, 0));
  }
  return least;
}

int64_t left_of_process_limits() {
  const char* status = "/proc/self/status";
  int64_t left = unlimited;
  rlimit limit{};
  if (::getrlimit(RLIMIT_AS, &limit) == 0) {
    left = std::min(left, left_of(limit.rlim_cur, kibibytes_in(status, "VmSize:", 0)));
  }
  if (::getrlimit(RLIMIT_DATA, &limit) == 0) {
    left = std::min(left, left_of(limit.rlim_cur, kibibytes_in(status, "VmData:", 0)));
  }
  return left;
}

/// Folders of the process's control group (version 2) and of those around it.
std::vector<std::filesystem::path> control_groups() {
  std::ifstream groups("/proc/self/cgroup");
  std::string path;
  for (std::string line; std::getline(groups, line);) {
    if (line.starts_with("0::/")) path = line.substr(4);
  }
  const std::filesystem::path root = "/sys/fs/cgroup";
  std::vector<std::filesystem::path> all;
  for (std::filesystem::path at = root / path;; at = at.parent_path()) {
    all.push_back(at);
    if (at == root || !at.has_relative_path()) return all;
  }
}

/// "max": no number.
std::optional<int64_t> limit_of(const std::filesystem::path& control_group) {
  return number_in(control_group / "memory.max", "");
}

int64_t least_limit_of_control_groups() {
  int64_t least = unlimited;
  for (const auto& group : control_groups()) {
    least = std::min(least, limit_of(group).value_or(unlimited));
  }
  return least;
}

/// Files that were only read count as used, but make room when it is needed.
int64_t left_of_control_groups() {
  int64_t left = unlimited;
  for (const auto& group : control_groups()) {
    const std::optional<int64_t> most = limit_of(group);
    const std::optional<int64_t> used = number_in(group / "memory.current", "");
    if (most && used) {
      const int64_t files = number_in(group / "memory.stat", "inactive_file ").value_or(0);
      left = std::min(left, std::max<int64_t>(0, *most - *used + files));
    }
  }
  return left;
}

#ifdef CBQ_CUDA
DeviceMemory cuda_memory(int index) {
  int before = 0;
  size_t free = 0, total = 0;
  cudaError_t status = cudaGetDevice(&before);
  if (status == cudaSuccess && before != index) status = cudaSetDevice(index);
  if (status == cudaSuccess) status = cudaMemGetInfo(&free, &total);  // of the current device
  if (before != index) cudaSetDevice(before);
  if (status == cudaSuccess) return {static_cast<int64_t>(free), static_cast<int64_t>(total)};
  cudaGetLastError();
  return {};
}
#endif

}  // namespace

DeviceMemory device_memory(Device device) {
#ifdef CBQ_CUDA
  if (device.is_cuda()) return cuda_memory(device.index);
#else
  if (device != Device::cpu()) return {};
#endif
  const auto page = static_cast<int64_t>(::sysconf(_SC_PAGESIZE));
  const int64_t total = page * static_cast<int64_t>(::sysconf(_SC_PHYS_PAGES));
  return {std::min({kibibytes_in("/proc/meminfo", "MemAvailable:", total), left_of_process_limits(),
                    left_of_control_groups()}),
          total};
}

int64_t memory_limit(Device device) {
  const int64_t total = device_memory(device).total;
  if (device != Device::cpu()) return total;
  return std::min({total, least_process_limit(), least_limit_of_control_groups()});
}

int64_t peak_resident_bytes() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  return int64_t{usage.ru_maxrss} * 1024;
}

}  // namespace cbq

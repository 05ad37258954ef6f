// Parsers with a fault each, for the tests of the harness (tests/test_fuzz.cpp). Every input but
// the seed, which is "good", shows it.
#include <chrono>
#include <cstdlib>
#include <memory>
#include <thread>

#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/limits.h"

namespace fs = std::filesystem;

namespace cbq::fuzz {
namespace {

volatile size_t sink = 0;

bool add_fault(const std::string& name, const std::function<void(const fs::path&)>& fault) {
  return add_target({.name = "self_" + name,
                     .format = Format::text,
                     .file = "input.txt",
                     .seeds = [](const fs::path& f) { write_seed(f, 0, "input.txt", "good"); },
                     .run =
                         [fault](const fs::path& file) {
                           if (read_bytes(file) != "good") fault(file);
                         },
                     .names = {},
                     .damage = {}});
}

const bool crash = add_fault("crash", [](const fs::path&) { std::abort(); });
const bool hang = add_fault("hang", [](const fs::path&) {
  while (true) sink = sink + 1;
});
const bool wait =
    add_fault("wait", [](const fs::path&) { std::this_thread::sleep_for(std::chrono::hours(1)); });
const bool memory = add_fault("memory", [](const fs::path&) {
  std::vector<char> large(size_t{3} << 30, 'a');
  sink = sink + static_cast<size_t>(large[large.size() / 2]);
});
const bool out_of_range = add_fault(
    "out_of_range", [](const fs::path& file) { throw std::out_of_range(file.string() + ": at"); });
const bool unnamed =
    add_fault("unnamed", [](const fs::path&) { throw std::runtime_error("something is wrong"); });
const bool number = add_fault("number", [](const fs::path&) { throw 42; });
const bool overrun = add_fault("overrun", [](const fs::path&) {
  const auto bytes = std::make_unique<char[]>(8);
  const volatile size_t at = 8;
  sink = sink + static_cast<size_t>(bytes[at]);
});
const bool leak = add_fault("leak", [](const fs::path& file) {
  sink = sink + reinterpret_cast<size_t>(std::malloc(read_bytes(file).size() + 1)) % 2;
});
const bool not_utf8 = add_fault(
    "not_utf8", [](const fs::path& file) { throw std::runtime_error(file.string() + ": \xff"); });
const bool long_message = add_fault("long_message", [](const fs::path& file) {
  throw std::runtime_error(file.string() + std::string(100000, 'a'));
});
const bool refused =
    add_target({.name = "self_refused",
                .file = "input.txt",
                .seeds = [](const fs::path& f) { write_seed(f, 0, "input.txt", "good"); },
                .run = [](const fs::path& f) { throw std::runtime_error("not " + f.string()); }});
const bool good = add_fault(
    "good", [](const fs::path& file) { throw std::runtime_error("cannot read " + file.string()); });

}  // namespace
}  // namespace cbq::fuzz

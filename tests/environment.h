// A variable of the environment for the length of a test.
#pragma once

#include <cstdlib>

namespace cbq {

/// Sets it while it lives; unset afterwards.
class Environment {
 public:
  Environment(const char* name, const char* value) : name_(name) { ::setenv(name, value, 1); }
  ~Environment() { ::unsetenv(name_); }
  Environment(const Environment&) = delete;
  Environment& operator=(const Environment&) = delete;

 private:
  const char* name_;
};

}  // namespace cbq
